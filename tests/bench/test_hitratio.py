"""Hit ratios of the cache as it ships, with real files, against libCacheSim and Belady.

Every object has 4096 bytes: one block of the disk, and what one object weighs in the simulator. So sizes are in
objects, and a million requests take a minute. "Disk" is a disk tier of that size under a memory that holds hardly
anything beside the disk's index; what is admitted at the second touch only is part of the figure. "Packed" is the same
with all objects in segments, where a record is 32 bytes longer than its object. "Memory" is the memory tier alone.
"""

import heapq
import itertools
import random
import struct
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
from bench.figures import verdict
from harness.tool import tool

OBJECT_BYTES = 4096
PAGE_COST_BYTES = 256 + 96  # as PAGE_OVERHEAD_BYTES of memory.rs: what a page costs beside its bytes
FILE_COST_BYTES = 512 + 96 + 4 + 16  # as index_bytes of sparse.rs: what a file of one page costs in memory
RECORD_BYTES = OBJECT_BYTES + 32  # as HEADER_BYTES of segment.rs
PACKED_COST_BYTES = 96  # what a packed object and its ghosts cost in memory at most
MEMORY_OBJECTS = 8  # beside the index, so that there is a page to fetch into
MEMBERS = 2000
PACKED_MEMBERS = 20000  # half a segment is always set aside, which is much of a small tier
WRITES_MAX = 2.0
SIZES = (1, 2, 4)
# Four times as many must not need more than the 10000 files that a limit of 20000 descriptors leaves.
SHADOWED = {
    ("cloudPhysics", "memory"): 5000,
    ("cloudPhysics", "disk"): 2400,
    ("twitter52", "memory"): 14354,
    ("twitter52", "disk"): 2400,
}
TRACES = {"cloudPhysics": 5000, "twitter52": 14354}  # the latter a tenth of its objects
SIMULATE = Path(__file__).with_name("simulate.py")


@pytest.fixture(scope="module")
def traces():
    return {"cloudPhysics": cloud_physics(), "twitter52": twitter()}


def cloud_physics() -> list[str]:
    """libCacheSim's binary records: time, object, size, next access."""
    data = (tool("traces") / "cloudPhysicsIO.oracleGeneral.bin").read_bytes()
    return [str(key) for _, key, _, _ in struct.iter_unpack("<IQIq", data)]


def twitter() -> list[str]:
    lines = (tool("traces") / "twitter_cluster52.csv").read_text().splitlines()
    return [line.split(",")[1].strip() for line in lines if not line.startswith("#")]


class Replayed(NamedTuple):
    hit_ratio: float
    estimates: list[float]  # its own, for each of SIZES; 0 where it says nothing
    new_bytes: int  # written to segments
    carried_bytes: int


def replay(lines: list[str], directory: Path, memory_bytes: int, disk_bytes: int, packed_bytes: int = 0) -> Replayed:
    argv = [str(tool("replay")), *map(str, (memory_bytes, disk_bytes, packed_bytes, directory))]
    done = subprocess.run(argv, input="\n".join(lines), capture_output=True, text=True, check=True)
    totals, *tiers, packed = done.stdout.splitlines()
    requests, hits, _, _ = map(int, totals.split())
    shown = tiers[1 if disk_bytes else 0].split()[1:]
    return Replayed(hits / requests, [0.0 if word == "-" else float(word) for word in shown], *map(int, packed.split()[1:]))


def disk(lines: list[str], directory: Path, objects: int) -> Replayed:
    memory = MEMORY_OBJECTS * (OBJECT_BYTES + PAGE_COST_BYTES) + objects * FILE_COST_BYTES
    return replay(lines, directory, memory, objects * OBJECT_BYTES)


def packed(lines: list[str], directory: Path, objects: int) -> Replayed:
    memory = MEMORY_OBJECTS * (OBJECT_BYTES + PAGE_COST_BYTES) + objects * PACKED_COST_BYTES
    return replay(lines, directory, memory, objects * RECORD_BYTES, OBJECT_BYTES)


def memory(lines: list[str], directory: Path, objects: int) -> Replayed:
    return replay(lines, directory, objects * (OBJECT_BYTES + PAGE_COST_BYTES), 0)


def simulated(keys: list[str], objects: int) -> float:
    argv = [str(tool("libcachesim")), str(SIMULATE), str(objects)]
    done = subprocess.run(argv, input="\n".join(keys), capture_output=True, text=True, check=True)
    return int(done.stdout) / len(keys)


