"""What hits cost in the shipping cache, beside a bare pread of as many bytes and beside foyer, from one process.

The program is `tests/bench/cache`, a package of its own: foyer is none of the gateway's dependencies. Everything is in
the kernel's page cache, so what is compared is work, not a disk. `kept_percent` is how much of what was filled is there.
"""

import json
import statistics
import subprocess
from collections import defaultdict

import pytest
from bench.figures import verdict
from harness.tool import tool


@pytest.fixture(scope="module")
def cpu() -> dict[tuple[str, str], float]:
    """CPU of one hit in ns, the median of the rounds, by figure and arm."""
    rounds = defaultdict(list)
    done = subprocess.run([tool("cache-speed")], check=True, capture_output=True, text=True)
    for line in done.stdout.splitlines():
        print(f"   {line}", flush=True)
        figure = json.loads(line)
        if "cpu_ns" in figure:
            rounds[figure["figure"], figure["arm"]].append(figure["cpu_ns"])
        else:
            assert figure["arm"] != "forebay" or figure["kept_percent"] == 100, line
    return {key: statistics.median(taken) for key, taken in rounds.items()}


def test_a_memory_hit(cpu):
    verdict("memory hit, ns of CPU", cpu["memory hit", "forebay"], 250)
    verdict("memory hit ÷ foyer", cpu["memory hit", "forebay"] / cpu["memory hit", "foyer"], 1)


@pytest.mark.parametrize("kib, limit", [(4, 3.0), (64, 2.0), (1024, 1.3)])
def test_a_disk_hit(cpu, kib, limit):
    figure = f"disk hit {kib} KiB"
    verdict(f"{figure} ÷ pread", cpu[figure, "forebay"] / cpu[figure, "pread"], limit)
    verdict(f"{figure} ÷ foyer", cpu[figure, "forebay"] / cpu[figure, "foyer"], 1)
