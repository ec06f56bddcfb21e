"""README's table of write modes, cell by cell.

While the store stands still, exactly what the table lets the journal acknowledge is acknowledged. Then the gateway is killed,
and where the table says that the journal is synced the machine loses its power: all of it is there after a restart. What
needs the store is there when it is acknowledged, whatever happens to the gateway.
"""

import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import pytest
from harness.fault_disk import FaultDisk
from harness.gateway import Gateway, settings

README = Path(__file__).resolve().parents[2] / "README.md"
STORE, SYNCED, WRITTEN = "store", "journal, synced", "journal"
OLD, NEW = b"old content\n", b"new content\n"
# While one of them waits for the store the kernel lets nobody look up a name in the directory, and opens wait with it.
HOLD_THE_DIRECTORY = {"FUSE `rename`", "FUSE `unlink`"}
STANDSTILL_S = 2
ANSWER_S = 30
COLUMNS = {
    "`through`, `around`": [{"write": "through"}, {"write": "around"}],
    "`back`, `uploaded`": [{"write": "back", "ack": "uploaded"}],
    "`back`, `nvme-fsync`": [{"write": "back", "ack": "nvme-fsync"}],
    "`back`, `nvme`": [{"write": "back", "ack": "nvme"}],
}


def table() -> dict[str, dict[str, str]]:
    """Where a write is when it is acknowledged, by kind of write and column."""
    lines = README.read_text().partition("| a write is acknowledged in |")[2].splitlines()
    columns = [cell.strip() for cell in lines[0].strip("| ").split("|")]
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines[2 : lines.index("")]]
    return {kind: dict(zip(columns, cells, strict=True)) for kind, *cells in rows}


class Writes:
    """One write of every kind, each to names of its own in the mount `/data`."""

    def __init__(self, gateway: Gateway, prefix: str) -> None:
        self.directory = gateway.mountpoint / "data"
        self.s3, self.hdfs = gateway.s3(), gateway.webhdfs()
        self.kinds: dict[str, Callable[[str], None]] = {
            "S3 `PUT`": self.put,
            "S3 `PUT` with a condition": lambda name: self.put(name, IfMatch=self.etags[name]),
            "S3 `CompleteMultipartUpload`": self.complete,
            "S3 `CopyObject`": self.copy,
            "S3 `DELETE`": lambda name: self.s3.delete_object(Bucket="data", Key=name),
            "WebHDFS `CREATE`": lambda name: answered(201, self.hdfs.create(f"/data/{name}", NEW, overwrite="true")),
            "WebHDFS `APPEND`": lambda name: answered(200, self.hdfs.append(f"/data/{name}", NEW)),
            "WebHDFS `RENAME`": lambda name: answered(200, self.hdfs.rename(f"/data/{name}", f"/data/{name}-moved")),
            "WebHDFS `DELETE`": lambda name: answered(200, self.hdfs.delete(f"/data/{name}")),
            "FUSE `close`": lambda name: (self.directory / name).write_bytes(NEW),
            "FUSE `fsync`": self.fsync,
            "FUSE `rename`": lambda name: (self.directory / name).rename(self.directory / f"{name}-moved"),
            "FUSE `unlink`": lambda name: (self.directory / name).unlink(),
        }
        self.names = {kind: f"{prefix}-{number}" for number, kind in enumerate(self.kinds)}
        self.etags: dict[str, str] = {}

    def prepare(self) -> None:
        """Every name is at the store, and all that the gateway asks the store about it is known."""
        for name in self.names.values():
            self.put(name, OLD)
        for name in self.names.values():
            self.etags[name] = self.s3.head_object(Bucket="data", Key=name)["ETag"]
            answered(200, self.hdfs.open(f"/data/{name}"))
            assert (self.directory / name).read_bytes() == OLD
        key = {"Bucket": "data", "Key": self.names["S3 `CompleteMultipartUpload`"]}
        self.upload = key | {"UploadId": self.s3.create_multipart_upload(**key)["UploadId"]}
        self.part = self.s3.upload_part(**self.upload, PartNumber=1, Body=NEW)["ETag"]

    def put(self, name: str, content: bytes = NEW, **condition) -> None:
        self.s3.put_object(Bucket="data", Key=name, Body=content, **condition)

    def complete(self, _: str) -> None:
        parts = {"Parts": [{"PartNumber": 1, "ETag": self.part}]}
        self.s3.complete_multipart_upload(**self.upload, MultipartUpload=parts)

    def copy(self, name: str) -> None:
        self.s3.copy_object(Bucket="data", Key=f"{name}-moved", CopySource={"Bucket": "data", "Key": name})

    def fsync(self, name: str) -> None:
        """The descriptor is not closed before the end of the test."""
        self.open = os.open(self.directory / name, os.O_WRONLY | os.O_TRUNC)
        os.write(self.open, NEW)
        os.fsync(self.open)

    def begin(self, pool: ThreadPoolExecutor, kinds: set[str]) -> dict[str, Future]:
        return {kind: pool.submit(self.kinds[kind], self.names[kind]) for kind in kinds}

    def check(self, get: Callable[[str], bytes | None], kinds: set[str]) -> None:
        """What `get` finds under the names of these kinds is what their writes made of them."""
        expected = {}
        for kind in kinds:
            name, operation = self.names[kind], kind.split("`")[1].lower()
            old, new = {
                "copyobject": (OLD, OLD), "rename": (None, OLD), "delete": (None, None), "unlink": (None, None),
                "append": (OLD + NEW, None),
            }.get(operation, (NEW, None))  # fmt: skip
            expected |= {name: old, f"{name}-moved": new}
        assert {name: get(name) for name in expected} == expected


