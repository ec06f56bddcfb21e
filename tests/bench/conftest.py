"""The release binary with caches large enough to hold what is measured."""

import os

import pytest
from harness.gateway import Gateway, settings
from harness.tool import tool

MIB = 1 << 20


def pytest_addoption(parser):
    parser.addoption("--objects", type=int, default=100_000, help="how many objects are looked up and listed")


@pytest.fixture(scope="session")
def bucket(store):
    return store.bucket("bench")


@pytest.fixture(scope="session")
def bench(tmp_path_factory, store, bucket):
    directory = tmp_path_factory.mktemp("bench")
    (directory / "disk").mkdir()
    mounts = {
        "/disk": {"store": "fs", "options": {"root": str(directory / "disk")}},
        "/bucket": store.mount(bucket, cache={"revalidate": "1h"}),
    }
    cache = {"memory": {"size": "512MiB"}, "nvme": {"size": "4GiB", "directory": str(directory / "var" / "cache")}}
    gateway = Gateway(directory, settings(directory, mounts, cache=cache), binary=tool("forebay-release")).start()
    yield gateway
    gateway.stop()


@pytest.fixture(scope="session")
def files(bench, store, bucket):
    """4 KiB, 64 MiB and 1 GiB of noise on the fs mount; the first two in the S3 store as well."""
    made = {}
    for name, size in (("small", 4096), ("large", 64 * MIB), ("huge", 1024 * MIB)):
        made[name] = bench.directory / "disk" / name
        with made[name].open("wb") as target:
            for at in range(0, size, 16 * MIB):
                target.write(os.urandom(min(16 * MIB, size - at)))
        if name != "huge":
            store.client.put_object(Bucket=bucket, Key=name, Body=made[name].read_bytes())
    return made
