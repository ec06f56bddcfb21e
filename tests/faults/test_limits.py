"""What one mount gives a slow, stalled or overrun store: limits, repetitions and hedges, each visible as a metric."""

import hashlib
import time

import pytest
from harness.faults import FaultProxy, Latency, Stall, Status, Trickle
from harness.gateway import Gateway, settings
from harness.s3 import refused
from harness.wait import wait_for

MIB = 1 << 20
BODY = hashlib.shake_128(b"limits").digest(3 * MIB)


@pytest.fixture
def mounted(tmp_path, store):
    """Starts a gateway with one mount under the limits given, behind a proxy; gives both, and the store's bucket."""
    proxy = FaultProxy.before(store)
    bucket = store.bucket("limits")
    started = []

    def start(**limits) -> tuple[Gateway, FaultProxy, str]:
        mounts = {"/bucket": store.mount(bucket, endpoint=proxy.endpoint, limits=limits)}
        gateway = Gateway(tmp_path, settings(tmp_path, mounts, fuse=False)).start()
        started.append(gateway)
        gateway.wait_for_metric("forebay_mount_state", 1, mount="/bucket", state="ready")
        return gateway, proxy, bucket

    yield start
    proxy.clear()
    for gateway in started:
        gateway.stop()
    proxy.stop()


def read(gateway: Gateway, key: str) -> tuple[bytes, float]:
    began = time.monotonic()
    body = gateway.s3().get_object(Bucket="bucket", Key=key)["Body"].read()
    return body, time.monotonic() - began


def counted(gateway: Gateway, name: str, **labels: str) -> float:
    return gateway.metrics().total(name, mount="/bucket", **labels)


@pytest.mark.parametrize("fault", [Stall(after=300_000), Trickle(size_bytes=200, pause_s=0.02)], ids=["stall", "trickle"])
def test_a_body_that_falls_behind_is_asked_for_again(mounted, store, fault):
    gateway, proxy, bucket = mounted(stall_window="1s")
    store.put(bucket, "o", BODY)
    proxy.add(fault, method="GET", where=lambda seen: seen.range == f"bytes={MIB}-{2 * MIB - 1}", times=1)
    body, took_s = read(gateway, "o")
    assert body == BODY
    assert 1 <= took_s < 5
    assert counted(gateway, "forebay_retries_total", outcome="sent") == 1


def test_a_hung_store_is_used_again_within_seconds(mounted, store):
    gateway, proxy, bucket = mounted(request_deadline="500ms", attempts=1)
    store.put(bucket, "o", b"x")
    proxy.freeze()
    s3 = gateway.s3()

    def is_open() -> bool:
        return refused(s3.get_object, Bucket="bucket", Key="o") and counted(gateway, "forebay_breaker_open") == 1

    wait_for(is_open, 20, "the breaker to open")
    began = time.monotonic()
    assert refused(s3.get_object, Bucket="bucket", Key="o")[0] == 503
    assert time.monotonic() - began < 0.4, "refused at once"
    proxy.thaw()
    wait_for(lambda: counted(gateway, "forebay_breaker_open") == 0, 7, "the breaker to close")
    assert read(gateway, "o")[0] == b"x"


def test_bandwidth_is_kept(mounted, store):
    gateway, _, bucket = mounted(bandwidth={"read": "1MiB"})
    store.put(bucket, "o", BODY)
    body, took_s = read(gateway, "o")
    assert body == BODY
    assert 1.5 <= took_s < 6
    assert counted(gateway, "forebay_mount_limit_reached_total", limit="bandwidth", outcome="waited") > 0


def test_an_overrun_store_gets_few_repetitions(mounted):
    gateway, proxy, _ = mounted(attempts=3)
    with proxy.fault(Status(429)):
        before = len(proxy.seen)
        for number in range(100):
            assert refused(gateway.s3().get_object, Bucket="bucket", Key=f"o{number}")[0] == 503
    sent = len(proxy.seen) - before
    assert counted(gateway, "forebay_retries_total", outcome="refused") > 0
    assert sent <= 2 * 150, f"{sent} requests for 100 reads of two looks each"


def test_a_late_read_is_hedged(mounted, store):
    gateway, proxy, bucket = mounted(hedge=True)
    # In a directory of its own, so that it is not fetched ahead of its reader.
    store.put(bucket, "apart/late", b"x" * 1000)
    for number in range(319):
        store.put(bucket, f"o{number}", b"x" * 1000)
        read(gateway, f"o{number}")
    proxy.add(Latency(5), method="GET", path="/apart/late", times=1)
    body, took_s = read(gateway, "apart/late")
    assert body == b"x" * 1000
    assert took_s < 2
    assert counted(gateway, "forebay_hedges_total", outcome="won") >= 1
