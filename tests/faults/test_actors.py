"""A panic anywhere is contained: the actor restarts within a second, and nobody else notices."""

import os
import threading
import time
import traceback
from collections.abc import Callable

import pytest
from botocore.exceptions import BotoCoreError, ClientError
from harness.wait import wait_for

BODY = b"x" * 200_000
CACHED = os.urandom(3 << 20)
BACK_S = 1.0  # "recovered in under a second", with what a debug build's backtrace takes on top
BACKTRACE_S = 1.0
FRONTENDS = {"s3", "webhdfs", "admin"}


class Load:
    """Runs pieces of work in threads until it is told to stop; every failure is kept under the name of its work."""

    def __init__(self, works: dict[str, Callable[[int], None]]) -> None:
        self.failures: list[tuple[str, str]] = []
        self.done = dict.fromkeys(works, 0)
        self.stopped = threading.Event()
        self.threads = [threading.Thread(target=self.work, args=(name, work)) for name, work in works.items()]
        for thread in self.threads:
            thread.start()

    def work(self, name: str, work: Callable[[int], None]) -> None:
        number = 0
        while not self.stopped.is_set():
            number += 1
            try:
                work(number)
            except (BotoCoreError, ClientError, AssertionError, OSError) as error:
                self.failures.append((name, "".join(traceback.format_exception(error))))
            self.done[name] += 1

    def goes_on(self, rounds: int = 3, but: str | None = None) -> None:
        """Waits until every work (`but` those of one frontend) has been done some more times."""
        goals = {name: done + rounds for name, done in self.done.items() if not but or not name.startswith(but)}
        wait_for(lambda: all(self.done[name] >= goal for name, goal in goals.items()), 30, f"more rounds of {goals}")

    def stop(self) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join(30)


def s3_work(gateway, bucket: str) -> Callable[[int], None]:
    s3 = gateway.s3()

    def work(number: int) -> None:
        target = {"Bucket": bucket, "Key": f"s3/{number % 7}"}
        s3.put_object(**target, Body=BODY)
        body = s3.get_object(**target)["Body"].read()
        assert body == BODY, f"{target['Key']}: {len(body)} bytes"

    return work


def webhdfs_work(gateway, bucket: str) -> Callable[[int], None]:
    hdfs = gateway.webhdfs()

    def work(number: int) -> None:
        path = f"/{bucket}/hdfs/{number % 7}"
        made = hdfs.create(path, BODY, overwrite="true")
        assert made.status == 201, made
        read = hdfs.open(path)
        assert read.value == BODY, read.status

    return work


def fuse_work(gateway, bucket: str) -> Callable[[int], None]:
    directory = gateway.mountpoint / bucket / "fuse"
    directory.mkdir()

    def work(number: int) -> None:
        path = directory / str(number % 7)
        path.write_bytes(BODY)
        assert path.read_bytes() == BODY

    return work


def cached_work(gateway, bucket: str) -> Callable[[int], None]:
    """Reads what the cache holds: no actor of the mount is needed for that, and no store."""
    s3 = gateway.s3()
    s3.put_object(Bucket=bucket, Key="cached", Body=CACHED)
    s3.get_object(Bucket=bucket, Key="cached")["Body"].read()

    def work(_: int) -> None:
        assert s3.get_object(Bucket=bucket, Key="cached")["Body"].read() == CACHED

    return work


def mixed_load(gateway) -> Load:
    works = {}
    for bucket in ("disk", "bucket", "scratch"):
        works[f"s3 {bucket}"] = s3_work(gateway, bucket)
        works[f"webhdfs {bucket}"] = webhdfs_work(gateway, bucket)
        if gateway.mountpoint:
            works[f"fuse {bucket}"] = fuse_work(gateway, bucket)
    works["s3 cached"] = cached_work(gateway, "bucket")
    return Load(works)


def status(gateway, actor: str) -> dict:
    return next(child for child in gateway.actors() if child["name"] == actor)


def restarted(gateway, actor: str, times: int) -> bool:
    child = status(gateway, actor)
    return child["restarts"] >= times and child["state"] == "running"


