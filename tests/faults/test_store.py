"""A store that is gone or hangs costs its own mount only, and comes back by itself."""

import time

import pytest
from harness.gateway import Gateway, settings
from harness.s3 import refused
from harness.stores import S3Store
from harness.wait import wait_for


@pytest.fixture
def fragile(tmp_path_factory):
    server = S3Store(tmp_path_factory.mktemp("fragile"))
    yield server
    server.stop()


@pytest.fixture
def own(tmp_path, fragile):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "f").write_bytes(b"local")
    limits = {"request_deadline": "1s", "attempts": 2}
    mounts = {
        "/disk": {"store": "fs", "options": {"root": str(tmp_path / "disk")}},
        "/bucket": fragile.mount(fragile.bucket("fragile"), limits=limits, cache={"revalidate": "always"}),
    }
    gateway = Gateway(tmp_path, settings(tmp_path, mounts, fuse=False)).start()
    yield gateway
    gateway.stop()


def serves_the_other_mount(gateway):
    started = time.monotonic()
    assert gateway.s3().get_object(Bucket="disk", Key="f")["Body"].read() == b"local"
    assert gateway.webhdfs().open("/disk/f").value == b"local"
    assert time.monotonic() - started < 1


def ready_again(gateway):
    return gateway.s3().get_object(Bucket="bucket", Key="o")["Body"].read() == b"x"


def test_a_store_that_is_gone_is_unavailable_and_comes_back(own, fragile):
    if fragile.forgets:
        pytest.skip("machine: moto forgets its objects")
    own.s3().put_object(Bucket="bucket", Key="o", Body=b"x")
    fragile.stop()
    assert refused(own.s3().get_object, Bucket="bucket", Key="other")[0] in (503, 504)
    assert own.webhdfs().status("/bucket/other").status in (500, 503)
    serves_the_other_mount(own)
    fragile.start()

    def back():
        try:
            return ready_again(own)
        except own.s3().exceptions.ClientError:
            return False

    wait_for(back, 40, "the mount to serve again")


def test_a_store_that_hangs_is_given_up_within_the_deadline(own, fragile):
    own.s3().put_object(Bucket="bucket", Key="o", Body=b"x")
    fragile.pause()
    try:
        started = time.monotonic()
        assert refused(own.s3().get_object, Bucket="bucket", Key="other")[0] in (503, 504)
        assert time.monotonic() - started < 10
        serves_the_other_mount(own)
    finally:
        fragile.resume()


def test_a_bucket_that_does_not_exist_degrades_its_mount_alone(tmp_path, fragile):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "f").write_bytes(b"local")
    mounts = {
        "/disk": {"store": "fs", "options": {"root": str(tmp_path / "disk")}},
        "/bucket": fragile.mount("no-such-bucket"),
    }
    gateway = Gateway(tmp_path, settings(tmp_path, mounts, fuse=False)).start()
    try:
        gateway.wait_for_metric("forebay_mount_state", 1, deadline_s=15, mount="/bucket", state="degraded")
        serves_the_other_mount(gateway)
    finally:
        gateway.stop()
