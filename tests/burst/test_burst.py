"""More than fits, from everybody at once: caps hold, no request fails, and what is not kept is counted."""

import itertools
import time

from burst.traffic import BUDGET_BYTES, MIB, NVME_BYTES, OBJECT_BYTES, OBJECTS, SLACK_BYTES, SlowReaders, Traffic, at_once
from harness.wait import wait_for
from harness.watch import Watch

READERS = 24


def test_what_a_burst_of_new_files_leaves_out_is_counted_by_cause(own):
    """Each file is one page and read once: kept, evicted since, or refused."""
    traffic = Traffic(own, "bucket")
    failures = at_once(16, lambda client: [traffic.get(f"page/{n}", MIB) for n in range(client, OBJECTS, 16)])
    assert not failures, failures[:3]
    fetched = own.metrics().total("forebay_cache_fetches_total")

    def accounted() -> bool:
        metrics = own.metrics()
        kept = metrics.total("forebay_cache_disk_contents", tier="nvme")
        evicted = metrics.total("forebay_cache_evictions_total", tier="nvme")
        refused = metrics.total("forebay_cache_refusals_total")
        print(f"\n   {fetched:.0f} pages fetched: {kept:.0f} kept, {evicted:.0f} evicted, {refused:.0f} refused")
        return fetched == kept + evicted + refused

    wait_for(accounted, 10, "every page to be accounted for, once the disk has caught up")
    assert own.metrics().total("forebay_cache_refusals_total") > 0


def test_budgets_hold_while_everybody_wants_more_than_fits(own, request):
    traffic = Traffic(own, "bucket")
    end = time.monotonic() + request.config.getoption("--burst-seconds")
    served = itertools.count()

    def client(number: int) -> None:
        for step in itertools.count():
            if time.monotonic() > end:
                return
            act(traffic, number, step)
            next(served)

    keys = [f"pages/{number}" for number in range(64)]
    with Watch(own.process.pid, own.directory / "cache") as watch, SlowReaders(traffic, keys) as readers:
        failures = at_once(READERS + 8, client)
    metrics = own.metrics()
    read, written = (metrics.total("forebay_client_bytes_total", direction=way) / MIB for way in ("read", "write"))
    causes = {labels["tier"] + " " + labels["cause"]: int(value) for name, labels, value in metrics.samples
              if name == "forebay_cache_refusals_total" and value}  # fmt: skip
    print(f"\n   {next(served)} requests, {read:.0f} MiB read, {written:.0f} written; {watch}; refused {causes}")
    assert not failures, failures[:3]
    readers.check()
    assert watch.peak_rss_anon_bytes <= BUDGET_BYTES + SLACK_BYTES
    assert watch.peak_disk_bytes <= NVME_BYTES


def act(traffic: Traffic, number: int, step: int) -> None:
    """Most clients read what is cold; the others write, through each frontend, and list."""
    if number < READERS:
        traffic.get(f"pages/{(number * 31 + step * 17) % OBJECTS}", OBJECT_BYTES)
    elif number % 4 == 0:
        traffic.put(f"put/{number}", 24 * MIB)
    elif number % 4 == 1:
        traffic.put_parts(f"parts/{number}", 2, 8 * MIB)
    elif number % 4 == 2:
        traffic.create(f"created/{number}", 8 * MIB)
    elif traffic.gateway.mountpoint:
        traffic.write_file(f"file-{number}", 8 * MIB)
        traffic.read_file(f"file-{number}", 8 * MIB)
    else:
        traffic.listing()
