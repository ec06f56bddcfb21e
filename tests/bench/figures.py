"""Arms run in turn, their raw figures printed, ratios taken from the medians of one interleaved run."""

import json
import re
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.tool import tool

UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


@dataclass(frozen=True)
class Arm:
    """One server or path under measurement: what to run, and whose CPU time belongs to it."""

    name: str
    run: Callable[[], dict[str, float]]
    cpu_seconds: Callable[[], float]


def interleave(
    title: str, arms: list[Arm], rounds: int, before: Callable[[], None] = lambda: None
) -> dict[str, dict[str, float]]:
    """Runs A B A B …; prints every run; returns the medians by arm and figure, `server_cpu_s` among them."""
    runs: dict[str, list[dict[str, float]]] = {arm.name: [] for arm in arms}
    print(f"\n-- {title}")
    for number in range(rounds):
        for arm in arms:
            before()
            cpu, wall = arm.cpu_seconds(), time.monotonic()
            figures = arm.run()
            figures |= {"server_cpu_s": arm.cpu_seconds() - cpu, "wall_s": time.monotonic() - wall}
            runs[arm.name].append(figures)
            shown = ", ".join(f"{name} {value:.6g}" for name, value in figures.items())
            print(f"   round {number + 1} {arm.name:16} {shown}", flush=True)
    return {name: {key: statistics.median(figures[key] for figures in taken) for key in taken[0]} for name, taken in runs.items()}


def wrk(url: str, connections: int, seconds: int, script: Path | None = None) -> dict[str, float]:
    """Requests, requests/s and median latency of wrk; any non-2xx answer or socket error fails the run."""
    argv = [str(tool("wrk")), "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "--timeout", "20s", url]
    argv += ["-s", str(script)] if script else []
    text = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    assert "Non-2xx" not in text, text
    assert "Socket errors" not in text, text
    requests = int(re.search(r"(\d+) requests in", text)[1])
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1])
    value, unit = re.search(r"50%\s+([\d.]+)(us|ms|s|m)", text).groups()
    return {"requests": requests, "per_s": rate, "p50_ms": float(value) * UNITS[unit] * 1e3}


def fio(path: Path, pattern: str, block: str, size: str, seconds: int | None) -> dict[str, float]:
    """Bandwidth, operations/s and the client's own CPU share; `seconds` None reads the file once."""
    argv = [
        str(tool("fio")), "--name=bench", f"--filename={path}", f"--rw={pattern}", f"--bs={block}", f"--size={size}",
        "--ioengine=psync", "--invalidate=0", "--readonly", "--output-format=json", "--randseed=1",
    ]  # fmt: skip
    argv += ["--time_based", f"--runtime={seconds}"] if seconds else []
    job = json.loads(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)["jobs"][0]
    read = job["read"]
    client = (job["usr_cpu"] + job["sys_cpu"]) / 100 * job["job_runtime"] / 1000
    return {
        "mib_s": read["bw_bytes"] / (1 << 20),
        "iops": read["iops"],
        "gib": read["io_bytes"] / (1 << 30),
        "client_cpu_s": client,
    }


def drop_caches() -> None:
    subprocess.run(["sync"], check=True)
    Path("/proc/sys/vm/drop_caches").write_text("3\n")


def verdict(what: str, value: float, limit: float, at_most: bool = True) -> None:
    """Prints a ratio beside its target and fails when it misses it."""
    met = value <= limit if at_most else value >= limit
    print(f"   => {what}: {value:.3f} (target {'≤' if at_most else '≥'} {limit}): {'met' if met else 'MISSED'}", flush=True)
    assert met, f"{what}: {value:.3f}, target {limit}"
