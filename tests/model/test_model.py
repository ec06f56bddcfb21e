"""Random operations through all frontends against the reference. FOREBAY_MODEL_SEED and FOREBAY_MODEL_OPS set the run."""

import os
import random
import secrets
from collections import Counter

import pytest
from harness.place import STORES
from model.frontends import S3, Frontend, Fuse, Hdfs
from model.reference import Tree

SEED = int(os.environ.get("FOREBAY_MODEL_SEED") or secrets.randbelow(1_000_000))
OPERATIONS = int(os.environ.get("FOREBAY_MODEL_OPS") or 500)
WHOLE_CHECK_EVERY = 20
TAIL = 60


class World:
    """One mount's reference and its frontends."""

    def __init__(self, gateway, place) -> None:
        self.tree = Tree()
        self.trace: list[str] = []
        shared = (self.tree, random.Random(f"{SEED} {place.store}"), self.trace)
        self.choose = shared[1]
        self.s3 = S3(gateway.s3(), place.bucket, place.directory, *shared)
        self.hdfs = Hdfs(gateway.webhdfs(), place.path(), *shared)
        self.frontends: list[Frontend] = [self.s3, self.hdfs]
        self.views = [self.hdfs]
        self.hdfs.client.mkdirs(place.path())
        if gateway.mountpoint:
            fuse = Fuse(place.file(), *shared)
            self.frontends.append(fuse)
            self.views.append(fuse)

    def step(self) -> str:
        """One operation that did something; its frontend's name."""
        while True:
            frontend = self.choose.choice(self.frontends)
            before = len(self.trace)
            touched = self.choose.choice(frontend.operations())()
            if len(self.trace) == before:
                continue
            if frontend is self.s3:
                self.adopt_vanished_directories(touched)
            for path in touched:
                self.check(path)
            return frontend.name

    def adopt_vanished_directories(self, touched: list[str]) -> None:
        """A directory that was there through an object alone may go with it; the frontends must agree on that."""
        for path in touched:
            for above in Tree.ancestors(path):
                if not above or self.tree.below(above) or not self.tree.is_directory(above):
                    continue
                kept = {view.name: view.is_directory(above) for view in self.views}
                assert len(set(kept.values())) == 1, f"frontends disagree on whether {above!r} is still there: {kept}"
                if not kept["webhdfs"]:
                    self.tree.remove(above)

    def check(self, path: str) -> None:
        """The path is the same through every frontend, at once."""
        expected = self.tree.files.get(path)
        for frontend in self.frontends:
            found = frontend.read(path) if path else None
            assert found == expected, f"{frontend.name} shows {brief(found)} for {path!r}, not {brief(expected)}"
        for view in self.views:
            assert view.is_directory(path) == self.tree.is_directory(path), f"{view.name}: is {path!r} a directory?"

    def check_whole(self) -> None:
        assert self.s3.all_files() == {name: len(data) for name, data in self.tree.files.items()}
        for directory in sorted(self.tree.directories):
            for view in self.views:
                assert view.children(directory) == self.tree.children(directory), f"{view.name} lists {directory!r}"
        for path in sorted(self.tree.files):
            self.check(path)


def brief(data: bytes | None) -> str:
    return "nothing" if data is None else f"{len(data)} bytes {data[:12].hex()}…"


@pytest.mark.parametrize("kind", STORES)
def test_frontends_agree_with_the_reference(gateway, place_in, kind):
    world = World(gateway, place_in(kind))
    counts = Counter()
    try:
        for number in range(OPERATIONS):
            counts[world.step()] += 1
            if number % WHOLE_CHECK_EVERY == 0:
                world.check_whole()
        world.check_whole()
    except Exception as problem:
        tail = "\n".join(world.trace[-TAIL:])
        pytest.fail(f"seed {SEED}, store {kind}, after {len(world.trace)} operations: {problem!r}\n{tail}", pytrace=False)
    finally:
        done = ", ".join(f"{name} {counts[name]}" for name in ("s3", "webhdfs", "fuse"))
        print(f"\nmodel: seed {SEED}, store {kind}: {done} operations", flush=True)
