"""A panic anywhere is contained: the actor restarts within a second, and nobody else notices."""

import time

import pytest
from harness.load import CACHED, Load, mixed_load, s3_work
from harness.wait import wait_for

BACK_S = 1.0  # "recovered in under a second", with what a debug build's backtrace takes on top
BACKTRACE_S = 1.0
FRONTENDS = {"s3", "webhdfs", "admin"}


def status(gateway, actor: str) -> dict:
    return next(child for child in gateway.actors() if child["name"] == actor)


def restarted(gateway, actor: str, times: int) -> bool:
    child = status(gateway, actor)
    return child["restarts"] >= times and child["state"] == "running"


def test_every_actor_in_the_tree_may_panic_under_mixed_load(own, store):
    own.config["mounts"]["/scratch"] = {"store": "memory"}
    own.config["mounts"]["/back"] = store.mount(store.bucket("back"), cache={"write": "back"})
    own.rewrite().start()
    actors = [child["name"] for child in own.actors()]
    assert {
        "Config",
        "MemoryEvictor",
        "Mount:/bucket",
        "Mount:/disk",
        "Mount:/scratch",
        "NvmeEvictor",
        "Reaper",
        "Uploader",
    } < set(actors)
    assert set(actors) >= FRONTENDS | ({"fuse"} if own.mountpoint else set())
    load = mixed_load(own, ("disk", "scratch", "bucket", "back"))
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
