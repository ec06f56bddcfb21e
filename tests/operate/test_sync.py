"""Syncs: what somebody else did at the store is seen through every frontend once a sync ended, and it costs one listing."""

import json
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qs, urlsplit

import pytest
from harness.faults import Latency
from harness.gateway import Gateway, settings
from harness.tool import has_fuse
from harness.wait import wait_for

NEVER = {"revalidate": "never"}


@pytest.fixture
def bucket(store):
    return store.bucket("sync")


@pytest.fixture
def serve(tmp_path):
    """Starts gateways that are stopped at the end."""
    started = []

    def start(mounts: dict, fuse: bool = False, **gateway) -> Gateway:
        started.append(Gateway(tmp_path, settings(tmp_path, mounts, fuse=fuse, **gateway)).start())
        return started[-1]

    yield start
    for gateway in started:
        gateway.stop()


def fill(store, bucket: str, names) -> None:
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda name: store.put(bucket, name, name.encode()), names))


def counts(job: dict) -> tuple:
    return tuple(job["sync"][name] for name in ("seen", "added", "changed", "removed"))


def sync(gateway, path: str) -> tuple:
    done = gateway.cli("sync", "--wait", "--json", path)
    assert done.returncode == 0, done.stderr.decode()
    return counts(json.loads(done.stdout))


def job(gateway, number: int) -> dict:
    return next(job for job in json.loads(gateway.cli("jobs", "--json").stdout) if job["id"] == number)


def listings(proxy) -> int:
    """Requests for whole pages of listings that went to the store: probes and trials ask for a few names."""
    queries = [parse_qs(urlsplit(seen.path).query) for seen in list(proxy.seen) if seen.method == "GET"]
    return sum("list-type" in query and query.get("max-keys") == ["1000"] for query in queries)


def seen_by(gateway, path: str) -> list[dict]:
    """The files of a directory of /data with their contents, as each frontend has them."""
    s3, hdfs = gateway.s3(), gateway.webhdfs()
    found = s3.list_objects_v2(Bucket="data", Prefix=f"{path}/", Delimiter="/").get("Contents", [])
    views = [{item["Key"]: s3.get_object(Bucket="data", Key=item["Key"])["Body"].read() for item in found}]
    answer = hdfs.call("GET", f"/data/{path}", "LISTSTATUS")
    statuses = answer.json()["FileStatuses"]["FileStatus"] if answer.status_code == 200 else []
    names = [f"{path}/{status['pathSuffix']}" for status in statuses if status["type"] == "FILE"]
    views.append({name: hdfs.call("GET", f"/data/{name}", "OPEN").content for name in names})
    if gateway.mountpoint:
        root = gateway.mountpoint / "data"
        files = [file for file in (root / path).iterdir() if file.is_file()] if (root / path).is_dir() else []
        views.append({str(file.relative_to(root)): file.read_bytes() for file in files})
    return views


def test_changes_at_the_store_are_seen_through_all_frontends_after_a_sync(store, bucket, serve):
    before = {f"d/{name}": name.encode() for name in ("same", "changed", "gone")}
    for name, data in (before | {"d/sub/x": b"x"}).items():
        store.put(bucket, name, data)
    gateway = serve({"/data": store.mount(bucket, cache=NEVER)}, fuse=has_fuse())
    assert sync(gateway, "/data") == (4, 4, 0, 0)
    assert all(view == before for view in seen_by(gateway, "d"))
    assert all(view == {"d/sub/x": b"x"} for view in seen_by(gateway, "d/sub"))

    store.put(bucket, "d/changed", b"another content")
    store.put(bucket, "d/added", b"new")
    store.put(bucket, "e/added", b"e")
    store.delete(bucket, "d/gone")
    store.delete(bucket, "d/sub/x")
    if not gateway.mountpoint:
        assert all(view == before for view in seen_by(gateway, "d"))
    assert sync(gateway, "/data") == (4, 2, 1, 2)
    after = {"d/same": b"same", "d/changed": b"another content", "d/added": b"new"}
    assert all(view == after for view in seen_by(gateway, "d"))
    assert all(view == {"e/added": b"e"} for view in seen_by(gateway, "e"))
    assert all(view == {} for view in seen_by(gateway, "d/sub"))
    if gateway.mountpoint:
        assert not (gateway.mountpoint / "data/d/sub").exists()
    assert sync(gateway, "/data") == (4, 0, 0, 0)
    assert gateway.metrics().total("forebay_sync_files_total", mount="/data", found="removed") == 2


def test_content_that_changed_or_went_leaves_both_tiers(store, bucket, serve):
    large = 3 << 20
    for name in ("kept", "changed", "gone"):
        store.put(bucket, name, name[:1].encode() * large)
    gateway = serve({"/data": store.mount(bucket, cache=NEVER)})
    assert gateway.cli("load", "--wait", "/data").returncode == 0
    assert sync(gateway, "/data") == (3, 0, 0, 0)

    def held(tier: str) -> int:
        return int(gateway.metrics().total("forebay_cache_used_bytes", tier=tier))

    assert held("nvme") >= 3 * large
    gateway.stop()
    gateway.start()
    wait_for(lambda: held("nvme") >= 3 * large, 20, "the disk tier to be back")
    store.put(bucket, "changed", b"C" * large)
    store.delete(bucket, "gone")
    assert sync(gateway, "/data") == (2, 0, 1, 1)
    wait_for(lambda: held("nvme") < 2 * large, 20, "what is over to leave the disk tier")
    assert gateway.s3().get_object(Bucket="data", Key="changed")["Body"].read() == b"C" * large
    explained = json.loads(gateway.cli("explain", "--json", "/data/kept").stdout)
    assert explained["missing_bytes"] == 0


