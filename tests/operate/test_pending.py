"""What was acknowledged and is not at its store yet, and what came there under another name."""

import json

import pytest
from harness.faults import Status
from harness.gateway import Gateway, settings
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
    assert status(back) == {"pending": [], "conflicts": []}
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
