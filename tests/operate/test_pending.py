"""What was acknowledged and is not at its store yet, what came there under another name, and what was lost."""

import json
import time

import pytest
from harness.faults import Hang, Latency, Status
from harness.gateway import SHUTDOWN_DEADLINE_S, Gateway, settings
from harness.wait import wait_for


@pytest.fixture
def back(tmp_path, store, proxy):
    """A gateway with a write-back mount, whose bucket `store` knows by `bucket`; `proxy` lies between."""
    mount = store.mount(store.bucket("pending"), proxy.endpoint, cache={"write": "back"})
    gateway = Gateway(tmp_path, settings(tmp_path, {"/data": mount}, fuse=False)).start()
    yield gateway
    gateway.stop()


def status(gateway) -> dict:
    return json.loads(gateway.cli("status", "--json").stdout)


def test_a_conflict_is_listed_with_both_names_and_its_time(back, store, proxy):
    bucket, hdfs = back.config["mounts"]["/data"]["options"]["bucket"], back.webhdfs()
    assert status(back) == {"pending": [], "conflicts": [], "lost": []}
    assert hdfs.create("/data/d/f", b"base").status == 201
    back.cli("flush")
    with proxy.fault(Status(503), method="PUT"):
        assert hdfs.append("/data/d/f", b", and ours").status == 200
        assert [write["path"] for write in status(back)["pending"]] == ["/data/d/f"]
        store.put(bucket, "d/f", b"theirs")
    wait_for(lambda: not status(back)["pending"], 30, "the upload")
    (conflict,) = status(back)["conflicts"]
    assert conflict["path"] == "/data/d/f"
    assert conflict["beside"].startswith("/data/d/f.conflict-")
    assert conflict["at"].startswith("20")
    assert store.get(bucket, "d/f") == b"theirs"
    assert store.get(bucket, conflict["beside"].removeprefix("/data/")) == b"base, and ours"
    text = back.cli("status").stdout.decode()
    assert f"/data/d/f was changed at its store; what was acknowledged is {conflict['beside']}" in text


def test_a_lost_file_is_reported_and_holds_up_nothing(back, store, proxy):
    bucket, s3 = back.config["mounts"]["/data"]["options"]["bucket"], back.s3()
    with proxy.fault(Status(503), method="PUT"):
        for name in ("lost", "kept"):
            s3.put_object(Bucket="data", Key=name, Body=name.encode() * 20_000)
        (pending,) = (back.directory / "var").rglob("pending")
        (lost,) = [path for path in pending.iterdir() if path.read_bytes().startswith(b"lost")]
        lost.unlink()
    wait_for(lambda: not status(back)["pending"], 30, "the upload")
    (found,) = status(back)["lost"]
    assert (found["path"], found["size_bytes"]) == ("/data/lost", 80_000)
    assert found["cause"] == f"{lost} is gone"
    assert "lost  /data/lost" in back.cli("status").stdout.decode()
    assert (store.get(bucket, "kept"), store.get(bucket, "lost")) == (b"kept" * 20_000, None)
    assert back.metrics().total("forebay_writeback_lost_total", mount="/data") == 1


def test_uploads_that_have_begun_are_finished_at_the_end_and_what_remains_is_said(back, store, proxy):
    bucket, s3 = back.config["mounts"]["/data"]["options"]["bucket"], back.s3()
    with proxy.fault(Latency(2), method="PUT", path=".*begun"), proxy.fault(Status(503), method="PUT", path=".*refused"):
        for name in ("begun", "refused"):
            s3.put_object(Bucket="data", Key=name, Body=name.encode())
        wait_for(lambda: [write for write in status(back)["pending"] if write["attempts"]], 30, "a refusal")
        back.stop()
        assert (store.get(bucket, "begun"), store.get(bucket, "refused")) == (b"begun", None)
    assert "acknowledged and not at the store; the next start brings it there" in back.log.read_text()
    back.start()
    assert back.cli("flush").returncode == 0
    assert store.get(bucket, "refused") == b"refused"


def test_an_upload_that_hangs_does_not_hold_up_the_end(back, store, proxy):
    bucket = back.config["mounts"]["/data"]["options"]["bucket"]
    with proxy.fault(Hang(), method="PUT") as hung:
        back.s3().put_object(Bucket="data", Key="hung", Body=b"kept")
        wait_for(lambda: hung.hits, 30, "the upload to begin")
        begun = time.monotonic()
        back.stop()
        assert time.monotonic() - begun < SHUTDOWN_DEADLINE_S
    back.start()
    assert back.cli("flush").returncode == 0
    assert store.get(bucket, "hung") == b"kept"


def test_that_writes_wait_for_the_store_is_said_once_and_that_they_do_no_more(tmp_path, store, proxy):
    mount = store.mount(store.bucket("full"), proxy.endpoint, cache={"write": "back"}, limits={"staging": "1MiB"})
    gateway = Gateway(tmp_path, settings(tmp_path, {"/data": mount}, fuse=False)).start()

    def said() -> list[int]:
        log = gateway.log.read_text()
        return [log.count(text) for text in ("writes wait for the store before", "before the store has them again")]

    try:
        s3 = gateway.s3()
        with proxy.fault(Hang(), method="PUT", path="/first"):
            s3.put_object(Bucket="data", Key="first", Body=bytes(400_000))
            for number in range(5):
                s3.put_object(Bucket="data", Key=f"over-{number}", Body=bytes(200_000))
            assert said() == [1, 0]
            assert [write["path"] for write in status(gateway)["pending"]] == ["/data/first"]
        assert gateway.cli("flush").returncode == 0
        for number in range(5):
            s3.put_object(Bucket="data", Key=f"under-{number}", Body=b"x")
        assert said() == [1, 1]
    finally:
        gateway.stop()