def test_an_unchanged_tree_costs_hardly_more_than_one_flat_listing(store, bucket, serve, proxy):
    total = 5_000
    fill(store, bucket, (f"{number % 300:03}/{number:05}" for number in range(total)))
    gateway = serve({"/data": store.mount(bucket, proxy.endpoint, cache=NEVER)})
    assert sync(gateway, "/data") == (total, total, 0, 0)
    before = listings(proxy)
    pages = gateway.s3().get_paginator("list_objects_v2").paginate(Bucket="data")
    assert sum(page["KeyCount"] for page in pages) == total
    assert listings(proxy) == before, "all of it is known"
    proxy.seen.clear()
    assert sync(gateway, "/data") == (total, 0, 0, 0)
    flat = -(-total // 1000)
    assert flat <= listings(proxy) <= 1.2 * flat
    assert all(seen.method == "GET" and "list-type=2" in seen.path for seen in proxy.seen), "nothing else is asked"


def test_a_sync_goes_on_after_a_kill_where_it_was(store, bucket, serve, proxy):
    total = 4_000
    fill(store, bucket, (f"d/{number:05}" for number in range(total)))
    gateway = serve({"/data": store.mount(bucket, proxy.endpoint, cache=NEVER)})
    with proxy.fault(Latency(0.5), method="GET", path="list-type=2"):
        number = json.loads(gateway.cli("sync", "--json", "/data").stdout)["id"]
        wait_for(lambda: job(gateway, number)["sync"]["seen"] >= 2000, 30, "two pieces")
        gateway.kill()
    gateway.clear_mount()
    proxy.seen.clear()
    gateway.start()
    wait_for(lambda: job(gateway, number)["state"] == "done", 30, "the sync to end")
    assert counts(job(gateway, number)) == (total, total, 0, 0)
    assert listings(proxy) <= 3, "what was compared is not listed again"
    assert sync(gateway, "/data") == (total, 0, 0, 0)


def test_a_sync_is_cancelled_and_waits_for_a_store_that_is_away(store, bucket, serve, proxy):
    fill(store, bucket, (f"d/{number:05}" for number in range(2_500)))
    gateway = serve({"/data": store.mount(bucket, proxy.endpoint, cache=NEVER)})
    with proxy.fault(Latency(1), method="GET", path="list-type=2"):
        number = json.loads(gateway.cli("sync", "--json", "/data").stdout)["id"]
        assert "sync" in gateway.cli("jobs").stdout.decode()
        gateway.cli("jobs", "cancel", str(number))
    assert job(gateway, number)["state"] == "cancelled"
    proxy.refuse()
    number = json.loads(gateway.cli("sync", "--json", "/data").stdout)["id"]
    proxy.accept()
    wait_for(lambda: job(gateway, number)["state"] == "done", 60, "the sync to end")
    assert counts(job(gateway, number))[0] == 2_500


def test_a_mount_is_synced_as_its_configuration_says_and_a_reload_changes_that(store, bucket, serve):
    store.put(bucket, "a", b"a")
    gateway = serve({"/data": store.mount(bucket, cache=NEVER | {"sync": {"every": "1s"}})})
    s3 = gateway.s3()

    def keys() -> list[str]:
        return [item["Key"] for item in s3.list_objects_v2(Bucket="data").get("Contents", [])]

    wait_for(lambda: keys() == ["a"], 10, "the first listing")
    store.put(bucket, "b", b"b")
    wait_for(lambda: keys() == ["a", "b"], 15, "the change to be found")
    gateway.config["mounts"]["/data"]["cache"] = NEVER
    gateway.rewrite()
    assert gateway.cli("reload").returncode == 0
    wait_for(lambda: all(job["state"] == "done" for job in json.loads(gateway.cli("jobs", "--json").stdout)), 10, "the last sync")
    done = len(json.loads(gateway.cli("jobs", "--json").stdout))
    store.put(bucket, "c", b"c")
    with pytest.raises(AssertionError):
        wait_for(lambda: len(json.loads(gateway.cli("jobs", "--json").stdout)) > done, 4, "another sync")
    assert keys() == ["a", "b"]


def test_where_nothing_is_remembered_there_is_nothing_to_sync(tmp_path, serve):
    gateway = serve({"/local": {"store": "fs", "options": {"root": str(tmp_path / "local")}}})
    for path, words in (("/local", "its changes are seen"), ("/nowhere", "no mount is here")):
        done = gateway.cli("sync", path)
        assert done.returncode == 1
        assert words in done.stderr.decode()


def test_a_rule_says_how_long_a_part_of_a_mount_is_trusted(store, bucket, serve):
    for name in ("d/a", "d/e/a", "f/a"):
        store.put(bucket, name, b"one")
    gateway = serve({"/data": store.mount(bucket, cache=NEVER)})
    assert gateway.cli("revalidate", "/data/d", "always").returncode == 0
    assert b"revalidate never" in gateway.cli("revalidate", "/data/d/e", "never").stdout
    hdfs = gateway.webhdfs()

    def lengths() -> list[int]:
        answers = [hdfs.call("GET", f"/data/{name}", "GETFILESTATUS") for name in ("d/a", "d/e/a", "f/a")]
        return [answer.json()["FileStatus"]["length"] for answer in answers]

    assert lengths() == [3, 3, 3]
    for name in ("d/a", "d/e/a", "f/a"):
        store.put(bucket, name, b"seven..")
    assert lengths() == [7, 3, 3]
    gateway.stop()
    gateway.start()
    assert gateway.cli("revalidate", "/data/d/e", "default").returncode == 0
    assert lengths()[:2] == [7, 7]
    assert gateway.cli("revalidate", "/data/d", "sometimes").returncode != 0
