"""Loads through the commands and the admin API: everything readable with the store away, over restarts, cancelled."""

import json
import os

import pytest
import requests
from harness.faults import Status
from harness.gateway import Gateway, settings
from harness.wait import wait_for

SMALL, LARGE = 300, 3_500_000
FILES = {f"d/{number:03}": os.urandom(2_000) for number in range(SMALL)} | {"d/z large": os.urandom(LARGE), "e/other": b"x"}
BELOW_D = {name: data for name, data in FILES.items() if name.startswith("d/")}
BYTES = sum(map(len, BELOW_D.values()))


@pytest.fixture
def filled(store):
    bucket = store.bucket("loads")
    for name, data in FILES.items():
        store.put(bucket, name, data)
    return bucket


@pytest.fixture
def loaded(tmp_path, store, filled, proxy):
    """A gateway before that bucket, without FUSE; the store can be taken away through `proxy`."""
    mount = store.mount(filled, proxy.endpoint, cache={"revalidate": "never"})
    gateway = Gateway(tmp_path, settings(tmp_path, {"/data": mount}, fuse=False)).start()
    yield gateway
    gateway.stop()


def job_of(done) -> dict:
    assert done.stdout, done.stderr.decode()
    return json.loads(done.stdout)


def jobs(gateway) -> dict[int, dict]:
    return {job["id"]: job for job in json.loads(gateway.cli("jobs", "--json").stdout)}


def ended(gateway, number: int, state: str = "done") -> dict:
    wait_for(lambda: jobs(gateway)[number]["state"] == state, 30, f"job {number} to be {state}")
    return jobs(gateway)[number]


def test_what_was_loaded_is_read_with_the_store_away(loaded, proxy):
    done = loaded.cli("load", "--wait", "--json", "/data/d")
    job = job_of(done)
    assert (done.returncode, job["state"], job["files"], job["failed"]) == (0, "done", len(BELOW_D), 0)
    assert (job["found_bytes"], job["cached_bytes"]) == (BYTES, BYTES)
    # Small files in the order of their listing are fetched ahead of the load, which finds them cached.
    assert LARGE <= job["fetched_bytes"] <= BYTES
    again = job_of(loaded.cli("load", "--wait", "--json", "/data/d/z large"))
    assert (again["cached_bytes"], again["fetched_bytes"]) == (LARGE, 0)
    s3 = loaded.s3()
    proxy.refuse()
    for name, data in BELOW_D.items():
        assert s3.get_object(Bucket="data", Key=name)["Body"].read() == data
    assert f"{BYTES} of {BYTES} bytes cached" in loaded.cli("jobs").stdout.decode()


def test_files_that_fail_are_named_and_the_others_are_loaded(loaded, proxy):
    with proxy.fault(Status(403), method="GET", path="d/007"):
        done = loaded.cli("load", "--wait", "--json", "/data/d")
    job = job_of(done)
    assert (done.returncode, job["state"], job["failed"], job["files"]) == (1, "done", 1, len(BELOW_D) - 1)
    assert [failure["path"] for failure in job["failures"]] == ["/data/d/007"]
    assert job["cached_bytes"] == BYTES - 2_000


def test_a_load_goes_on_after_a_kill_and_after_a_panic_of_its_actor(loaded):
    job = job_of(loaded.cli("load", "--json", "--bandwidth", "400KB", "--transfers", "4", "/data"))
    wait_for(lambda: jobs(loaded)[job["id"]]["cursor"], 20, "the first batch")
    loaded.kill()
    loaded.start()
    seen = jobs(loaded)[job["id"]]
    assert seen["state"] in ("queued", "running")
    assert seen["cursor"] >= "d/250"
    wait_for(lambda: jobs(loaded)[job["id"]]["files"] > 256, 20, "a file of the second batch")
    loaded.panic_actor("Loads")
    last = ended(loaded, job["id"])
    assert (last["files"], last["failed"]) == (len(FILES), 0)
    # A kill may cost what the index of the disk tier did not know yet.
    assert last["cached_bytes"] + last["evicted_bytes"] == BYTES + 1
    assert last["evicted_bytes"] < BYTES / 4


def test_a_cancelled_load_ends_and_stays_ended(loaded):
    job = job_of(loaded.cli("load", "--json", "--bandwidth", "1KB", "/data/d"))
    wait_for(lambda: jobs(loaded)[job["id"]]["fetched_bytes"], 10, "the load to begin")
    assert job_of(loaded.cli("jobs", "cancel", "--json", str(job["id"])))["state"] == "cancelled"
    loaded.stop()
    loaded.start()
    assert jobs(loaded)[job["id"]]["state"] == "cancelled"
    url = f"{loaded.url('admin')}/api/v1/jobs/{job['id']}"
    assert [requests.delete(url, timeout=5).status_code for _ in range(2)] == [200, 404]


def test_what_the_cache_has_no_room_for_is_told(tmp_path, store, filled):
    small = {"memory": {"size": "4MiB"}, "nvme": {"size": "2MiB", "directory": str(tmp_path / "cache")}}
    gateway = Gateway(tmp_path, settings(tmp_path, {"/data": store.mount(filled)}, fuse=False, cache=small)).start()
    done = gateway.cli("load", "--wait", "/data/d/z large")
    assert done.returncode == 1
    assert "not cached" in done.stderr.decode()
    metrics = gateway.metrics()
    assert metrics.total("forebay_cache_refusals_total", mount="/data") == metrics.total("forebay_cache_refusals_total") > 0
    gateway.stop()


def test_readers_are_served_while_a_load_runs(loaded):
    job = job_of(loaded.cli("load", "--json", "--bandwidth", "100KB", "/data/d"))
    assert loaded.s3().get_object(Bucket="data", Key="d/z large")["Body"].read() == FILES["d/z large"]
    assert jobs(loaded)[job["id"]]["state"] == "running"
    loaded.cli("jobs", "cancel", str(job["id"]))


def test_bad_loads_are_refused(loaded):
    for arguments in (["/nowhere"], ["--transfers", "0", "/data"], ["--bandwidth", "fast", "/data"], ["no/path"]):
        done = loaded.cli("load", *arguments)
        assert done.returncode != 0, arguments
    assert jobs(loaded) == {}


def test_a_mount_is_preloaded_when_its_store_answers_and_again_after_its_time(tmp_path, store, filled, proxy):
    proxy.refuse()
    mounts = {
        "/once": store.mount(filled, proxy.endpoint, cache={"preload": True}),
        "/often": store.mount(filled, proxy.endpoint, cache={"preload": {"every": "2s"}}),
        "/never": store.mount(filled, proxy.endpoint, cache={"preload": False}),
    }
    gateway = Gateway(tmp_path, settings(tmp_path, mounts, fuse=False)).start()
    assert jobs(gateway) == {}
    proxy.accept()

    def loaded() -> list[str]:
        return [job["path"] for job in jobs(gateway).values() if job["state"] == "done" and not job["failed"]]

    wait_for(lambda: loaded().count("/often") >= 2, 60, "the second preload")
    assert (loaded().count("/once"), loaded().count("/never")) == (1, 0)
    gateway.stop()
