"""A cache disk that fails, fills up, hangs or turns read-only under load: it costs hits, no request, and is used again by
itself when it is well."""

import hashlib
import itertools
import time

import pytest
from faults.test_cache_disk import DEGRADED, DOWN, OK, SIZES, cache_in, content, fetches, filled, read_all, state, used, warmed
from harness.fault_disk import FaultDisk
from harness.load import Load
from harness.wait import wait_for

MIB = 1 << 20


@pytest.fixture
def disk(tmp_path):
    with FaultDisk(tmp_path / "fault-disk") as disk:
        yield disk


@pytest.fixture
def pair(own, store, disk):
    """A started gateway whose first cache directory lies on the fault disk and whose second does not, both warm."""
    own.config["gateway"]["listeners"]["fuse"]["passthrough"] = False
    a, b = disk.path / "cache", own.directory / "disk-b"
    cache_in(own, a, b)
    filled(own, store)
    own.start()
    warmed(own)
    yield own, a, b
    # Otherwise a gateway that the test left cannot end.
    disk.ok()


def load_on(gateway, store) -> Load:
    """Reads what is cached through each frontend, and what is not yet, which is written to the cache."""
    s3, hdfs, new = gateway.s3(), gateway.webhdfs(), gateway.s3()
    bucket = gateway.config["mounts"]["/bucket"]["options"]["bucket"]
    numbers = itertools.count()

    def by_s3(_: int) -> None:
        for key in SIZES:
            assert s3.get_object(Bucket="bucket", Key=key)["Body"].read() == content(key), key

    def by_webhdfs(_: int) -> None:
        for key in SIZES:
            read = hdfs.open(f"/bucket/{key}")
            assert read.value == content(key), (key, read.status)

    def by_fuse(_: int) -> None:
        for key in SIZES:
            assert (gateway.mountpoint / "bucket" / key).read_bytes() == content(key), key

    def of_new(_: int) -> None:
        key = f"new-{next(numbers)}"
        body = hashlib.shake_128(key.encode()).digest(MIB + 100)
        store.client.put_object(Bucket=bucket, Key=key, Body=body)
        assert new.get_object(Bucket="bucket", Key=key)["Body"].read() == body, key
        new.delete_object(Bucket="bucket", Key=key)

    return Load({"s3": by_s3, "webhdfs": by_webhdfs, "fuse": by_fuse, "new": of_new})


def well_again(gateway, a) -> None:
    wait_for(lambda: state(gateway, a) == OK, 30, "the disk to be used again")


@pytest.mark.parametrize("fault, worst", [("fail", DOWN), ("fail_reads", DEGRADED), ("fail_writes", DOWN), ("read_only", DOWN)])
def test_a_disk_that_fails_costs_no_request_and_comes_back(pair, disk, store, fault, worst):
    gateway, a, b = pair
    load = load_on(gateway, store)
    try:
        load.goes_on()
        getattr(disk, fault)()
        wait_for(lambda: state(gateway, a) >= worst, 30, "the failure to be seen")
        load.goes_on()
        assert state(gateway, b) == OK
        disk.ok()
        well_again(gateway, a)
        load.goes_on()
    finally:
        load.stop()
    assert not load.failures, load.failures[0]
    warmed(gateway)
    assert used(gateway, a) > MIB


def test_a_disk_that_is_full_costs_no_request_and_keeps_what_it_has(pair, disk, store):
    gateway, a, _ = pair
    before = fetches(gateway)
    load = load_on(gateway, store)
    try:
        disk.full()
        refused = gateway.metrics().total("forebay_cache_refusals_total", tier="nvme")
        gateway.wait_for_metric("forebay_cache_refusals_total", refused + 3, deadline_s=30, tier="nvme")
        load.goes_on()
        disk.ok()
        well_again(gateway, a)
        load.goes_on()
    finally:
        load.stop()
    assert not load.failures, load.failures[0]
    assert fetches(gateway) - before <= 2 * load.done["new"] + len(load.threads)
    assert used(gateway, a) > MIB


def test_a_disk_that_hangs_holds_nobody_up_and_keeps_what_it_has(pair, disk, store):
    gateway, a, b = pair
    load = load_on(gateway, store)
    try:
        load.goes_on()
        disk.hang()
        load.goes_on(rounds=2)
        wait_for(lambda: state(gateway, a) == DOWN, 30, "the silence to be heard")
        load.goes_on()
        assert state(gateway, b) == OK
        gateway.s3().put_object(Bucket="bucket", Key="written", Body=bytes(2 * MIB))
        disk.ok()
        well_again(gateway, a)
        load.goes_on()
    finally:
        load.stop()
    assert not load.failures, load.failures[0]
    assert gateway.metrics().total("forebay_actor_restarts_total") == 0
    warmed(gateway)
    assert used(gateway, a) > MIB


def test_a_gateway_whose_cache_disk_hangs_ends(pair, disk):
    gateway, *_ = pair
    disk.hang()
    read_all(gateway)
    gateway.stop()


def test_a_file_that_the_kernel_reads_by_itself_fails_with_its_disk_and_is_well_when_opened_again(own, store, disk):
    cache_in(own, disk.path / "cache")
    filled(own, store)
    own.start()
    warmed(own)
    path = own.mountpoint / "bucket" / "pages-0"
    with path.open("rb") as file:
        assert own.metrics().total("forebay_fuse_opens_total", mode="passthrough") > 0
        disk.fail_reads()
        with pytest.raises(OSError):
            file.read()
    read_all(own)
    wait_for(lambda: state(own, disk.path / "cache") > OK, 10, "the failure to be seen")
    assert path.read_bytes() == content("pages-0")
    disk.ok()
    well_again(own, disk.path / "cache")


def test_a_gateway_that_is_started_with_a_disk_that_hangs_serves_and_takes_it_in_when_it_is_back(pair, disk):
    gateway, a, b = pair
    # What is in the logs is found again.
    wait_for(lambda: (a / "index").exists() and (b / "index").exists(), 10, "both logs")
    gateway.stop()
    disk.hang()
    begun = time.monotonic()
    gateway.start()
    assert time.monotonic() - begun < 10
    assert (state(gateway, a), state(gateway, b)) == (DOWN, OK)
    assert "its disk does not answer" in gateway.log.read_text()
    read_all(gateway)
    gateway.stop()
    # The same with no other disk.
    gateway.config["gateway"]["cache"]["nvme"]["directories"].pop()
    gateway.rewrite()
    gateway.start()
    assert state(gateway, a) == DOWN
    read_all(gateway)
    disk.ok()
    well_again(gateway, a)
    wait_for(lambda: used(gateway, a) > MIB, 10, "what lay there to be found again")
    warmed(gateway)
