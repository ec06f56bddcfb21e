"""Look-ups and listings of one directory of many objects, out of the metadata store, with MinIO behind it.

The objects are MinIO's own but for their number: the first is PUT, the others are its directory again, with a hard link to
its file, in which MinIO keeps no name. `--objects` says how many. For what ten times as many entries take, a stand-in answers
the listings: nothing else is asked of it.
"""

import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from bench.figures import Arm, drop_caches, interleave, verdict, wrk
from harness.gateway import Gateway, settings
from harness.s3 import Credentials, client
from harness.stores.s3 import ACCESS_KEY, SECRET_KEY
from harness.tool import has_fuse, machine, tool
from harness.watch import Watch, rss_anon_bytes

MIB = 1 << 20
DIRECTORY = "d"
ROUNDS = 5
PAGE = 1000
CONNECTIONS = 4
SECONDS = 3
LOOKED_UP = 50_000
LOOK_UPS_A_CPU_SECOND = 40_000
GROWTH_LIMIT_MIB = 20
DISK_LIMIT_BYTES = 120
MEMORY_LIMIT_BYTES = 16


def name(number: int) -> str:
    return f"{number:08}.parquet"


@pytest.fixture(scope="module")
def count(request) -> int:
    return request.config.getoption("--objects")


@pytest.fixture(scope="module")
def bucket(store, count) -> str:
    made = store.bucket("many")
    store.put(made, f"{DIRECTORY}/{name(0)}", b"row group")
    directory = store.data / made / DIRECTORY
    (first,) = (directory / name(0)).iterdir()
    for number in range(1, count):
        (directory / name(number)).mkdir()
        os.link(first, directory / name(number) / first.name)
    return made


@pytest.fixture(scope="module")
def listed(tmp_path_factory, store, bucket, count) -> Iterator[Gateway]:
    """Everything was listed once, from the store."""
    directory = tmp_path_factory.mktemp("listed")
    mounts = {"/many": store.mount(bucket, cache={"revalidate": "never"})}
    gateway = Gateway(directory, settings(directory, mounts), binary=tool("forebay-release")).start()
    before = rss_anon_bytes(gateway.process.pid)
    cpu = gateway.process.cpu_seconds()
    with Watch(gateway.process.pid, directory / "var" / "metadata") as watch:
        assert s3_names(gateway) == count
    took = gateway.process.cpu_seconds() - cpu
    print(f"\n-- {count} objects listed for the first time, {took / count * 1e6:.1f} µs of CPU each; {watch}")
    gateway.stop()
    gateway.start()
    print(f"   RssAnon {before / MIB:.1f} MiB before, {rss_anon_bytes(gateway.process.pid) / MIB:.1f} after and a restart")
    yield gateway
    gateway.stop()


def direct(store):
    return client(store.endpoint, Credentials(ACCESS_KEY, SECRET_KEY))


def s3_names(gateway: Gateway) -> int:
    pages = gateway.s3().get_paginator("list_objects_v2").paginate(Bucket="many", Prefix=f"{DIRECTORY}/")
    return sum(page["KeyCount"] for page in pages)


def webhdfs_names(gateway: Gateway) -> int:
    """The whole directory in one answer, read as it comes."""
    with gateway.webhdfs().session as session:
        url = f"{gateway.url('webhdfs')}/webhdfs/v1/many/{DIRECTORY}?op=LISTSTATUS&user.name=root"
        with session.get(url, stream=True, timeout=600) as answer:
            answer.raise_for_status()
            return sum(piece.count(b'.parquet"') for piece in answer.iter_lines(MIB, delimiter=b","))


def batches(gateway: Gateway) -> int:
    after, found = "", 0
    while True:
        answer = gateway.webhdfs().outcome("GET", f"/many/{DIRECTORY}", "LISTSTATUS_BATCH", startAfter=after).value
        part = answer["DirectoryListing"]["partialListing"]["FileStatuses"]["FileStatus"]
        found += len(part)
        if not answer["DirectoryListing"]["remainingEntries"]:
            return found
        after = part[-1]["pathSuffix"]


def fuse_names(gateway: Gateway) -> int:
    return sum(1 for _ in os.scandir(gateway.mountpoint / "many" / DIRECTORY))


def page_url(s3, bucket: str, start: int) -> str:
    """Of the page that begins at an entry."""
    request = {"Bucket": bucket, "Prefix": f"{DIRECTORY}/", "MaxKeys": PAGE}
    request |= {"StartAfter": f"{DIRECTORY}/{name(start - 1)}"} if start else {}
    return s3.generate_presigned_url("list_objects_v2", request, ExpiresIn=3600)


