"""kill -9 and start again: nothing half-written is visible in any frontend, nothing acknowledged is lost, no leftovers."""

import hashlib
import socket
import threading
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import BotoCoreError, ClientError
from harness.gateway import OWNER
from harness.s3 import RawS3, keys
from harness.wait import wait_for

MIB = 1 << 20
WHOLE = hashlib.shake_128(b"whole").digest(2 * MIB)
MOUNTS = ["disk", "bucket"]


def leftovers(directory: Path) -> list[str]:
    """Regular files that hold bytes, below a directory."""
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file() and path.stat().st_size)


def half_sent(address: str, head: str) -> socket.socket:
    """A request whose body stops in the middle, with the connection left open."""
    host, port = address.split(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    connection.sendall(head.encode() + WHOLE[: len(WHOLE) // 2])
    return connection


def half_put(gateway, mount: str, key: str) -> socket.socket:
    raw = RawS3(gateway.url("s3"), OWNER)
    headers = raw.sign("PUT", f"/{mount}/{key}", "", {}, "UNSIGNED-PAYLOAD") | {"content-length": str(len(WHOLE))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return half_sent(gateway.address("s3"), f"PUT /{mount}/{key} HTTP/1.1\r\n{lines}\r\n")


def half_create(gateway, mount: str, key: str) -> socket.socket:
    location = urlsplit(gateway.webhdfs().step("PUT", f"/{mount}/{key}", "CREATE", overwrite="true").headers["Location"])
    head = f"PUT {location.path}?{location.query} HTTP/1.1\r\nHost: {location.netloc}\r\nContent-Length: {len(WHOLE)}\r\n\r\n"
    return half_sent(gateway.address("webhdfs"), head)


def staged_bytes(gateway) -> float:
    return gateway.metrics().total("forebay_staging_used_bytes")


@pytest.mark.parametrize("mount", MOUNTS)
def test_half_written_content_is_never_visible_after_a_crash(own, tmp_path, mount):
    own.start()
    s3, hdfs = own.s3(), own.webhdfs()
    s3.put_object(Bucket=mount, Key="kept", Body=WHOLE)
    s3.put_object(Bucket=mount, Key="overwritten", Body=WHOLE)
    connections = [
        half_put(own, mount, "new-by-s3"), half_put(own, mount, "overwritten"), half_create(own, mount, "new-by-webhdfs"),
    ]  # fmt: skip
    wait_for(lambda: own.metrics().total("forebay_requests_in_flight") >= 3, 10, "the half-sent requests to arrive")
    own.kill()
    for connection in connections:
        connection.close()
    own.start()
    assert keys(s3, mount) == ["kept", "overwritten"]
    assert hdfs.names(f"/{mount}") == ["kept", "overwritten"]
    for key in ("kept", "overwritten"):
        assert s3.get_object(Bucket=mount, Key=key)["Body"].read() == WHOLE
        assert hdfs.open(f"/{mount}/{key}").value == WHOLE
    if own.mountpoint:
        assert sorted(entry.name for entry in (own.mountpoint / mount).iterdir()) == ["kept", "overwritten"]
    assert [name for name in leftovers(tmp_path / "disk") if name not in ("kept", "overwritten")] == []
    assert staged_bytes(own) == 0


@pytest.mark.parametrize("mount", MOUNTS)
def test_an_upload_in_progress_survives_and_its_bytes_go_with_it(own, mount):
    own.start()
    s3 = own.s3()
    upload = {"Bucket": mount, "Key": "big"}
    upload["UploadId"] = s3.create_multipart_upload(**upload)["UploadId"]
    tag = s3.upload_part(**upload, PartNumber=1, Body=WHOLE)["ETag"]
    own.kill()
    own.start()
    assert keys(s3, mount) == []
    assert [part["ETag"] for part in s3.list_parts(**upload)["Parts"]] == [tag]
    assert staged_bytes(own) >= len(WHOLE)
    s3.abort_multipart_upload(**upload)
    wait_for(lambda: staged_bytes(own) == 0, 10, "the aborted upload's bytes to be freed")


def test_what_fuse_fsynced_survives_a_crash(own):
    own.start()
    if not own.mountpoint:
        pytest.skip("machine: no /dev/fuse, or not root")
    for mount in MOUNTS:
        with (own.mountpoint / mount / "closed").open("wb") as target:
            target.write(WHOLE)
    own.kill()
    own.start()
    for mount in MOUNTS:
        assert (own.mountpoint / mount / "closed").read_bytes() == WHOLE
        assert own.s3().get_object(Bucket=mount, Key="closed")["Body"].read() == WHOLE


class Writers:
    """Threads that put numbered objects until they are told to stop or lose the gateway."""

    def __init__(self, gateway, mount: str, label: str, known: dict[str, bytes]) -> None:
        self.gateway, self.mount, self.label = gateway, mount, label
        self.acknowledged = dict(known)
        self.attempted = {key: {body} for key, body in known.items()}
        self.stopped = threading.Event()
        self.threads = [threading.Thread(target=self.write, args=(worker,)) for worker in range(3)]
        for thread in self.threads:
            thread.start()

    def write(self, worker: int) -> None:
        s3 = self.gateway.s3()
        for number in range(10_000):
            if self.stopped.is_set():
                return
            key = f"{worker}/{number % 20}"
            body = f"{self.label} {worker} {number} ".encode() * 5000
            self.attempted.setdefault(key, set()).add(body)
            try:
                s3.put_object(Bucket=self.mount, Key=key, Body=body)
            except (BotoCoreError, ClientError):
                return
            self.acknowledged[key] = body

    def attempts(self) -> int:
        return sum(map(len, list(self.attempted.values())))

    def stop(self) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join(30)


@pytest.mark.parametrize("mount", MOUNTS)
def test_a_crash_under_load_loses_nothing_acknowledged_and_tears_nothing(own, tmp_path, mount):
    """Three rounds: the gateway is killed in the middle of writes; what it acknowledged is there, and all of it is whole."""
    known: dict[str, bytes] = {}
    for number in range(3):
        own.start()
        writers = Writers(own, mount, f"round {number}", known)
        wait_for(partial(lambda writers, goal: writers.attempts() > goal, writers, len(known) + 30), 20, "some writes")
        own.kill()
        writers.stop()
        own.start()
        visible = keys(own.s3(), mount)
        assert set(writers.acknowledged) <= set(visible)
        for key in visible:
            known[key] = own.s3().get_object(Bucket=mount, Key=key)["Body"].read()
            assert known[key] in writers.attempted[key], f"{key} is torn: {len(known[key])} bytes"
        own.stop()
    if mount == "disk":
        assert leftovers(tmp_path / "disk") == sorted(known)


def test_a_second_start_does_not_disturb_the_first(own):
    """The same ports and directories are taken: the second ends with a message, the first serves on."""
    own.start()
    own.s3().put_object(Bucket="disk", Key="o", Body=WHOLE)
    second = own.cli("serve")
    assert second.returncode != 0
    assert second.stderr.strip()
    assert own.s3().get_object(Bucket="disk", Key="o")["Body"].read() == WHOLE
    if own.mountpoint:
        assert (own.mountpoint / "disk" / "o").read_bytes() == WHOLE
