"""The one table of parts. CI_LIMIT_S bounds the sum of the budgets of the CI tier, installs included."""

from collections.abc import Callable
from dataclasses import dataclass

from runner import gate
from runner.execute import Context, pytest
from runner.outcome import Outcome

CI_LIMIT_S = 65 * 60
INSTALL_BUDGET_S = 15 * 60

CI = "ci"
ALL = "all"


@dataclass(frozen=True)
class Part:
    """One named piece of the suite. `tiers`: where it runs unasked. `tools`: what must be located first."""

    name: str
    about: str
    budget_s: int
    tiers: tuple[str, ...]
    tools: tuple[str, ...]
    run: Callable[[Context], Outcome]


def suite(*paths: str, options: tuple[str, ...] = ()) -> Callable[[Context], Outcome]:
    return lambda context: pytest(context, *paths, options=options)


GATEWAY = ("forebay", "s3-server")
LIGHT = ("azurite", "fake-gcs-server", "versitygw", "nginx")
HDFS = ("hdfs", "java")
PRINTED = ("-s",)  # figures, seeds and counts are part of what these parts are for

PARTS = (
    Part("style", "crate DAG, limits of the code's style; the runner and the harness themselves", 70, (CI, ALL), (), suite("style", "runner", "harness")),
    Part("lint", "cargo fmt and clippy", 220, (CI, ALL), (), gate.lint),
    Part("unit", "cargo test of the workspace", 480, (CI, ALL), (), gate.unit),
    Part("interleavings", "small worlds of the cache and the namespace under thousands of orders of their steps", 600, (ALL,), (), gate.interleavings),
    Part("docs", "cargo doc without warnings", 90, (CI, ALL), (), gate.docs),
    Part("deps", "licenses, bans, sources, unused crates", 30, (CI, ALL), ("cargo-deny", "cargo-machete"), gate.dependencies),
    Part("s3", "the S3 frontend and its clients, per store", 120, (CI, ALL), (*GATEWAY, "rclone"), suite("s3")),
    Part("webhdfs", "the WebHDFS frontend and its clients, per store", 60, (CI, ALL), GATEWAY, suite("webhdfs")),
    Part("spark", "Spark 3.5 over webhdfs://, per store", 90, (CI, ALL), (*GATEWAY, "pyspark", "java"), suite("spark")),
    Part("fuse", "the FUSE mount, per store", 120, (CI, ALL), (*GATEWAY, "getfattr", "git"), suite("fuse")),
    Part("model", "random operations through three frontends, calm and through faults", 290, (CI, ALL), (*GATEWAY, *LIGHT, *HDFS), suite("model", options=PRINTED)),
    Part("hdfs", "what only HDFS has, what it keeps of the promises, and the model on it", 600, (ALL,), (*GATEWAY, *HDFS), suite("hdfs", "stores/test_conformance.py", "model/test_model.py", options=(*PRINTED, "-k", "hdfs"))),
    Part("faults", "kill -9, disk full, restarts, bursts", 200, (CI, ALL), GATEWAY, suite("faults", "burst/test_burst.py", options=("--ignore-glob=*test_disk_faults.py",))),
    Part("disk-faults", "cache disks that fail, fill up, hang or turn read-only under load", 600, (ALL,), GATEWAY, suite("faults/test_disk_faults.py")),
    Part("crash", "20 kills at random moments under mixed writes, some with what was not fsynced lost", 150, (CI,), (*GATEWAY, "azurite", *HDFS), suite("crash", options=PRINTED)),
    Part("crash-long", "the same, 200 times", 2400, (ALL,), (*GATEWAY, "azurite", *HDFS), suite("crash", options=(*PRINTED, "--rounds=200"))),
    Part("burst", "memory and disk under every load, and for ten minutes under all of them", 1500, (), (*GATEWAY, "forebay-release"), suite("burst", options=(*PRINTED, "--burst-release", "--burst-seconds=600"))),
    Part("stores", "what every store keeps of the promises, and what is seen from outside", 480, (CI, ALL), (*GATEWAY, *LIGHT), suite("stores/test_conformance.py", "stores/test_http.py", "stores/test_outside.py", options=PRINTED)),
    Part("store-faults", "every store behind the fault proxy, and unplugged", 900, (ALL,), (*GATEWAY, *LIGHT, *HDFS), suite("stores", options=(*PRINTED, "--ignore-glob=*test_conformance.py"))),
    Part("large", "objects of more than 5 GiB, per store", 1800, (ALL,), (*GATEWAY, *LIGHT, *HDFS), suite("stores/test_conformance.py", options=(*PRINTED, "--large"))),
    Part("matrix", "writes README's matrix of stores", 600, (), (*GATEWAY, *LIGHT, *HDFS), suite("stores/test_conformance.py", options=(*PRINTED, "--write-matrix"))),
    Part("operate", "CLI, copies, reloads, health, metrics, dashboards, TLS, secrets", 360, (CI, ALL), (*GATEWAY, "azurite", "prometheus", "promtool", "openssl", "curl"), suite("operate")),
    Part("bench", "speed ratios from interleaved runs", 900, (), ("forebay", "forebay-release", "s3-server", "nginx", "wrk", "fio"), suite("bench/test_fuse.py", "bench/test_http.py", "bench/test_idle.py", "s3/test_single_flight.py", options=PRINTED)),
    Part("bench-stores", "cold reads over a slow link, a hung store among ten, copies, HDFS against Hadoop's client", 1800, (), ("forebay-release", "s3-server", "azurite", "rclone", "curl", *HDFS), suite("bench/test_cold.py", "bench/test_isolation.py", "bench/test_copies.py", "bench/test_hdfs.py", options=PRINTED)),
    Part("bench-metadata", "look-ups and listings of 1,000,000 objects out of the metadata store, beside MinIO's own", 1800, (), ("forebay-release", "s3-server", "wrk"), suite("bench/test_metadata.py", options=(*PRINTED, "--objects=1000000"))),
    Part("bench-writeback", "writes acknowledged by the journal against by the store, and written through against the store itself", 600, (), ("forebay-release", "s3-server", "wrk", "curl"), suite("bench/test_writeback.py", "bench/test_put.py", options=PRINTED)),
    Part("training", "what a training loop over twice the disk tier hits, through S3 and FUSE", 240, (CI, ALL), GATEWAY, suite("bench/test_training.py", options=PRINTED)),
    Part("hitratio", "hit ratios against libCacheSim and Belady, from replayed traces", 600, (), ("libcachesim", "traces", "replay"), suite("bench/test_hitratio.py", options=PRINTED)),
    Part("bench-cache", "what hits cost beside a bare pread and beside foyer", 900, (), ("cache-speed",), suite("bench/test_cache.py", options=PRINTED)),
    Part("baselines", "pass counts of foreign suites, no gate", 600, (ALL,), (*GATEWAY, "pjdfstest", "fsx", "curl"), suite("baselines", options=PRINTED)),
)  # fmt: skip


def tier(name: str) -> list[Part]:
    return [part for part in PARTS if name in part.tiers]
