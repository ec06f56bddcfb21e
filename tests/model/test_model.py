"""Random operations through all frontends against the reference, calm and through faults, kills and restarts.

FOREBAY_MODEL_SEED, FOREBAY_MODEL_OPS and FOREBAY_MODEL_FAULTS (operations of the second kind) set the run.
"""

import os
import secrets
from collections import Counter
from contextlib import contextmanager

import pytest
from harness.faults import CutRequest, CutResponse, Latency, LoseResponse, Stall, Status
from harness.place import STORES
from harness.proxied import Proxied
from harness.stores import SERVED
from harness.wait import wait_for
from model.operation import is_temporary
from model.world import World

SEED = int(os.environ.get("FOREBAY_MODEL_SEED") or secrets.randbelow(1_000_000))
OPERATIONS = int(os.environ.get("FOREBAY_MODEL_OPS") or 500)
FAULTY_OPERATIONS = int(os.environ.get("FOREBAY_MODEL_FAULTS") or 120)
WHOLE_CHECK_EVERY = 20
KILL_EVERY = 25
FAULT_PROBABILITY = 0.4
RECOVERY_S = 30
TAIL = 60
# What a killed gateway holds in memory is gone; and writes are what this is about.
SURVIVORS = [name for name, store in SERVED.items() if store.kind != "memory" and not store.is_read_only]


@contextmanager
def reported(kind: str, counts: Counter, world: World):
    """Prints what was done; a failure tells the seed and the last operations instead of a traceback."""
    try:
        yield
    except Exception as problem:
        tail = "\n".join(world.trace[-TAIL:])
        pytest.fail(f"seed {SEED}, store {kind}, after {len(world.trace)} operations: {problem!r}\n{tail}", pytrace=False)
    finally:
        done = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
        print(f"\nmodel: seed {SEED}, store {kind}: {done} operations", flush=True)


@pytest.mark.parametrize("kind", STORES)
def test_frontends_agree_with_the_reference(gateway, place_in, kind):
    place = place_in(kind)
    world = World(gateway, place.bucket, place.directory, f"{SEED} {kind}")
    counts = Counter()
    with reported(kind, counts, world):
        for number in range(OPERATIONS):
            counts[world.step()] += 1
            if number % WHOLE_CHECK_EVERY == 0:
                world.check_whole()
        world.check_whole()


class Weather:
    """Faults that come and go, from the world's own dice."""

    def __init__(self, proxied: Proxied, world: World) -> None:
        self.proxied, self.world, self.choose = proxied, world, world.choose

    def turn_bad(self) -> None:
        """One kind of trouble for the next operation."""
        proxy, choose = self.proxied.proxy, self.choose
        body = choose.choice([0, 10, 5000])
        fault, which = choose.choice([
            (Latency(0.02, jitter_s=0.2), {}),
            (Status(choose.choice([429, 500, 503])), {"probability": 0.5}),
            (Status(503), {}),
            (CutResponse(body), {"probability": 0.5}),
            (CutRequest(body), {"probability": 0.5, "method": "PUT|POST|DELETE"}),
            (LoseResponse(), {"times": 1, "skip": choose.randrange(4), "method": "PUT|POST|DELETE"}),
            (Stall(body), {"times": 1, "skip": choose.randrange(4)}),
        ])  # fmt: skip
        self.world.trace.append(f"      {fault} {which}")
        proxy.add(fault, **which)

    def clear_up(self) -> None:
        """Lifts the faults and waits until the mount has noticed."""
        self.proxied.proxy.clear()

        def answers() -> bool:
            try:
                return self.world.hdfs.is_directory("") and self.world.s3.read("nothing") is None
            except Exception as error:
                if is_temporary(error):
                    return False
                raise

        wait_for(answers, RECOVERY_S, "the mount to recover")


def restart(proxied: Proxied) -> None:
    proxied.gateway.kill()
    proxied.gateway.clear_mount()
    proxied.gateway.start()


@pytest.fixture
def proxied(tmp_path, stores, kind):
    proxied = Proxied(tmp_path, stores[kind])
    yield proxied
    proxied.stop()


@pytest.mark.parametrize("kind", SURVIVORS)
def test_frontends_agree_through_faults_kills_and_restarts(proxied, kind):
    world = World(proxied.gateway, "bucket", "model", f"{SEED} {kind} faults")
    weather = Weather(proxied, world)
    counts = Counter()
    with reported(f"{kind} with faults", counts, world):
        for number in range(1, FAULTY_OPERATIONS + 1):
            frontend, operation = world.plan()
            counts[frontend.name] += 1
            is_bad = proxied.proxy is not None and world.choose.random() < FAULT_PROBABILITY
            if is_bad:
                weather.turn_bad()
                counts["through a fault"] += 1
            is_answered = world.attempt(frontend, operation)
            if is_bad:
                weather.clear_up()
            if is_answered:
                world.complete(frontend, operation)
            else:
                counts["unanswered"] += 1
                world.adopt(operation)
            if number % KILL_EVERY == 0:
                world.trace.append("      kill -9 and restart")
                restart(proxied)
                counts["kills"] += 1
                world.check_whole()
        world.check_whole()
