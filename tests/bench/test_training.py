"""A training loop over more than the disk tier holds: the part of it that fits is hit from the second epoch on, or from
the third where nobody said that it is a data set.

Hits are bytes that needed no store, from /metrics: what was read less what was fetched. The kernel's page cache is kept
out of it, as a data set larger than the memory would.
"""

import json
import os
import random

import pytest
from bench.figures import verdict
from harness.gateway import Gateway, settings
from harness.tool import has_fuse, machine
from harness.wait import wait_for

MEMBER_BYTES = 256 << 10
MEMBERS = 256
SET_BYTES = MEMBERS * MEMBER_BYTES
DISK_BYTES = SET_BYTES // 2
MEMORY_BYTES = 3 << 20  # a few pages: no tier of its own
FRONTENDS = ("s3", "fuse")


@pytest.fixture(scope="module")
def bucket(store):
    name = store.bucket("training")
    for directory in ("first", "second", "unnamed"):
        for number in range(MEMBERS):
            store.put(name, f"{directory}/{number:04}.rec", os.urandom(MEMBER_BYTES))
    return name


@pytest.fixture
def trained(tmp_path, store, bucket):
    cache = {
        "memory": {"size": f"{MEMORY_BYTES}"},
        "nvme": {"size": f"{DISK_BYTES}", "directory": str(tmp_path / "var" / "cache")},
        "high_percent": 99,
        "low_percent": 98,
    }
    config = settings(tmp_path, {"/data": store.mount(bucket, cache={"revalidate": "1h"})}, cache=cache)
    gateway = Gateway(tmp_path, config).start()
    yield gateway
    gateway.stop()


def fetched(gateway) -> float:
    return gateway.metrics().total("forebay_backend_bytes_total", mount="/data", direction="read")


def read(gateway, frontend: str, name: str) -> int:
    if frontend == "s3":
        return len(gateway.s3().get_object(Bucket="data", Key=name)["Body"].read())
    machine(has_fuse(), "no /dev/fuse, or not root")
    with (gateway.mountpoint / "data" / name).open("rb", buffering=0) as file:
        data = file.read(MEMBER_BYTES)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return len(data)


def epoch(gateway, frontend: str, directory: str, seed: int) -> float:
    """One pass in an order of its own; the part of its bytes that needed no store."""
    before = fetched(gateway)
    for number in random.Random(seed).sample(range(MEMBERS), MEMBERS):
        assert read(gateway, frontend, f"{directory}/{number:04}.rec") == MEMBER_BYTES
    wait_for(lambda: gateway.metrics().total("forebay_cache_write_queue") == 0, 30, "the disk to take what it was offered")
    ratio = 1 - (fetched(gateway) - before) / SET_BYTES
    print(f"   {frontend:4} {directory:6} epoch {seed}: {ratio:.4f}", flush=True)
    return ratio


@pytest.mark.parametrize("frontend", FRONTENDS)
def test_half_of_each_epoch_is_hit_from_the_second_one_on(trained, frontend):
    print()
    assert trained.cli("epoch", "/data/first", "on").returncode == 0
    epoch(trained, frontend, "first", 1)
    for number in (2, 3):
        verdict(f"{frontend}, epoch {number}", epoch(trained, frontend, "first", number), 0.48, at_most=False)


@pytest.mark.parametrize("frontend", FRONTENDS)
def test_data_set_that_nobody_named_is_found_by_how_it_is_read(trained, frontend):
    print()
    path = "/data/unnamed/0000.rec"
    for number in (1, 2):
        epoch(trained, frontend, "unnamed", number)
    told = json.loads(trained.cli("explain", path, "--json").stdout)
    assert (told["rule"], told["treatment"]["epoch"], told["treatment"]["epoch_by"]) == ("/data/unnamed", True, "reads")
    assert "epoch (found by how it is read)" in trained.cli("explain", path).stdout.decode()
    for number in (3, 4):
        verdict(f"{frontend}, unnamed, epoch {number}", epoch(trained, frontend, "unnamed", number), 0.46, at_most=False)
    assert trained.cli("epoch", "/data/unnamed", "off").returncode == 0
    assert not json.loads(trained.cli("explain", path, "--json").stdout)["treatment"]["epoch"]
