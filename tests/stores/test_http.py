"""HTTP servers as read-only mounts: with and without index pages, with strong versions and with weak ones."""

import os
import random
import sys
import time

import pytest
from botocore.exceptions import BotoCoreError, ClientError
from harness.gateway import Gateway, settings
from harness.process import Process
from harness.s3 import keys
from harness.wait import free_port, wait_for

NAMES = {"x": b"one", "d/y": b"two", "d/e/z z": b"three", "d/ü%20&amp;": b"four"}


@pytest.fixture
def web(tmp_path):
    """The web server of Python's library: index pages, times of change, no ETags."""
    root = tmp_path / "root"
    for name, data in NAMES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    port = free_port()
    argv = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory", root, "--protocol", "HTTP/1.1", port]
    server = Process("http.server", argv, tmp_path / "web.log")
    mounts = {"/web": {"store": "http", "options": {"endpoint": f"http://127.0.0.1:{port}"}, "cache": {"revalidate": "always"}}}
    gateway = Gateway(tmp_path, settings(tmp_path, mounts)).start()
    wait_for(lambda: gateway.metrics().total("forebay_mount_state", mount="/web", state="ready") == 1, 10, "the mount")
    yield root, gateway
    gateway.stop()
    server.stop()


def test_directories_are_read_from_index_pages_through_all_frontends(web):
    _, gateway = web
    s3 = gateway.s3()
    assert keys(s3, "web") == sorted(NAMES)
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket="web", PaginationConfig={"PageSize": 1})
    assert [item["Key"] for page in pages for item in page.get("Contents", [])] == sorted(NAMES)
    assert [item["Prefix"] for item in s3.list_objects_v2(Bucket="web", Delimiter="/")["CommonPrefixes"]] == ["d/"]
    assert gateway.webhdfs().names("/web/d") == ["e/", "y", "ü%20&amp;"]
    for name, data in NAMES.items():
        assert s3.get_object(Bucket="web", Key=name)["Body"].read() == data
        assert gateway.webhdfs().open(f"/web/{name}").value == data
        if gateway.mountpoint:
            assert (gateway.mountpoint / "web" / name).read_bytes() == data


@pytest.mark.parametrize("server", ["python", "nginx"])
def test_a_file_of_many_pages_is_read_whole_and_in_parts(request, stores, tmp_path, server):
    """Python's server takes no ranges, nginx does."""
    data = random.Random(1).randbytes((6 << 20) + 17)
    if server == "python":
        root, gateway = request.getfixturevalue("web")
        (root / "big").write_bytes(data)
    else:
        store = stores["http"]
        bucket = store.bucket("web")
        store.put(bucket, "big", data)
        gateway = Gateway(tmp_path, settings(tmp_path, {"/web": store.mount(bucket)}, fuse=False)).start()
        request.addfinalizer(gateway.stop)
    part = gateway.s3().get_object(Bucket="web", Key="big", Range="bytes=5000000-5000009")["Body"].read()
    assert part == data[5_000_000:5_000_010]
    assert gateway.s3().get_object(Bucket="web", Key="big")["Body"].read() == data


def test_every_change_is_refused_as_on_a_read_only_mount(web):
    _, gateway = web
    s3 = gateway.s3()
    for change in (s3.delete_object, lambda **target: s3.put_object(**target, Body=b"")):
        with pytest.raises(ClientError, match="read-only"):
            change(Bucket="web", Key="x")
    assert gateway.webhdfs().mkdirs("/web/new").status == 403


def test_a_file_that_changes_during_a_read_is_never_mixed(web):
    root, gateway = web
    size = 24 << 20
    now = time.time()
    for round_ in range(4):
        old, new = bytes([round_]) * size, bytes([100 + round_]) * size
        (root / "big").write_bytes(old)
        os.utime(root / "big", (now + 10 * round_, now + 10 * round_))
        body = gateway.s3().get_object(Bucket="web", Key="big")["Body"]
        first = body.read(1 << 20)
        (root / "big.new").write_bytes(new)
        os.utime(root / "big.new", (now + 10 * round_ + 5, now + 10 * round_ + 5))
        (root / "big.new").rename(root / "big")
        try:
            rest = body.read()
        except (BotoCoreError, OSError):
            rest = None
        assert first == old[: 1 << 20]
        assert rest is None or rest == old[1 << 20 :]
        assert gateway.s3().get_object(Bucket="web", Key="big")["Body"].read() == new
