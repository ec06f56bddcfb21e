"""A panic anywhere is contained: the actor restarts, requests go on."""

import threading
import traceback

import pytest
from botocore.exceptions import BotoCoreError, ClientError
from harness.wait import wait_for

BODY = b"x" * 200_000


class Load:
    """Reads and writes on one mount until it is told to stop; every failure is kept."""

    def __init__(self, gateway, mount: str) -> None:
        self.gateway, self.mount = gateway, mount
        self.failures: list[str] = []
        self.done = 0
        self.stopped = threading.Event()
        self.threads = [threading.Thread(target=self.work, args=(worker,)) for worker in range(3)]
        for thread in self.threads:
            thread.start()

    def work(self, worker: int) -> None:
        s3 = self.gateway.s3()
        number = 0
        while not self.stopped.is_set():
            number += 1
            target = {"Bucket": self.mount, "Key": f"{worker}/{number % 7}"}
            try:
                s3.put_object(**target, Body=BODY)
                body = s3.get_object(**target)["Body"].read()
                assert body == BODY, f"{target['Key']}: {len(body)} bytes"
            except (BotoCoreError, ClientError, AssertionError) as error:
                self.failures.append("".join(traceback.format_exception(error)))
            self.done += 1

    def stop(self) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join(30)


def restarts(gateway, actor: str) -> int:
    return next(child["restarts"] for child in gateway.actors() if child["name"] == actor)


@pytest.mark.parametrize("mount", ["disk", "bucket"])
def test_a_mount_actor_that_panics_under_load_fails_no_request(own, mount):
    own.start()
    load = Load(own, mount)
    for number in range(1, 4):
        before = load.done
        own.panic_actor(f"Mount:/{mount}")
        wait_for(lambda number=number: restarts(own, f"Mount:/{mount}") >= number, 10, f"restart {number}")
        wait_for(lambda before=before: load.done > before + 10, 20, "requests after the panic")
    load.stop()
    assert not load.failures, load.failures[0]
    assert own.metrics().total("forebay_actor_restarts_total", cause="panic") >= 3


@pytest.mark.parametrize("actor", ["MemoryEvictor", "NvmeEvictor"])
def test_an_evictor_that_panics_comes_back_and_the_cap_holds(own, actor):
    own.start()
    own.panic_actor(actor)
    wait_for(lambda: restarts(own, actor) >= 1, 10, "the restart")
    for number in range(20):
        own.s3().put_object(Bucket="bucket", Key=str(number), Body=bytes([number]) * (8 << 20))
        assert own.s3().get_object(Bucket="bucket", Key=str(number))["Body"].read() == bytes([number]) * (8 << 20)
    metrics = own.metrics()
    for tier in ("memory", "nvme"):
        assert metrics.total("forebay_cache_used_bytes", tier=tier) <= metrics.total("forebay_cache_capacity_bytes", tier=tier)


@pytest.mark.parametrize("frontend", ["s3", "webhdfs", "admin"])
def test_a_frontend_that_panics_listens_again(own, frontend):
    own.start()
    own.s3().put_object(Bucket="disk", Key="f", Body=BODY)
    own.panic_actor(frontend)

    def serves() -> bool:
        try:
            own.metrics()
            whole = own.s3().get_object(Bucket="disk", Key="f")["Body"].read() == BODY
        except (BotoCoreError, ClientError):
            return False
        return whole and own.webhdfs().open("/disk/f").value == BODY

    wait_for(serves, 15, f"{frontend} to listen again")
    wait_for(lambda: restarts(own, frontend) >= 1, 10, "the restart to be counted")