def belady(keys: list[str], objects: int) -> float:
    """The best there is: what goes, or does not come in, is what is wanted again last."""
    following, next_use = {}, [0] * len(keys)
    for at in range(len(keys) - 1, -1, -1):
        next_use[at] = following.get(keys[at], len(keys))
        following[keys[at]] = at
    kept, queue, hits = {}, [], 0
    for at, key in enumerate(keys):
        hits += key in kept
        kept[key] = next_use[at]
        heapq.heappush(queue, (-next_use[at], key))
        while len(kept) > objects:
            use, farthest = heapq.heappop(queue)
            if kept.get(farthest) == -use:
                del kept[farthest]
    return hits / len(keys)


def epochs(name: str, count: int, seed: int, members: int = MEMBERS) -> list[str]:
    """Reads of one data set, each time in another order."""
    chance = random.Random(seed)
    names = [f"{name}{number}" for number in range(members)]
    return list(itertools.chain(*(chance.sample(names, members) for _ in range(count))))


def members_of(name: str, keys: list[str]) -> list[str]:
    return [f"{key} {OBJECT_BYTES} {name}" for key in keys]


def close(title: str, ours: float, reference: float, points: float) -> None:
    print(f"\n   {title:38} ours {ours:.4f}, reference {reference:.4f}", flush=True)
    verdict(f"{title}: points below", 100 * (reference - ours), points)


def bounded(title: str, replayed: Replayed) -> None:
    written = replayed.new_bytes + replayed.carried_bytes
    print(f"\n   {title}: {written >> 20} MiB written, {replayed.carried_bytes >> 20} of them carried", flush=True)
    verdict(f"{title}: written for each new byte", written / replayed.new_bytes, WRITES_MAX)


@pytest.mark.parametrize("tier", [memory, disk, packed], ids=lambda tier: tier.__name__)
@pytest.mark.parametrize("trace", TRACES)
def test_s3fifo_is_as_good_as_libcachesims(traces, trace, tier, tmp_path):
    keys, objects = traces[trace], TRACES[trace]
    ours = tier([f"{key} {OBJECT_BYTES}" for key in keys], tmp_path, objects)
    if tier is packed:
        bounded(f"{trace}, packed", ours)
    close(f"{trace}, {objects} objects, {tier.__name__}", ours.hit_ratio, simulated(keys, objects), 1.0)


@pytest.mark.parametrize("tier, members", [(disk, MEMBERS), (packed, PACKED_MEMBERS)], ids=["disk", "packed"])
@pytest.mark.parametrize("percent", [20, 50, 80])
def test_shuffled_epochs_are_as_good_as_belady(percent, tier, members, tmp_path):
    keys, objects = epochs("set", 6, percent, members), members * percent // 100
    ours = tier(members_of("set", keys), tmp_path, objects).hit_ratio
    close(f"shuffled epochs, {percent} %, {tier.__name__}", ours, belady(keys, objects), 1.0)


def test_two_data_sets_in_turn_are_as_good_as_belady(tmp_path):
    first, second, objects = epochs("first", 4, 1), epochs("second", 4, 2), MEMBERS // 2
    lines = members_of("first", first) + members_of("second", second)
    ours = disk(lines, tmp_path, objects).hit_ratio
    close("two data sets in turn, 50 % on disk", ours, belady(first + second, objects), 2.0)


@pytest.mark.parametrize("tier", [memory, disk], ids=lambda tier: tier.__name__)
@pytest.mark.parametrize("trace", TRACES)
def test_estimates_for_larger_tiers_are_what_larger_tiers_hit(traces, trace, tier, tmp_path):
    lines, objects = [f"{key} {OBJECT_BYTES}" for key in traces[trace]], SHADOWED[trace, tier.__name__]
    replayed = [tier(lines, tmp_path / str(size), size * objects) for size in SIZES]
    estimates = replayed[0].estimates
    print(f"\n   {trace}, {objects} objects, {tier.__name__}")
    for size, estimate, (hit, *_) in zip(SIZES, estimates, replayed, strict=True):
        print(f"   {size}x: replayed {hit:.4f}, estimated at 1x {estimate:.4f}", flush=True)
    for size, estimate, (hit, *_) in zip(SIZES, estimates, replayed, strict=True):
        verdict(f"{trace}, {tier.__name__}, {size}x: points off", 100 * abs(hit - estimate), 3.0)
