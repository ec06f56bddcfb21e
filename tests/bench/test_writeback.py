"""Small writes of many writers before a store at 20 ms and 200 MB/s: acknowledged by the journal, against by the store.

Beside it, what the disk allows: 64 KiB appended to one file and synced, one after the other. Concurrent writers share a sync.
"""

import itertools
import os
import time

import pytest
from bench.figures import Arm, interleave, verdict, wrk
from bench.link import Links
from harness.gateway import Gateway, settings
from harness.tool import tool

SIZE = 64 << 10
WRITERS = 32
SECONDS = 3
ROUNDS = 5
NAMES = 40_000
RATE_PER_S = 200e6
LATENCY_S = 0.020
MODES = {
    "through": {"write": "through"},
    "nvme-fsync": {"write": "back", "ack": "nvme-fsync"},
    "nvme": {"write": "back", "ack": "nvme"},
}
# Each request writes a name that none wrote before: what is pending of a name orders what comes after it.
PUT = """
local queries, at = {{}}, 0
for query in io.lines("{queries}") do queries[#queries + 1] = query end
wrk.method = "PUT"
wrk.body = string.rep("forebay!", {size} / 8)
request = function()
  at = at + 1
  return wrk.format(nil, queries[at])
end
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory, store):
    directory = tmp_path_factory.mktemp("writeback")
    links = Links(store.endpoint, bytes_per_s=RATE_PER_S, latency_s=LATENCY_S)
    mounts = {
        f"/{name}": store.mount(
            store.bucket("writeback"), endpoint=links.endpoints[0], cache=mode, limits={"staging_bytes": "16GiB"}
        )
        for name, mode in MODES.items()
    }
    running = Gateway(directory, settings(directory, mounts, fuse=False), binary=tool("forebay-release")).start()
    yield running
    running.stop()
    links.stop()


def synced_appends(directory) -> float:
    """Appends of 64 KiB a second, each synced."""
    piece, count = os.urandom(SIZE), 200
    with (directory / "appended").open("wb", buffering=0) as file:
        began = time.monotonic()
        for _ in range(count):
            file.write(piece)
            os.fdatasync(file.fileno())
        return count / (time.monotonic() - began)


def test_acknowledged_by_the_journal(gateway, tmp_path):
    s3 = gateway.s3()
    numbers = itertools.count()

    def put(mount: str) -> dict[str, float]:
        """The queue of the round before is brought to the store first, so that every round begins alike."""
        flushed = gateway.cli("flush")
        assert flushed.returncode == 0, flushed.stderr
        names = (f"{next(numbers):08}" for _ in range(NAMES // ROUNDS))
        urls = [s3.generate_presigned_url("put_object", {"Bucket": mount, "Key": name}, ExpiresIn=3600) for name in names]
        queries = tmp_path / "queries"
        queries.write_text("\n".join(url.removeprefix(gateway.url("s3")) for url in urls))
        script = tmp_path / "put.lua"
        script.write_text(PUT.format(queries=queries, size=SIZE))
        return wrk(gateway.url("s3"), WRITERS, SECONDS, script) | {"disk_per_s": synced_appends(tmp_path)}

    arms = [Arm(mount, lambda mount=mount: put(mount), gateway.process.cpu_seconds) for mount in MODES]
    result = interleave(
        f"PUT of {SIZE >> 10} KiB, {WRITERS} writers, {RATE_PER_S / 1e6:.0f} MB/s and {LATENCY_S * 1e3:.0f} ms", arms, ROUNDS
    )
    for mount, figures in result.items():
        cpu = figures["server_cpu_s"] / figures["requests"]
        print(
            f"   {mount:11} {figures['per_s']:6.0f} acknowledged a second, median {figures['p50_ms']:.1f} ms, {cpu * 1e6:.0f} µs of CPU each"
        )
    ratio = result["nvme-fsync"]["per_s"] / result["through"]["per_s"]
    verdict("acknowledged a second, nvme-fsync ÷ through", ratio, 5, at_most=False)
