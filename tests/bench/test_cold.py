"""A cold object through each frontend from a store at 200 MB/s and 20 ms, against the best parallel reader of the same link.

As clients do it, the file is looked at (HEAD, GETFILESTATUS, stat) before it is read; the look is not in the figures.
First bytes are those of cold objects of 16 MiB, each beside one that came without the gateway. Small files are read one after
the other in the order of their directory, as `tar` and the first epoch of many trainings do it, against the same GETs sent to
the store one after the other.
"""

import os
import shutil
import statistics
import time
from collections.abc import Callable

import pytest
from bench.figures import verdict
from bench.link import Links
from bench.reader import Read, Reader, parallel
from boto3.s3.transfer import TransferConfig
from harness.gateway import Gateway, settings
from harness.s3 import Credentials, client
from harness.stores.s3 import ACCESS_KEY, SECRET_KEY
from harness.tool import has_fuse, machine, tool

MIB = 1 << 20
SIZE = 1024 * MIB
RATE_PER_S = 200e6
LATENCY_S = 0.020
ROUNDS = 3
STARTS = 20
START_SIZE = 16 * MIB
SMALL_FILES = 500
SMALL_SIZE = 64 << 10
IDEAL_READERS = (4, 8, 16)
IDEAL_PART = 8 * MIB
FIRST_BYTE_LIMIT_MS = 3.0


@pytest.fixture(scope="module")
def link(store):
    links = Links(store.endpoint, bytes_per_s=RATE_PER_S, latency_s=LATENCY_S)
    yield links.endpoints[0]
    links.stop()


