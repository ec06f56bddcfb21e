"""Gateways killed at random moments under mixed writes, some of them with a power failure that takes what was not
fsynced: nothing that was acknowledged is lost, nothing is invented.

`--rounds` and FOREBAY_CRASH_SEED set the run.
"""

import json
import os
import random
import secrets
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from crash.owner import UNPROMISED, Content, Contents, Owner, fsync
from harness.fault_disk import FaultDisk
from harness.gateway import Gateway, settings
from harness.s3 import keys
from harness.stores import SERVED, Store, Stores
from harness.stores.local import FsStore
from harness.wait import wait_for

SEED = int(os.environ.get("FOREBAY_CRASH_SEED") or secrets.randbelow(1_000_000))
OWNERS = 5
LIFE_MAX_S = 1.5


@dataclass(frozen=True)
class Kind:
    """A kind of store, how it is written, and whether the machine loses its power with each kill."""

    store: str
    write: str
    loses_power: bool = False

    def __str__(self) -> str:
        return f"{self.store} {self.write}{' power' if self.loses_power else ''}"


KINDS = [
    Kind("s3", "back nvme-fsync", loses_power=True),
    Kind("s3", "back nvme-fsync"),
    Kind("fs", "through", loses_power=True),
    Kind("azblob", "back nvme-fsync"),
    Kind("hdfs", "back nvme-fsync"),
    Kind("s3", "through"),
    Kind("hdfs", "through"),
    Kind("fs", "through"),
    Kind("azblob", "through"),
    Kind("s3", "back nvme"),
]
KINDS = [kind for kind in KINDS if kind.store in SERVED]


class Scene:
    """A gateway over one mount of a store, its writers, and what they find after a crash."""

    def __init__(self, directory, stores: Stores, kind: Kind, chance: random.Random) -> None:
        self.chance, self.ends = chance, ExitStack()
        self.disk = self.ends.enter_context(FaultDisk(directory / "disk")) if kind.loses_power else None
        here = self.disk.path if self.disk else directory
        self.store: Store = FsStore(here / "store") if kind.store == "fs" else stores[kind.store]
        self.bucket = self.store.bucket("crash")
        mode, _, ack = kind.write.partition(" ")
        cache = {"write": mode, "revalidate": "always"} | ({"ack": ack} if ack else {})
        mount = self.store.mount(self.bucket, **({} if kind.store == "fs" else {"cache": cache}))
        config = settings(directory, {"/data": mount}, var=str(here / "var"))
        self.gateway = Gateway(directory, config)
        self.ends.callback(self.end)
        self.owners = [Owner(self.gateway, "data", n, chance.randrange(1 << 32), kind.store) for n in range(OWNERS)]
        if kind.store == "fs":
            self.make_directories()

    def make_directories(self) -> None:
        """Those that the owners write to, there for good."""
        root = self.store.data / self.bucket
        for owner in self.owners:
            (root / owner.directory).mkdir()
        for directory in (root, *list(root.parents)[: len(root.relative_to(self.gateway.directory).parts) - 1]):
            fsync(directory)

    def end(self) -> None:
        self.gateway.kill()
        self.gateway.clear_mount()

    def live(self) -> None:
        """One life of the gateway: it starts, is written to, and is killed."""
        self.gateway.start()
        done = sum(sum(owner.done.values()) for owner in self.owners)
        for owner in self.owners:
            owner.begin()
        wait_for(lambda: sum(sum(owner.done.values()) for owner in self.owners) > done + OWNERS, 60, "some writes")
        time.sleep(self.chance.uniform(0, LIFE_MAX_S))
        for owner in self.owners:
            owner.is_killed.set()
        self.gateway.kill()
        for owner in self.owners:
            owner.end()
        self.gateway.clear_mount()
        if self.disk:
            self.disk.lose()

    def read(self, name: str) -> Content:
        s3 = self.gateway.s3()
        try:
            return s3.get_object(Bucket="data", Key=name)["Body"].read()
        except s3.exceptions.NoSuchKey:
            return None

    def look(self) -> Contents:
        return {name: self.read(name) for owner in self.owners for name in owner.names}

    def verify(self) -> None:
        """What readers see at once, what they see when all is at the store, and what the store has are the same."""
        self.gateway.start()
        at_once = self.look()
        flushed = self.gateway.cli("flush")
        assert flushed.returncode == 0, flushed.stderr
        assert json.loads(self.gateway.cli("status", "--json").stdout)["pending"] == []
        for owner in self.owners:
            owner.verify({name: at_once[name] for name in owner.names})
        for owner in self.owners:
            owner.verify({name: self.store.get(self.bucket, name) for name in owner.names})
        names = {name for name, content in at_once.items() if content is not None}
        listed = {key for key in keys(self.gateway.s3(), "data") if not key.endswith(UNPROMISED)}
        assert listed == names, "something else is listed"
        self.gateway.stop()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: str(kind).replace(" ", "-"))
def test_kills_lose_nothing_and_invent_nothing(pytestconfig, stores, tmp_path, kind):
    # Every kind gets its share of the rounds, the first ones the rest.
    rounds = len(range(KINDS.index(kind), pytestconfig.getoption("--rounds"), len(KINDS)))
    scene = Scene(tmp_path, stores, kind, random.Random(f"{SEED} {kind}"))
    with scene.ends:
        try:
            for _ in range(rounds):
                scene.live()
                scene.verify()
        except AssertionError as problem:
            pytest.fail(f"seed {SEED}: {problem}")
        finally:
            done = sum((owner.done for owner in scene.owners), Counter())
            counted = ", ".join(f"{name} {count}" for name, count in sorted(done.items()))
            print(f"\ncrash: seed {SEED}, {kind}: {rounds} kills; acknowledged: {counted}", flush=True)