def test_every_actor_in_the_tree_may_panic_under_mixed_load(own):
    own.config["mounts"]["/scratch"] = {"store": "memory"}
    own.rewrite().start()
    actors = [child["name"] for child in own.actors()]
    assert {"Config", "MemoryEvictor", "Mount:/bucket", "Mount:/disk", "Mount:/scratch", "NvmeEvictor"} < set(actors)
    assert set(actors) >= FRONTENDS | ({"fuse"} if own.mountpoint else set())
    load = mixed_load(own)
    slowest = {}
    try:
        load.goes_on()
        for actor in actors:
            failed = len(load.failures)
            own.panic_actor(actor)
            begun = time.monotonic()
            wait_for(lambda actor=actor: restarted(own, actor, 1), 10, f"{actor} to be back")
            slowest[actor] = time.monotonic() - begun
            load.goes_on(but=actor if actor in FRONTENDS else None)
            new = load.failures[failed:]
            if actor in FRONTENDS:
                # What was in flight on the listener that died may fail, and nothing else.
                new = [failure for failure in new if not failure[0].startswith(actor)]
                load.goes_on()
            assert not new, f"{actor}: {new[0][0]}\n{new[0][1]}"
        failed = len(load.failures)
        load.goes_on(rounds=5)
        assert load.failures[failed:] == []
    finally:
        load.stop()
    text = ", ".join(f"{actor} {seconds:.2f}" for actor, seconds in slowest.items())
    print(f"\nback after s: {text}; rounds under load: {sum(load.done.values())}")
    assert max(slowest.values()) < BACK_S + BACKTRACE_S, text
    metrics = own.metrics()
    for actor in actors:
        assert metrics.total("forebay_actor_restarts_total", actor=actor, cause="panic") == 1, actor
        assert "panicked on purpose" in status(own, actor)["last_cause"]


@pytest.mark.parametrize("mount", ["disk", "bucket"])
def test_a_mount_actor_that_panics_again_and_again_fails_no_request(own, mount):
    own.start()
    load = Load({f"{mount} {worker}": s3_work(own, mount) for worker in range(3)})
    try:
        for number in range(1, 4):
            own.panic_actor(f"Mount:/{mount}")
            wait_for(lambda number=number: restarted(own, f"Mount:/{mount}", number), 10, f"restart {number}")
            load.goes_on(rounds=5)
    finally:
        load.stop()
    assert not load.failures, load.failures[0]
    assert own.metrics().total("forebay_actor_restarts_total", cause="panic") >= 3


@pytest.mark.parametrize("actor", ["MemoryEvictor", "NvmeEvictor"])
def test_an_evictor_that_panics_comes_back_and_the_cap_holds(own, actor):
    own.start()
    own.panic_actor(actor)
    wait_for(lambda: restarted(own, actor, 1), 10, "the restart")
    for number in range(20):
        own.s3().put_object(Bucket="bucket", Key=str(number), Body=bytes([number]) * (8 << 20))
        assert own.s3().get_object(Bucket="bucket", Key=str(number))["Body"].read() == bytes([number]) * (8 << 20)
    metrics = own.metrics()
    for tier in ("memory", "nvme"):
        assert metrics.total("forebay_cache_used_bytes", tier=tier) <= metrics.total("forebay_cache_capacity_bytes", tier=tier)


def test_files_open_on_the_mount_survive_the_panic_of_its_actor(own):
    if not own.mountpoint:
        pytest.skip("machine: no /dev/fuse, or not root")
    own.start()
    own.s3().put_object(Bucket="bucket", Key="f", Body=CACHED)
    with (own.mountpoint / "bucket" / "f").open("rb") as file, (own.mountpoint / "bucket" / "new").open("wb") as new:
        assert file.read(1000) == CACHED[:1000]
        new.write(b"before ")
        own.panic_actor("fuse")
        wait_for(lambda: restarted(own, "fuse", 1), 10, "the restart")
        assert file.read() == CACHED[1000:]
        new.write(b"and after")
    assert own.s3().get_object(Bucket="bucket", Key="new")["Body"].read() == b"before and after"
