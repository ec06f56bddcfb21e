"""pjdfstest and fsx on the FUSE mount: pass counts, printed. A baseline to compare with, not a gate."""

import re
import subprocess

import pytest
from harness.place import STORES
from harness.tool import has_fuse, machine, tool

PJDFSTEST = """
[features]

[settings]
naptime = 0.02
allow_remount = false

[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"""
SUMMARY = re.compile(r"Summary: (\d+) failed, (\d+) skipped, (\d+) passed")
FSX_SEEDS = range(1, 6)
FSX_OPERATIONS = 1000


@pytest.fixture(params=list(STORES))
def directory(request, place_in):
    machine(has_fuse(), "no /dev/fuse, or not root")
    place = place_in(request.param)
    place.file().mkdir()
    return request.param, place.file()


def test_pjdfstest(directory, tmp_path):
    store, path = directory
    (tmp_path / "pjdfstest.toml").write_text(PJDFSTEST)
    argv = [str(tool("pjdfstest")), "-c", str(tmp_path / "pjdfstest.toml"), "-p", str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=200)
    failed, skipped, passed = map(int, SUMMARY.search(done.stdout).groups())
    groups: dict[str, int] = {}
    for name in re.findall(r"^(\S+)\s+FAILED", done.stdout, re.M | re.I):
        groups[name.split("::")[0]] = groups.get(name.split("::")[0], 0) + 1
    print(f"\nbaseline pjdfstest, {store}: {passed} passed, {failed} failed, {skipped} skipped; failures by group: {groups}")
    assert passed > 0


def test_fsx(directory, tmp_path):
    store, path = directory
    passed, problems = 0, []
    for seed in FSX_SEEDS:
        argv = [str(tool("fsx")), "-N", str(FSX_OPERATIONS), "-S", str(seed), "-P", str(tmp_path), str(path / f"fsx-{seed}")]
        try:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
        except subprocess.TimeoutExpired:
            problems.append(f"seed {seed}: over 60 s")
            continue
        passed += done.returncode == 0
        problems += [f"seed {seed}: {(done.stdout + done.stderr).strip().splitlines()[-1]}"] * (done.returncode != 0)
    print(f"\nbaseline fsx, {store}: {passed} of {len(FSX_SEEDS)} seeds of {FSX_OPERATIONS} operations {problems}")
