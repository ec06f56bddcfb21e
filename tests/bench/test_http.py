"""Signed S3 GETs served from the memory tier, against nginx serving the same bytes with sendfile."""

import pytest
from bench.figures import Arm, interleave, verdict, wrk
from harness.nginx import serve_copy

ROUNDS = 5


@pytest.fixture(scope="module")
def nginx(files, tmp_path_factory):
    server = serve_copy(tmp_path_factory.mktemp("nginx"), {f"bucket/{name}": files[name] for name in ("small", "large")})
    yield server
    server.stop()


def arms(bench, nginx, key: str, connections: int, seconds: int) -> list[Arm]:
    presigned = bench.s3().generate_presigned_url("get_object", {"Bucket": "bucket", "Key": key}, ExpiresIn=3600)
    urls = {"forebay": presigned, "nginx": presigned.replace(bench.url("s3"), nginx.url)}
    cpu = {"forebay": bench.process.cpu_seconds, "nginx": nginx.cpu_seconds}
    for url in urls.values():
        wrk(url, connections, 1)  # fills the tiers and the page cache
    return [Arm(name, lambda url=url: wrk(url, connections, seconds), cpu[name]) for name, url in urls.items()]


def cpu_per_request(figures: dict[str, float]) -> float:
    return figures["server_cpu_s"] / figures["requests"]


def test_warm_4_kib_get(bench, nginx):
    result = interleave("warm 4 KiB presigned S3 GET, 16 connections", arms(bench, nginx, "small", 16, 4), ROUNDS)
    for name, figures in result.items():
        print(f"   {name:8} {cpu_per_request(figures) * 1e6:8.1f} µs CPU a request, {figures['per_s']:.0f} requests/s")
    verdict("4 KiB CPU, forebay ÷ nginx", cpu_per_request(result["forebay"]) / cpu_per_request(result["nginx"]), 3.0)


def test_warm_64_mib_get_from_memory(bench, nginx):
    before = bench.metrics()
    result = interleave("warm 64 MiB presigned S3 GET, 2 connections", arms(bench, nginx, "large", 2, 5), ROUNDS)
    after = bench.metrics()
    fetches = after.total("forebay_cache_fetches_total") - before.total("forebay_cache_fetches_total")
    print(f"   page fetches during the runs: {fetches:.0f} (the first run fills 64 pages)")
    for name, figures in result.items():
        print(f"   {name:8} {cpu_per_request(figures) * 1e3:8.2f} ms CPU a GET, {figures['per_s'] * 64:.0f} MiB/s")
    verdict("64 MiB CPU, forebay ÷ nginx", cpu_per_request(result["forebay"]) / cpu_per_request(result["nginx"]), 1.5)