def keys(url: str) -> int:
    answer = requests.get(url, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.text.count("<Key>")


class Listing(BaseHTTPRequestHandler):
    """Pages of ListObjectsV2 over `count` names; the last part of a token is the number that comes next."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        after = query.get("continuation-token", query.get("start-after", [""]))[0]
        start = int(after.rpartition("/")[2].partition(".")[0]) + 1 if after else 0
        end = min(start + PAGE, self.server.count)
        self.server.asked += 1
        items = "".join(
            f"<Contents><Key>{DIRECTORY}/{name(number)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>&quot;{number:032x}&quot;</ETag><Size>{number}</Size></Contents>"
            for number in range(start, end)
        )
        more = f"<NextContinuationToken>{DIRECTORY}/{name(end - 1)}</NextContinuationToken>" if end < self.server.count else ""
        is_truncated = str(bool(more)).lower()
        body = f"<ListBucketResult><IsTruncated>{is_truncated}</IsTruncated>{more}{items}</ListBucketResult>".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_) -> None:
        pass


def listing_server(count: int) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Listing)
    server.count, server.asked, server.endpoint = count, 0, f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def script(directory: Path, text: str) -> Path:
    (directory / "wrk.lua").write_text(text)
    return directory / "wrk.lua"


def rate(what: str, figures: dict[str, float]) -> None:
    verdict(
        f"{what} a second of the gateway's CPU",
        figures["requests"] / figures["server_cpu_s"],
        LOOK_UPS_A_CPU_SECOND,
        at_most=False,
    )


def test_head(listed, tmp_path):
    where = {"Bucket": "many", "Key": f"{DIRECTORY}/{name(1)}"}
    url = listed.s3().generate_presigned_url("head_object", where, ExpiresIn=3600)
    lua = script(tmp_path, 'wrk.method = "HEAD"\n')
    arm = Arm("forebay", lambda: wrk(url, CONNECTIONS, SECONDS, lua), listed.process.cpu_seconds)
    rate("HEAD", interleave("presigned HEAD", [arm], ROUNDS)["forebay"])


def test_getfilestatus(listed):
    url = f"{listed.url('webhdfs')}/webhdfs/v1/many/{DIRECTORY}/{name(1)}?op=GETFILESTATUS&user.name=root"
    arm = Arm("forebay", lambda: wrk(url, CONNECTIONS, SECONDS), listed.process.cpu_seconds)
    rate("GETFILESTATUS", interleave("GETFILESTATUS", [arm], ROUNDS)["forebay"])


def test_stat(listed, count):
    """Of names that the kernel does not know."""
    machine(has_fuse(), "no /dev/fuse, or not root")
    numbers = iter(range(count))
    directory = str(listed.mountpoint / "many" / DIRECTORY)

    def stat() -> dict[str, float]:
        asked = min(LOOKED_UP, count // ROUNDS)
        for _ in range(asked):
            os.stat(f"{directory}/{name(next(numbers))}")
        return {"requests": asked}

    arm = Arm("forebay", stat, listed.process.cpu_seconds)
    rate("stat", interleave("stat of new names", [arm], ROUNDS)["forebay"])


def test_pages(listed, store, bucket, count):
    arms = []
    for arm, s3, where, process in (
        ("forebay", listed.s3(), "many", listed.process),
        ("minio", direct(store), bucket, store.process),
    ):
        for position, number in (("first", 0), ("last", count - PAGE)):
            url = page_url(s3, where, number)
            assert keys(url) == PAGE
            arms.append(Arm(f"{arm} {position}", lambda url=url: wrk(url, CONNECTIONS, SECONDS), process.cpu_seconds))
    result = interleave(f"ListObjectsV2, a page of {PAGE} of {count}", arms, ROUNDS)
    cost = {arm: figures["server_cpu_s"] / figures["requests"] for arm, figures in result.items()}
    for arm, seconds in cost.items():
        print(f"   {arm:14} {seconds * 1e3:8.2f} ms CPU a page, {result[arm]['per_s']:.0f} pages/s")
    verdict("CPU, last page ÷ first", cost["forebay last"] / cost["forebay first"], 1.2)
    for position in ("first", "last"):
        ratio = result[f"forebay {position}"]["per_s"] / result[f"minio {position}"]["per_s"]
        verdict(f"pages a second, {position}, forebay ÷ MinIO", ratio, 2, at_most=False)


@pytest.mark.parametrize("names", [s3_names, webhdfs_names, batches, fuse_names])
def test_memory_of_a_whole_listing(listed, count, names: Callable[[Gateway], int]):
    drop_caches()
    cpu = listed.process.cpu_seconds()
    with Watch(listed.process.pid, listed.directory / "var" / "metadata") as watch:
        assert names(listed) == count
    took = listed.process.cpu_seconds() - cpu
    print(f"\n-- {names.__name__}: {took / count * 1e6:.2f} µs of CPU an entry; {watch}")
    growth = (watch.peak_rss_anon_bytes - watch.rss_anon_bytes[0]) / MIB
    verdict("growth of RssAnon in MiB", growth, GROWTH_LIMIT_MIB)


def test_bytes_an_entry(tmp_path, count):
    entries = 10 * count
    server = listing_server(entries)
    options = {"bucket": "b", "endpoint": server.endpoint, "region": "us-east-1", "access_key_id": "a", "secret_access_key": "s"}
    mount = {
        "store": "s3", "options": options, "read_only": True, "cache": {"revalidate": "never"},
        "quirks": {"conditional_write": True, "ordered_list": True},
    }  # fmt: skip
    gateway = Gateway(tmp_path, settings(tmp_path, {"/many": mount}, fuse=False), binary=tool("forebay-release")).start()
    metadata = tmp_path / "var" / "metadata"
    try:
        s3 = gateway.s3()
        before = rss_anon_bytes(gateway.process.pid)
        with Watch(gateway.process.pid, metadata) as watch:
            for start in range(0, entries, PAGE):
                assert keys(page_url(s3, "many", start)) == PAGE
        after = rss_anon_bytes(gateway.process.pid)
        asked = server.asked
        assert {keys(page_url(s3, "many", start)) for start in (0, entries - PAGE)} == {PAGE}
        assert server.asked == asked, "the store is not asked again"
    finally:
        gateway.stop()
        server.shutdown()
    disk = (metadata / "listings.redb").stat().st_blocks * 512
    print(f"\n-- {entries} entries: database {disk / MIB:.0f} MiB; {watch}")
    verdict("bytes of disk an entry", disk / entries, DISK_LIMIT_BYTES)
    verdict("bytes of memory an entry", (after - before) / entries, MEMORY_LIMIT_BYTES)
