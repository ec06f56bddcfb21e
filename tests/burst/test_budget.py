"""One memory budget, one disk budget: what the gateway takes beside its program stays below them under every load."""

import pytest
from burst.traffic import BUDGET_BYTES, MIB, NVME_BYTES, OBJECT_BYTES, OBJECTS, SLACK_BYTES, SlowReaders, Traffic, at_once
from harness.tool import has_fuse, machine
from harness.watch import Watch

CLIENTS = 64


def slow_readers(traffic: Traffic) -> list[str]:
    with SlowReaders(traffic, [f"pages/{number}" for number in range(CLIENTS)]) as readers:
        failures = cold_reads(traffic)
    readers.check()
    return failures


def cold_reads(traffic: Traffic) -> list[str]:
    def work(client: int) -> None:
        for step in range(8):
            traffic.get(f"pages/{(client * 7 + step * 13) % OBJECTS}", OBJECT_BYTES)

    return at_once(CLIENTS, work)


def puts(traffic: Traffic) -> list[str]:
    return at_once(CLIENTS, lambda number: traffic.put(f"put/{number}", 64 * MIB))


def parts(traffic: Traffic) -> list[str]:
    return at_once(16, lambda number: traffic.put_parts(f"parts/{number}", 4, 16 * MIB))


def creates(traffic: Traffic) -> list[str]:
    return at_once(CLIENTS, lambda number: traffic.create(f"created/{number}", 16 * MIB))


def files(traffic: Traffic) -> list[str]:
    machine(has_fuse(), "no /dev/fuse, or not root")
    (traffic.gateway.mountpoint / traffic.bucket / "files").mkdir(exist_ok=True)

    def work(number: int) -> None:
        traffic.write_file(f"files/{number}", 16 * MIB)
        traffic.read_file(f"files/{number}", 16 * MIB)
        traffic.read_file(f"pages/{number}", OBJECT_BYTES)

    return at_once(16, work)


def listings(traffic: Traffic) -> list[str]:
    return at_once(CLIENTS, lambda _: [traffic.listing() for _ in range(20)])


LOADS = (slow_readers, cold_reads, puts, parts, creates, files, listings)


@pytest.mark.parametrize("load", LOADS, ids=lambda load: load.__name__)
def test_memory_and_disk_stay_within_their_budgets(own, load):
    with Watch(own.process.pid, own.directory / "cache") as watch:
        failures = load(Traffic(own, "bucket"))
    print(f"\n   {load.__name__}: {watch}; {len(failures)} failed")
    assert not failures, failures[:3]
    assert watch.peak_rss_anon_bytes <= BUDGET_BYTES + SLACK_BYTES
    assert watch.peak_disk_bytes <= NVME_BYTES
