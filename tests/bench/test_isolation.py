"""Ten S3 mounts over ten links, one of them hung while clients pile up on it: the other nine must not notice."""

import itertools
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from bench.figures import verdict
from bench.link import Links
from bench.reader import Reader
from harness.gateway import Gateway, settings
from harness.tool import tool

KIB = 1 << 10
MOUNTS = 10
HUNG = MOUNTS - 1
LATENCY_S = 0.005
OBJECT_BYTES = 64 * KIB
LARGE_BYTES = 256 << 20
PER_SECOND = 15  # requests on each mount, as a clock gives them out: a slow answer does not spare the next
SECONDS = 8
ROUNDS = 5
PILED_UP = 64
PAUSE_S = 0.05  # of a piled-up client between two attempts: refusals at once should not burn the machine's CPU


@pytest.fixture(scope="module")
def ten(store, tmp_path_factory):
    links = Links(store.endpoint, MOUNTS, latency_s=LATENCY_S)
    bucket = store.bucket("isolation")
    with ThreadPoolExecutor(16) as pool:
        names = [f"o{number}" for number in range(2 * ROUNDS * SECONDS * PER_SECOND)]
        list(pool.map(lambda name: store.put(bucket, name, name.encode() * (OBJECT_BYTES // len(name))), names))
    for number in range(ROUNDS):
        store.put(bucket, f"large{number}", bytes(LARGE_BYTES))
    directory = tmp_path_factory.mktemp("isolation")
    mounts = {
        f"/mount{i}": store.mount(bucket, endpoint=endpoint, cache={"revalidate": "1h"})
        for i, endpoint in enumerate(links.endpoints)
    }
    cache = {"memory": {"size": "256MiB"}, "nvme": {"enabled": False}}
    config = settings(directory, mounts, fuse=False, cache=cache)
    gateway = Gateway(directory, config, binary=tool("forebay-release")).start()
    yield gateway, links, names
    gateway.stop()
    links.stop()


def url_of(s3, mount: int, key: str) -> str:
    return s3.generate_presigned_url("get_object", {"Bucket": f"mount{mount}", "Key": key}, ExpiresIn=86400)


def paced(urls: list[str]) -> list[float]:
    """Milliseconds of each cold GET, from when it was due."""
    reader, latencies = Reader(urls[0]), []
    began = time.monotonic()
    for number, url in enumerate(urls):
        due = began + number / PER_SECOND
        time.sleep(max(0.0, due - time.monotonic()))
        reader.get(url)
        latencies.append((time.monotonic() - due) * 1e3)
    reader.close()
    return latencies


def load(gateway: Gateway, names: list[str]) -> dict[str, float]:
    """Every mount but the hung one reads `names`, all of them cold."""
    s3 = gateway.s3()
    urls = [[url_of(s3, mount, name) for name in names] for mount in range(MOUNTS) if mount != HUNG]
    with ThreadPoolExecutor(len(urls)) as pool:
        latencies = sorted(itertools.chain(*pool.map(paced, urls)))
    return {
        "requests": len(latencies), "p50_ms": statistics.median(latencies),
        "p99_ms": latencies[len(latencies) * 99 // 100], "worst_ms": latencies[-1],
    }  # fmt: skip


class PiledUp:
    """Clients that want a part each of a large object of the hung mount, again and again, and get nothing."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.stopped = threading.Event()
        self.refused = itertools.count()
        self.threads = [threading.Thread(target=self.work, args=(number,), daemon=True) for number in range(PILED_UP)]
        for thread in self.threads:
            thread.start()

    def work(self, number: int) -> None:
        part = LARGE_BYTES // PILED_UP
        while not self.stopped.is_set():
            reader = Reader(self.url)
            try:
                reader.get(self.url, number * part, (number + 1) * part - 1)
            except OSError:
                next(self.refused)
            reader.close()
            self.stopped.wait(PAUSE_S)

    def stop(self) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join(120)


def shown(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.6g}" for name, value in figures.items())


def test_nine_mounts_beside_a_hung_one(ten):
    gateway, links, names = ten
    per_run = SECONDS * PER_SECOND
    runs = iter([names[at : at + per_run] for at in range(0, len(names), per_run)])
    print(
        f"\n-- {MOUNTS} mounts, {PER_SECOND} cold GETs of 64 KiB a second on each of {MOUNTS - 1}, links of {LATENCY_S * 1e3:.0f} ms"
    )
    well, hung = [], []
    for number in range(ROUNDS):
        well.append(load(gateway, next(runs)))
        print(f"   round {number + 1} all well  {shown(well[-1])}", flush=True)
        gateway.s3().head_object(Bucket=f"mount{HUNG}", Key=f"large{number}")
        with links.frozen(HUNG):
            piled_up = PiledUp(url_of(gateway.s3(), HUNG, f"large{number}"))
            hung.append(load(gateway, next(runs)))
            metrics = gateway.metrics()
        piled_up.stop()
        name = f"/mount{HUNG}"
        held = metrics.total("forebay_cache_fetching_bytes", mount=name) / (1 << 20)
        ahead = metrics.total("forebay_cache_read_ahead_fetches", mount=name)
        is_open = metrics.total("forebay_breaker_open", mount=name)
        print(f"   round {number + 1} one hung  {shown(hung[-1])}")
        print(
            f"            the hung mount held {held:.0f} MiB and {ahead:.0f} read-ahead places in the end, breaker open {is_open:.0f}, "
            f"{next(piled_up.refused)} of its requests refused", flush=True,
        )  # fmt: skip
        gateway.wait_for_metric("forebay_mount_state", 1, deadline_s=30, mount=name, state="ready")
    ratio = statistics.median(figures["p99_ms"] for figures in hung) / statistics.median(figures["p99_ms"] for figures in well)
    verdict("p99 of the nine, one hung ÷ all well", ratio, 1.2)
