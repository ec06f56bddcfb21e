"""However many readers wait for a cold object, each of its pages is fetched once."""

import hashlib
import itertools
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness.faults import FaultProxy
from harness.gateway import Gateway, settings

MIB = 1 << 20
BODY = hashlib.shake_128(b"single flight").digest(6 * MIB + 1000)
READERS = 100


@pytest.fixture
def counted(tmp_path, store):
    proxy = FaultProxy(store.endpoint)
    bucket = store.bucket("flight")
    store.client.put_object(Bucket=bucket, Key="cold", Body=BODY)
    mounts = {"/bucket": store.mount(bucket, endpoint=proxy.endpoint)}
    gateway = Gateway(tmp_path, settings(tmp_path, mounts)).start()
    yield gateway, proxy
    gateway.stop()
    proxy.stop()


def fetched(proxy) -> list[tuple[int, int]]:
    """(first, last) byte of each GET of the object, in order of offset; a GET without a range asked for all of it."""
    spans = []
    for seen in proxy.gets("cold"):
        first, last = re.fullmatch(r"bytes=(\d+)-(\d+)", seen.range or f"bytes=0-{len(BODY) - 1}").groups()
        spans.append((int(first), min(int(last), len(BODY) - 1)))
    return sorted(spans)


def assert_each_byte_was_fetched_once(proxy) -> None:
    spans = fetched(proxy)
    print(f"\nsingle flight: {READERS} readers of {len(BODY)} bytes: {len(spans)} GETs at the store")
    assert sum(last - first + 1 for first, last in spans) == len(BODY), spans
    assert all(before[1] < after[0] for before, after in itertools.pairwise(spans)), spans


def test_readers_over_s3_share_one_fetch_per_page(counted):
    gateway, proxy = counted
    s3 = gateway.s3()
    with ThreadPoolExecutor(READERS) as pool:
        bodies = set(pool.map(lambda _: s3.get_object(Bucket="bucket", Key="cold")["Body"].read(), range(READERS)))
    assert bodies == {BODY}
    assert_each_byte_was_fetched_once(proxy)


def test_readers_through_all_frontends_share_one_fetch_per_page(counted):
    gateway, proxy = counted
    s3, hdfs = gateway.s3(), gateway.webhdfs()
    reads = [lambda: s3.get_object(Bucket="bucket", Key="cold")["Body"].read(), lambda: hdfs.open("/bucket/cold").value]
    if gateway.mountpoint:
        reads.append((gateway.mountpoint / "bucket" / "cold").read_bytes)
    with ThreadPoolExecutor(24) as pool:
        bodies = set(pool.map(lambda number: reads[number % len(reads)](), range(24)))
    assert bodies == {BODY}
    assert_each_byte_was_fetched_once(proxy)


def test_a_reader_that_leaves_cancels_nobody_else(counted):
    gateway, proxy = counted
    s3 = gateway.s3()
    with ThreadPoolExecutor(16) as pool:
        leaving = [pool.submit(lambda: s3.get_object(Bucket="bucket", Key="cold")["Body"].close()) for _ in range(8)]
        staying = [pool.submit(lambda: s3.get_object(Bucket="bucket", Key="cold")["Body"].read()) for _ in range(8)]
        for left in leaving:
            left.result()
        assert {stayed.result() for stayed in staying} == {BODY}
    assert_each_byte_was_fetched_once(proxy)
