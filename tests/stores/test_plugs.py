"""As many stores as there are in one mounts.yaml: each one's plug is pulled in turn, and the others do not notice."""

import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import requests
from botocore.exceptions import BotoCoreError, ClientError
from harness.gateway import Gateway, settings
from harness.stores import SERVED, Stores
from harness.wait import wait_for

KEPT = b"kept " * 4000
LOAD_S = 3
NOTICED_S = 20
RECOVERY_S = 40
REQUEST_DEADLINE_S = 2
# Nobody else waits as long as the broken store may take.
WORST_S = REQUEST_DEADLINE_S
REMOTE = [name for name, store in SERVED.items() if store.is_remote]


def mount(name: str) -> str:
    """The mount of a store, also as a bucket's name."""
    return f"store-{name}"


@dataclass
class House:
    """The gateway, its stores by name, and each one's bucket."""

    gateway: Gateway
    stores: Stores
    buckets: dict[str, str]

    def state(self, name: str) -> tuple[str, str | None]:
        mounts = requests.get(f"{self.gateway.url('admin')}/api/v1/mounts", timeout=5).json()
        found = next(entry for entry in mounts if entry["path"] == f"/{mount(name)}")
        return found["state"], found["reason"]

    def is_ready(self, name: str) -> bool:
        return self.state(name)[0] == "ready"

    def refill(self, name: str) -> None:
        """What a store that forgets needs to be the same again."""
        if self.stores[name].forgets:
            self.stores[name].make_bucket(self.buckets[name])
            self.stores[name].put(self.buckets[name], "kept", KEPT)


@pytest.fixture(scope="module")
def own_stores(tmp_path_factory):
    """Servers that nobody else uses: they are going to be stopped."""
    stores = Stores(tmp_path_factory.mktemp("plugs"))
    yield stores
    stores.stop()


@pytest.fixture(scope="module")
def house(tmp_path_factory, own_stores):
    directory, stores = tmp_path_factory.mktemp("house"), own_stores
    buckets, mounts = {}, {}
    for name in SERVED:
        buckets[name] = stores[name].bucket("plugs")
        limits = {"request_deadline": f"{REQUEST_DEADLINE_S}s"}
        mounts[f"/{mount(name)}"] = stores[name].mount(buckets[name], limits=limits, cache={"revalidate": "always"})
    gateway = Gateway(directory / "gateway", settings(directory / "gateway", mounts)).start()
    house = House(gateway, stores, buckets)
    for name, store in SERVED.items():
        if store.kind == "memory":
            gateway.s3().put_object(Bucket=mount(name), Key="kept", Body=KEPT)
        else:
            stores[name].put(buckets[name], "kept", KEPT)
        wait_for(lambda name=name: house.is_ready(name), 30, f"{name} to be ready")
    yield house
    gateway.stop()
    gateway.clear_mount()


@dataclass
class Clients:
    """Threads that use mounts through every frontend until they are told to stop, one per mount and frontend."""

    house: House
    names: list[str]
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    failures: list[str] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Clients":
        doors = {"s3": self.s3, "webhdfs": self.webhdfs}
        if self.house.gateway.mountpoint:
            doors["fuse"] = self.fuse
        work = [(name, frontend, door) for name in self.names for frontend, door in doors.items()]
        self.threads = [threading.Thread(target=self.repeat, args=each) for each in work]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *exception) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join(60)

    def repeat(self, name: str, frontend: str, door: Callable) -> None:
        step, number = door(mount(name), SERVED[name].is_read_only), 0
        while not self.stopped.is_set():
            number += 1
            started = time.monotonic()
            try:
                step(number)
            except (BotoCoreError, ClientError, AssertionError, OSError) as error:
                self.failures.append(f"/{name} through {frontend}: {error!r:.300}")
            self.seconds[frontend].append(time.monotonic() - started)
            self.stopped.wait(0.02)

    def s3(self, bucket: str, is_read_only: bool) -> Callable:
        client = self.house.gateway.s3()

        def step(number: int) -> None:
            if not is_read_only:
                client.put_object(Bucket=bucket, Key=f"s3/{number % 5}", Body=KEPT)
            assert client.get_object(Bucket=bucket, Key="kept")["Body"].read() == KEPT

        return step

    def webhdfs(self, bucket: str, is_read_only: bool) -> Callable:
        client = self.house.gateway.webhdfs()

        def step(number: int) -> None:
            if not is_read_only:
                answer = client.create(f"/{bucket}/webhdfs/{number % 5}", KEPT, overwrite="true")
                assert answer.status == 201, answer
            answer = client.open(f"/{bucket}/kept")
            assert (answer.status, answer.value) == (200, KEPT), answer.status

        return step

    def fuse(self, bucket: str, is_read_only: bool) -> Callable:
        base = self.house.gateway.mountpoint / bucket

        def step(number: int) -> None:
            if not is_read_only:
                (base / f"fuse-{number % 5}").write_bytes(KEPT)
            assert (base / "kept").read_bytes() == KEPT

        return step

    def report(self, label: str) -> None:
        """Requests and their 99th percentile, by frontend."""
        for frontend, seconds in sorted(self.seconds.items()):
            p99_ms = statistics.quantiles(seconds, n=100)[98] * 1000 if len(seconds) > 1 else 0
            print(f"{label}: {frontend}: {len(seconds)} rounds, p99 {p99_ms:.0f} ms, worst {max(seconds) * 1000:.0f} ms")


@pytest.fixture(scope="module", autouse=True)
def calm(house):
    """The same load with every store plugged in, to compare with."""
    print()
    with Clients(house, list(SERVED)) as clients:
        clients.stopped.wait(LOAD_S)
    clients.report("all plugged in")
    assert not clients.failures, clients.failures[0]


@pytest.mark.parametrize("how", ["stopped", "hung"])
@pytest.mark.parametrize("name", REMOTE)
def test_the_others_do_not_notice(house, name, how):
    store = house.stores[name]
    pull, plug = (store.stop, store.start) if how == "stopped" else (store.pause, store.resume)
    others = [other for other in SERVED if other != name]
    print()
    pull()
    with Clients(house, [name]) as victims, Clients(house, others) as clients:
        clients.stopped.wait(LOAD_S)
        wait_for(lambda: house.state(name)[0] == "degraded", NOTICED_S, f"{name} to be degraded")
        state, reason = house.state(name)
        print(f"{name} {how}: {state}: {reason}")
        clients.stopped.set()
        plug()
        house.refill(name) if how == "stopped" else None
    clients.report(f"{name} {how}")
    assert not clients.failures, clients.failures[0]
    assert max(map(max, clients.seconds.values())) < WORST_S
    assert victims.failures
    assert reason
    assert "Some(" not in reason
    wait_for(lambda: house.is_ready(name), RECOVERY_S, f"{name} to be ready again")
    with Clients(house, [name]) as back:
        back.stopped.wait(0.5)
    assert not back.failures, back.failures[0]
