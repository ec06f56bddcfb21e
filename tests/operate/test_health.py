"""Health, readiness and metrics: what is declared is what is exported, and it counts what happened."""

import re
from pathlib import Path

import pytest
import requests
from harness.metrics import Metrics

ROOT = Path(__file__).resolve().parents[2]
DECLARATION = re.compile(r'^\s*(counter|gauge|ratio|histogram) \w+ "(forebay_\w+)" \[([^\]]*)\]', re.M)

# Series that exist only after their event; every other declared metric is exported by a gateway that has served.
EVENTS = {
    "forebay_actor_degraded", "forebay_actor_restarts_total", "forebay_breaker_open", "forebay_cache_evictions_total",
    "forebay_cache_lent_files", "forebay_cache_refusals_total", "forebay_cache_shadow_hit_ratio", "forebay_commit_observer_timeouts_total",
    "forebay_writeback_uploads_total",
}  # fmt: skip


@pytest.fixture(scope="module")
def declared():
    text = (ROOT / "gateway" / "core" / "src" / "metrics.rs").read_text()
    kinds = {"ratio": "gauge"}
    return {
        name: (kinds.get(kind, kind), set(re.findall(r'"(\w+)"', labels))) for kind, name, labels in DECLARATION.findall(text)
    }


@pytest.fixture
def served(gateway, place):
    """The metrics after one write and one read of each kind."""
    s3, hdfs = gateway.s3(), gateway.webhdfs()
    for number in range(2):
        s3.put_object(Bucket=place.bucket, Key=place.key(f"o{number}"), Body=b"x" * 10_000)
        s3.get_object(Bucket=place.bucket, Key=place.key(f"o{number}"))["Body"].read()
        hdfs.create(place.path(f"w{number}"), b"x" * 10_000)
        hdfs.open(place.path(f"w{number}"))
        if gateway.mountpoint:
            place.file(f"f{number}").write_bytes(b"x" * 10_000)
            place.file(f"f{number}").read_bytes()
    return gateway.metrics()


def family(name: str) -> str:
    return re.sub(r"_(bucket|sum|count)$", "", name)


def test_health_and_readiness_answer_without_credentials(gateway):
    for path in ("healthz", "readyz"):
        answer = requests.get(f"{gateway.url('admin')}/{path}", timeout=5)
        assert answer.status_code == 200, answer.text


def test_every_exported_metric_is_declared_with_its_kind_and_labels(served: Metrics, declared):
    assert declared
    for name, labels, _ in served.samples:
        base = name if name in declared else family(name)
        assert base in declared, f"{name} is not in the table"
        kind, names = declared[base]
        assert served.types[base] == kind
        assert set(labels) - {"le"} == names


def test_every_declared_metric_is_exported_by_a_gateway_that_has_served(served: Metrics, declared, gateway):
    missing = set(declared) - {family(name) for name, _, _ in served.samples} - {name for name, _, _ in served.samples}
    if not gateway.mountpoint:
        missing -= {name for name in missing if name.startswith("forebay_fuse_")}
    assert missing <= EVENTS


def test_requests_and_bytes_are_counted(gateway, place):
    before = gateway.metrics()
    gateway.s3().put_object(Bucket=place.bucket, Key=place.key("o"), Body=b"x" * 12_345)
    gateway.s3().get_object(Bucket=place.bucket, Key=place.key("o"))["Body"].read()
    gateway.webhdfs().open(place.path("o"))
    after = gateway.metrics()

    def grew(name, **labels):
        return after.total(name, **labels) - before.total(name, **labels)

    assert grew("forebay_requests_total", frontend="s3", outcome="ok") == 2
    assert grew("forebay_client_bytes_total", frontend="s3", direction="write") == 12_345
    assert grew("forebay_client_bytes_total", frontend="s3", direction="read") == 12_345
    assert grew("forebay_client_bytes_total", frontend="webhdfs", direction="read") == 12_345
    assert after.total("forebay_requests_in_flight") == 0


def test_a_client_s_mistake_is_not_counted_as_ours(gateway, local):
    before = gateway.metrics()
    with pytest.raises(gateway.s3().exceptions.NoSuchKey):
        gateway.s3().get_object(Bucket=local.bucket, Key=local.key("missing"))
    after = gateway.metrics()
    for outcome, expected in (("client_error", 1), ("server_error", 0)):
        labels = {"frontend": "s3", "outcome": outcome}
        assert after.total("forebay_requests_total", **labels) - before.total("forebay_requests_total", **labels) == expected


def test_a_warm_read_does_not_go_to_the_store(gateway, place_in):
    place = place_in("s3")
    gateway.s3().put_object(Bucket=place.bucket, Key=place.key("o"), Body=b"x" * 3_000_000)
    read = gateway.s3().get_object
    read(Bucket=place.bucket, Key=place.key("o"))["Body"].read()
    before = gateway.metrics()
    read(Bucket=place.bucket, Key=place.key("o"))["Body"].read()
    after = gateway.metrics()
    assert after.total("forebay_cache_fetches_total") == before.total("forebay_cache_fetches_total")
    assert after.total("forebay_cache_hits_total") > before.total("forebay_cache_hits_total")
