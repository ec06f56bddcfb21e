"""The stores that gateways mount in tests: real servers, one class each, by the name that tests and reports use.

A new one: a subclass of `Store` in a module of its own, and a line in `STORES`.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from harness.stores.azblob import AzblobStore
from harness.stores.gcs import GcsStore
from harness.stores.hdfs import HdfsStore
from harness.stores.http import HttpStore
from harness.stores.local import FsStore, MemoryStore
from harness.stores.s3 import MotoStore, S3Store, VersityStore
from harness.stores.store import Store

STORES: dict[str, type[Store]] = {
    "fs": FsStore,
    "memory": MemoryStore,
    "s3": S3Store,
    "versitygw": VersityStore,
    "moto": MotoStore,
    "azblob": AzblobStore,
    "gcs": GcsStore,
    "http": HttpStore,
    "hdfs": HdfsStore,
}

# Starting HDFS takes a while: only parts that ask for it have it.
if not os.environ.get("FOREBAY_TOOL_HDFS"):
    del STORES["hdfs"]

# One of each kind that a gateway mounts.
SERVED = {name: store for name, store in STORES.items() if name not in ("versitygw", "moto")}


class Stores:
    """One running server of each store that a test asked for, until the run ends."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.running: dict[str, Store] = {}

    def __getitem__(self, name: str) -> Store:
        if name not in self.running:
            self.running[name] = STORES[name](self.directory / name)
        return self.running[name]

    def __iter__(self) -> Iterator[Store]:
        return iter(self.running.values())

    def stop(self) -> None:
        for store in self:
            store.stop()
