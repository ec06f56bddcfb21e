"""A gateway with one store behind a fault proxy, and a healthy mount beside it."""

import hashlib
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

from harness.exchange import Fault
from harness.faults import FaultProxy
from harness.gateway import Gateway, settings
from harness.stores import Store
from harness.wait import wait_for

REQUEST_DEADLINE_S = 1
ATTEMPTS = 3
# No operation may take longer than this to succeed or fail: a handful of store requests, each of two deadlines at most.
BOUND_S = 12
RECOVERY_S = 20
HEALTHY = b"untouched"

# What other tools read from the environment must not move a mount (OpenDAL reads these unless it is told not to).
FOREIGN = {
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_REGION": "nowhere", "AWS_ACCESS_KEY_ID": "foreign",
    "AWS_SECRET_ACCESS_KEY": "foreign", "AZURE_STORAGE_ACCOUNT": "foreign", "AZURE_STORAGE_KEY": "Zm9yZWlnbg==",
    "AZBLOB_ENDPOINT": "http://127.0.0.1:9", "GOOGLE_APPLICATION_CREDENTIALS": "/nonexistent",
    "STORAGE_EMULATOR_HOST": "http://127.0.0.1:9",
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """How a request ended: with content, or with a status (0 when the connection broke), and after how long."""

    data: bytes | None
    status: int
    took_s: float

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300


class Proxied:
    """`/bucket` is the store behind `proxy` (None for a local one), attributes never trusted; `/healthy` a local directory.

    `always` is a fault that was there before the gateway: what the store is like.
    """

    def __init__(self, directory: Path, store: Store, always: Fault | None = None) -> None:
        self.store = store
        self.numbers = itertools.count(1)
        self.proxy = FaultProxy.before(store) if store.is_remote else None
        self.bucket = store.bucket("faults")
        if always:
            self.proxy.add(always)
        limits = {"request_deadline": f"{REQUEST_DEADLINE_S}s", "attempts": ATTEMPTS}
        (directory / "healthy").mkdir(parents=True)
        (directory / "healthy" / "f").write_bytes(HEALTHY)
        mounts = {
            "/bucket": store.mount(
                self.bucket, self.proxy and self.proxy.endpoint, limits=limits, cache={"revalidate": "always"}
            ),
            "/healthy": {"store": "fs", "options": {"root": str(directory / "healthy")}},
        }
        self.gateway = Gateway(directory, settings(directory, mounts), environment=FOREIGN)
        self.gateway.start()
        self.s3 = self.gateway.s3()
        self.hdfs = self.gateway.webhdfs()

    def stop(self) -> None:
        if self.proxy:
            self.proxy.clear()
        self.gateway.stop()
        self.gateway.clear_mount()
        if self.proxy:
            self.proxy.stop()

    def fresh(self, size_bytes: int = 100_000) -> tuple[str, bytes]:
        """A key and content that no test had before, so that nothing of it is cached."""
        number = next(self.numbers)
        return f"o{number}o", hashlib.shake_128(number.to_bytes(4, "big")).digest(size_bytes)

    def stored(self, size_bytes: int = 100_000) -> tuple[str, bytes]:
        """The same, put into the store behind the gateway's back."""
        key, data = self.fresh(size_bytes)
        self.store.put(self.bucket, key, data)
        return key, data

    def written(self) -> tuple[str, bytes, bytes]:
        """A key with the content it has through the gateway, and another that it may get."""
        key, before = self.fresh(70_000)
        assert self.put(key, before).is_success
        return key, before, self.fresh()[1]

    def file(self, key: str) -> Path:
        return self.gateway.mountpoint / "bucket" / key

    def try_s3(self, call: Callable, **arguments) -> Outcome:
        """One S3 request on the mount and all of its body."""
        started = time.monotonic()
        try:
            answer = call(Bucket="bucket", **arguments)
            data = answer["Body"].read() if "Body" in answer else None
            status = answer["ResponseMetadata"]["HTTPStatusCode"]
        except ClientError as error:
            data, status = None, error.response["ResponseMetadata"]["HTTPStatusCode"]
        except BotoCoreError:
            data, status = None, 0
        return Outcome(data, status, time.monotonic() - started)

    def get(self, key: str, **arguments) -> Outcome:
        return self.try_s3(self.s3.get_object, Key=key, **arguments)

    def put(self, key: str, data: bytes, **arguments) -> Outcome:
        return self.try_s3(self.s3.put_object, Key=key, Body=data, **arguments)

    def serves_the_healthy_mount(self) -> None:
        started = time.monotonic()
        assert self.s3.get_object(Bucket="healthy", Key="f")["Body"].read() == HEALTHY
        assert self.hdfs.open("/healthy/f").value == HEALTHY
        assert time.monotonic() - started < 1

    def recovers(self, key: str, *allowed: bytes | None) -> None:
        """Once every fault is lifted, the mount shows what the store holds again, soon and by itself: one of `allowed`."""
        self.proxy.clear()

        def shows() -> bool:
            held, found = self.store.get(self.bucket, key), self.get(key)
            assert held in allowed, f"the store holds {held and len(held)} bytes"
            return found.status == 404 if held is None else found.data == held

        wait_for(shows, RECOVERY_S, f"{key} to be served again")

    @contextmanager
    def bounded(self, is_isolated: bool = True) -> Iterator[None]:
        """The block takes no longer than it may, and the other mount does not notice."""
        started = time.monotonic()
        yield
        took_s = time.monotonic() - started
        assert took_s < BOUND_S, f"{took_s:.1f} s"
        if is_isolated:
            self.serves_the_healthy_mount()