@pytest.fixture(scope="module")
def cold(store, tmp_path_factory):
    """The bucket of one object of 1 GiB and of those whose start is measured."""
    bucket = store.bucket("cold")
    path = tmp_path_factory.mktemp("noise") / "cold"
    with path.open("wb") as target:
        for _ in range(SIZE // (16 * MIB)):
            target.write(os.urandom(16 * MIB))
    store.client.upload_file(str(path), bucket, "cold", Config=TransferConfig(multipart_chunksize=64 * MIB))
    path.unlink()
    for number in range(SMALL_FILES):
        store.put(bucket, f"small/{number:04}", os.urandom(SMALL_SIZE))
    for number in range(STARTS):
        store.put(bucket, f"start{number}", os.urandom(START_SIZE))
    return bucket


@pytest.fixture(scope="module")
def direct(link, cold):
    """The URL of an object at the far end of the link."""
    s3 = client(link, Credentials(ACCESS_KEY, SECRET_KEY))
    return lambda key: s3.generate_presigned_url("get_object", {"Bucket": cold, "Key": key}, ExpiresIn=86400)


@pytest.fixture(scope="module")
def ideal(direct) -> float:
    """Seconds of the best parallel reader."""
    print("\n-- ideal reader: ranged GETs of 8 MiB through the same link")
    best = {}
    for readers in IDEAL_READERS:
        runs = [parallel(direct("cold"), SIZE, IDEAL_PART, readers) for _ in range(ROUNDS)]
        best[readers] = statistics.median(runs)
        print(f"   {readers:2} readers: {', '.join(f'{run:.3f} s' for run in runs)}", flush=True)
    return min(best.values())


def through_s3(gateway: Gateway, key: str) -> Read:
    s3 = gateway.s3()
    s3.head_object(Bucket="bucket", Key=key)
    return kept(s3.generate_presigned_url("get_object", {"Bucket": "bucket", "Key": key}, ExpiresIn=3600))


def through_webhdfs(gateway: Gateway, key: str) -> Read:
    hdfs = gateway.webhdfs()
    hdfs.status(f"/bucket/{key}")
    return kept(hdfs.step("GET", f"/bucket/{key}", "OPEN").headers["Location"])


def kept(url: str) -> Read:
    """Over a connection that stands already, as pools of clients have them."""
    reader = Reader(url)
    reader.connect()
    try:
        return reader.get(url)
    finally:
        reader.close()


def through_fuse(gateway: Gateway, key: str) -> Read:
    path = gateway.mountpoint / "bucket" / key
    path.stat()
    buffer = memoryview(bytearray(MIB))
    began = time.monotonic()
    with path.open("rb", buffering=0) as file:
        size = file.readinto(buffer[:4096])
        first_byte_s = time.monotonic() - began
        while moved := file.readinto(buffer):
            size += moved
    return Read(size, first_byte_s, time.monotonic() - began)


FRONTENDS = {"s3": through_s3, "webhdfs": through_webhdfs, "fuse": through_fuse}


@pytest.fixture
def fresh(store, link, cold, tmp_path):
    """Starts gateways that have nothing cached, one after the other."""
    running = []

    def start() -> Gateway:
        directory = tmp_path / f"gateway-{len(running)}"
        mounts = {"/bucket": store.mount(cold, endpoint=link, cache={"revalidate": "1h"})}
        cache = {"memory": {"size": "256MiB"}, "nvme": {"size": "4GiB", "directory": str(directory / "var" / "cache")}}
        gateway = Gateway(directory, settings(directory, mounts, cache=cache), binary=tool("forebay-release"))
        running.append(gateway)
        return gateway.start()

    yield start
    for gateway in running:
        gateway.stop()


@pytest.fixture(params=list(FRONTENDS))
def frontend(request):
    if request.param == "fuse":
        machine(has_fuse(), "no /dev/fuse, or not root")
    return request.param


def test_cold_gib(frontend, fresh, ideal):
    print(f"\n-- cold 1 GiB through {frontend} at {RATE_PER_S / 1e6:.0f} MB/s and {LATENCY_S * 1e3:.0f} ms")
    walls = []
    for number in range(ROUNDS):
        gateway = fresh()
        cpu = gateway.process.cpu_seconds()
        read = FRONTENDS[frontend](gateway, "cold")
        cpu = gateway.process.cpu_seconds() - cpu
        fetched = gateway.metrics().total("forebay_backend_bytes_total", mount="/bucket", direction="read")
        gateway.stop()
        shutil.rmtree(gateway.directory / "var")
        assert read.size_bytes == SIZE
        walls.append(read.total_s)
        print(
            f"   round {number + 1}: {read.total_s:.3f} s, gateway CPU {cpu:.2f} s a GiB, {fetched / SIZE:.3f} bytes fetched a byte",
            flush=True,
        )
    verdict(f"speed through {frontend}, forebay ÷ ideal", ideal / statistics.median(walls), 0.9, at_most=False)


def test_first_byte(frontend, fresh, direct):
    gateway = fresh()
    FRONTENDS[frontend](gateway, "start0")
    kept(direct("start0"))
    alone, through = [], []
    for number in range(1, STARTS):
        alone.append(kept(direct(f"start{number}")).first_byte_s * 1e3)
        through.append(FRONTENDS[frontend](gateway, f"start{number}").first_byte_s * 1e3)
    print(f"\n-- first byte of {STARTS - 1} cold objects of 16 MiB, in ms")
    for name, runs in (("direct", alone), (frontend, through)):
        print(f"   {name:8} {' '.join(f'{run:.1f}' for run in runs)}", flush=True)
    later = statistics.median(through) - statistics.median(alone)
    verdict(f"first byte through {frontend}, later by ms", later, FIRST_BYTE_LIMIT_MS)


def small_through_fuse(gateway: Gateway, key: str) -> int:
    with (gateway.mountpoint / "bucket" / key).open("rb", buffering=0) as file:
        return len(file.read())


def small_reader(gateway: Gateway, frontend: str) -> Callable[[str], int]:
    """Reads a file whole; how long it was."""
    s3, hdfs = gateway.s3(), gateway.webhdfs()
    return {
        "s3": lambda key: len(s3.get_object(Bucket="bucket", Key=key)["Body"].read()),
        "webhdfs": lambda key: len(hdfs.open(f"/bucket/{key}").value),
        "fuse": lambda key: small_through_fuse(gateway, key),
    }[frontend]


def rate(read: Callable[[str], int]) -> float:
    """Files a second."""
    began = time.monotonic()
    for number in range(SMALL_FILES):
        assert read(f"small/{number:04}") == SMALL_SIZE
    return SMALL_FILES / (time.monotonic() - began)


def test_small_files_in_order(frontend, fresh, link, cold):
    alone = client(link, Credentials(ACCESS_KEY, SECRET_KEY))
    direct = rate(lambda key: len(alone.get_object(Bucket=cold, Key=key)["Body"].read()))
    through = rate(small_reader(fresh(), frontend))
    print(f"\n-- {SMALL_FILES} cold files of 64 KiB, one after the other: direct {direct:.0f}/s, {frontend} {through:.0f}/s")
    verdict(f"small files in order through {frontend} ÷ direct", through / direct, 4, at_most=False)
