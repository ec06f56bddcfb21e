"""What every store of the tests offers, whichever server it is."""

import itertools
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import requests

from harness.process import Process
from harness.wait import free_port

READY_DEADLINE_S = 60


class Store(ABC):
    """A server on a free loopback port with its data in `directory`, seen from the gateway's side and from outside.

    `kind` is the word of mounts.yaml. `forgets`: a restarted server has lost its objects. `is_read_only`: a gateway
    cannot write to it, only `put` can. `is_remote`: there is a server to stop, and an endpoint. `can_list`: through a
    gateway; from outside, `keys` always can. A bucket is what the store calls one: a bucket, a container, a directory.
    """

    kind: ClassVar[str]
    forgets: ClassVar[bool] = False
    is_read_only: ClassVar[bool] = False
    is_remote: ClassVar[bool] = True
    can_list: ClassVar[bool] = True
    signs_host: ClassVar[bool] = True
    health: ClassVar[str] = "/"

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.numbers = itertools.count(1)
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        (directory / "data").mkdir(parents=True)
        self.start()

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @abstractmethod
    def argv(self) -> list:
        """The server's command line."""

    def environment(self) -> dict[str, str]:
        return {}

    def start(self) -> None:
        """Also after `stop`: same port, same data unless the store forgets."""
        log = self.directory / "store.log"
        self.process = Process(type(self).__name__, self.argv(), log, env=os.environ | self.environment(), cwd=self.directory)
        self.process.ready(self._answers, READY_DEADLINE_S)

    def _answers(self) -> bool:
        return requests.get(self.endpoint + self.health, timeout=2).status_code < 500

    def stop(self) -> None:
        self._go_on()
        self.process.stop()

    def pause(self) -> None:
        """The server keeps its connections and takes new ones, and answers nothing."""
        self.process.pause()

    def resume(self) -> None:
        """Returns when the server answers again."""
        self._go_on()
        self.process.ready(self._answers, READY_DEADLINE_S)

    def _go_on(self) -> None:
        self.process.resume()

    def bucket(self, purpose: str) -> str:
        """A bucket of its own for each caller; its name."""
        name = f"{purpose}-{next(self.numbers)}"
        self.make_bucket(name)
        return name

    @abstractmethod
    def make_bucket(self, name: str) -> None: ...

    @abstractmethod
    def mount(self, bucket: str, endpoint: str | None = None, **extra) -> dict:
        """The entry of mounts.yaml that serves `bucket`; `endpoint` when a proxy stands between."""

    @abstractmethod
    def put(self, bucket: str, key: str, data: bytes) -> None:
        """Stores an object behind every gateway's back."""

    @abstractmethod
    def get(self, bucket: str, key: str) -> bytes | None:
        """What the store really holds; None for no such object."""

    @abstractmethod
    def delete(self, bucket: str, key: str) -> None: ...

    @abstractmethod
    def keys(self, bucket: str) -> list[str]:
        """Every key that the store lists, sorted."""

    @staticmethod
    @abstractmethod
    def error(status: int) -> tuple[dict[str, str], bytes]:
        """Headers and body with which this kind of store says 429, 500 or 503."""