def answered(status: int, outcome) -> None:
    assert (outcome.status, outcome.value) != (status, {"boolean": False})
    assert outcome.status == status, outcome


CACHES = [(column, cache) for column, caches in COLUMNS.items() for cache in caches]


@pytest.mark.parametrize(("column", "cache"), CACHES)
def test_a_column_of_the_table(tmp_path, store, column, cache):
    check_column(tmp_path, store, column, cache)


def check_column(tmp_path, store, column: str, cache: dict) -> None:
    cells = {kind: cells[column] for kind, cells in table().items()}
    local = {kind for kind, where in cells.items() if where in (SYNCED, WRITTEN)}
    with FaultDisk(tmp_path / "disk") as disk, ThreadPoolExecutor(len(cells)) as pool:
        bucket = store.bucket("modes")
        mount = store.mount(bucket, cache=cache | {"revalidate": "never"})
        gateway = Gateway(tmp_path, settings(tmp_path, {"/data": mount}, var=str(disk.path / "var"))).start()

        def crash() -> None:
            gateway.kill()
            gateway.clear_mount()
            if WRITTEN not in cells.values():
                disk.lose()

        def prepared(prefix: str) -> Writes:
            writes = Writes(gateway, prefix)
            assert writes.kinds.keys() == cells.keys()
            writes.prepare()
            flushed = gateway.cli("flush")
            assert flushed.returncode == 0, flushed.stderr
            return writes

        try:
            writes = prepared("held")
            store.pause()
            try:
                begun = writes.begin(pool, set(cells) - HOLD_THE_DIRECTORY)
                wait([begun[kind] for kind in local], STANDSTILL_S)
                begun |= writes.begin(pool, HOLD_THE_DIRECTORY)
                time.sleep(STANDSTILL_S)
                acknowledged = {kind for kind, write in begun.items() if write.done() and not write.exception()}
                assert acknowledged == local
                crash()
                wait(begun.values(), ANSWER_S)
            finally:
                store.resume()
            gateway.start()
            flushed = gateway.cli("flush")
            assert flushed.returncode == 0, flushed.stderr
            writes.check(lambda name: store.get(bucket, name), local)

            writes = prepared("done")
            begun = writes.begin(pool, set(cells) - local)
            wait(begun.values(), ANSWER_S)
            crash()
            assert {kind: write.exception() for kind, write in begun.items()} == dict.fromkeys(begun)
            writes.check(lambda name: store.get(bucket, name), set(begun))
        finally:
            gateway.kill()
            gateway.clear_mount()


def test_the_table_names_every_column_and_place():
    for cells in table().values():
        assert cells.keys() == COLUMNS.keys()
        assert set(cells.values()) <= {STORE, SYNCED, WRITTEN}
