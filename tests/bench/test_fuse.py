"""Reads through FUSE passthrough against the same files read natively; no figure is given for a fallback."""

import shutil

import pytest
from bench.figures import Arm, drop_caches, fio, interleave, verdict
from harness.tool import has_fuse, machine
from harness.wait import wait_for

ROUNDS = 5
MODES = ("passthrough", "buffered", "direct", "staged")


@pytest.fixture(scope="module", params=["own file of an fs mount", "cached object of an S3 mount"])
def paths(request, bench, files, tmp_path_factory):
    """(native, through FUSE) of the same bytes: an fs mount's own file, or an object that is complete on the cache disk."""
    machine(has_fuse(), "no /dev/fuse, or not root")
    if request.param.startswith("own"):
        return files["huge"], bench.mountpoint / "disk" / "huge"
    native = tmp_path_factory.mktemp("native") / "large"
    shutil.copyfile(files["large"], native)
    through = bench.mountpoint / "bucket" / "large"

    def promoted() -> bool:
        before = opens(bench)["passthrough"]
        through.read_bytes()
        return opens(bench)["passthrough"] > before

    wait_for(promoted, 30, "the promotion of the cached object to passthrough")
    return native, through


def opens(bench) -> dict[str, float]:
    metrics = bench.metrics()
    return {mode: metrics.total("forebay_fuse_opens_total", mode=mode) for mode in MODES}


@pytest.mark.parametrize("temperature", ["warm", "cold"])
@pytest.mark.parametrize("pattern, block", [("read", "1M"), ("read", "4k"), ("randread", "4k")])
def test_passthrough_reads(bench, paths, pattern, block, temperature):
    native, through = paths
    is_cold = temperature == "cold"
    seconds = None if is_cold and pattern == "read" else 3
    size = f"{native.stat().st_size}"
    if not is_cold:
        native.read_bytes(), through.read_bytes()
    before = opens(bench)
    arms = [
        Arm("native", lambda: fio(native, pattern, block, size, seconds), lambda: 0.0),
        Arm("forebay", lambda: fio(through, pattern, block, size, seconds), bench.process.cpu_seconds),
    ]
    result = interleave(f"{temperature} {pattern} {block} of {through}", arms, ROUNDS, drop_caches if is_cold else lambda: None)
    counted = {mode: opens(bench)[mode] - before[mode] for mode in MODES}
    print(f"   opens by mode: {counted}")
    if counted["passthrough"] < ROUNDS or counted["buffered"] or counted["direct"]:
        pytest.fail(f"no passthrough figure: the opens fell back ({counted})", pytrace=False)
    figure = "mib_s" if pattern == "read" else "iops"
    daemon = result["forebay"]["server_cpu_s"] / max(result["forebay"]["gib"], 1e-9)
    print(
        f"   daemon CPU {daemon:.4f} s a GiB; client CPU {result['forebay']['client_cpu_s']:.2f} s, native {result['native']['client_cpu_s']:.2f} s"
    )
    assert result["forebay"]["server_cpu_s"] <= 0.1, "the daemon worked during passthrough reads"
    verdict(
        f"{temperature} {pattern} {block}, forebay ÷ native",
        result["forebay"][figure] / result["native"][figure],
        0.9,
        at_most=False,
    )
