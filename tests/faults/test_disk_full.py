"""Full disks: the cache's costs nothing but hits, staging's refuses the write and recovers."""

import hashlib
import os
import subprocess

import pytest
from harness.s3 import keys, refused
from harness.tool import machine
from harness.wait import wait_for

MIB = 1 << 20


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 24 MiB."""
    machine(os.geteuid() == 0, "mounting a tmpfs needs root")
    directory = tmp_path / "small"
    directory.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", directory], capture_output=True)
    machine(done.returncode == 0, "no tmpfs may be mounted")
    yield directory
    subprocess.run(["umount", "-l", directory], check=True)


def content(number: int) -> bytes:
    return hashlib.shake_128(str(number).encode()).digest(4 * MIB)


def test_a_full_cache_disk_serves_from_the_store(small_disk, own, store):
    """The configured cap is larger than the disk: what does not fit is not cached, and nobody notices."""
    own.config["gateway"]["cache"] = {
        "memory": {"size": "8MiB"}, "nvme": {"size": "1GiB", "directory": str(small_disk / "cache")},
    }  # fmt: skip
    own.rewrite().start()
    bucket = own.config["mounts"]["/bucket"]["options"]["bucket"]
    for number in range(16):
        store.client.put_object(Bucket=bucket, Key=str(number), Body=content(number))
    s3 = own.s3()
    for _ in range(2):
        for number in range(16):
            assert s3.get_object(Bucket="bucket", Key=str(number))["Body"].read() == content(number)
    assert own.metrics().total("forebay_cache_refusals_total", tier="nvme") > 0
    assert s3.put_object(Bucket="bucket", Key="still-writes", Body=b"x")["ResponseMetadata"]["HTTPStatusCode"] == 200


def test_full_staging_refuses_the_write_and_recovers(small_disk, own):
    own.config["gateway"]["var"] = str(small_disk / "var")
    own.config["gateway"]["cache"] = {"memory": {"size": "16MiB"}}
    own.rewrite().start()
    s3 = own.s3()
    s3.put_object(Bucket="bucket", Key="kept", Body=b"before")
    for key in ("new", "kept"):
        status, code = refused(s3.put_object, Bucket="bucket", Key=key, Body=os.urandom(48 * MIB))
        assert status >= 500, code
    assert keys(s3, "bucket") == ["kept"]
    assert s3.get_object(Bucket="bucket", Key="kept")["Body"].read() == b"before"
    wait_for(lambda: own.metrics().total("forebay_staging_used_bytes") == 0, 10, "the refused write's bytes to be freed")
    s3.put_object(Bucket="bucket", Key="fits", Body=content(1))
    assert s3.get_object(Bucket="bucket", Key="fits")["Body"].read() == content(1)


def test_a_cache_that_is_smaller_than_an_object_serves_it_whole(own, store):
    own.config["gateway"]["cache"] = {
        "memory": {"size": "4MiB"}, "nvme": {"size": "8MiB", "directory": str(own.directory / "var" / "cache")},
    }  # fmt: skip
    own.rewrite().start()
    bucket = own.config["mounts"]["/bucket"]["options"]["bucket"]
    body = hashlib.shake_128(b"large").digest(40 * MIB)
    store.client.put_object(Bucket=bucket, Key="large", Body=body)
    for _ in range(2):
        assert own.s3().get_object(Bucket="bucket", Key="large")["Body"].read() == body
    metrics = own.metrics()
    for tier in ("memory", "nvme"):
        assert metrics.total("forebay_cache_used_bytes", tier=tier) <= metrics.total("forebay_cache_capacity_bytes", tier=tier)
