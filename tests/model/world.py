"""One mount, its reference, and the frontends that must agree on it."""

import random

from harness.wait import wait_for
from model.frontends import S3, Frontend, Fuse, Hdfs
from model.operation import Operation, is_temporary
from model.reference import Tree

AGREEMENT_S = 10


class World:
    """Runs one operation at a time. `seed` decides which."""

    def __init__(self, gateway, bucket: str, directory: str, seed: str) -> None:
        self.tree = Tree()
        self.trace: list[str] = []
        self.choose = random.Random(seed)
        shared = (self.tree, self.choose)
        self.s3 = S3(gateway.s3(), bucket, directory, *shared)
        self.hdfs = Hdfs(gateway.webhdfs(), f"/{bucket}/{directory}", *shared)
        self.frontends: list[Frontend] = [self.s3, self.hdfs]
        self.views = [self.hdfs]
        self.hdfs.client.mkdirs(self.hdfs.base)
        if gateway.mountpoint:
            fuse = Fuse(gateway.mountpoint / bucket / directory, *shared)
            self.frontends.append(fuse)
            self.views.append(fuse)

    def plan(self) -> tuple[Frontend, Operation]:
        while True:
            frontend = self.choose.choice(self.frontends)
            if operation := frontend.plan():
                self.trace.append(f"{len(self.trace):5} {frontend.name:7} {operation.text}")
                return frontend, operation

    def step(self) -> str:
        """One operation, and what it touched through every frontend; its frontend's name."""
        frontend, operation = self.plan()
        operation.run()
        self.complete(frontend, operation)
        return frontend.name

    def complete(self, frontend: Frontend, operation: Operation) -> None:
        if operation.effect:
            operation.effect()
        if frontend is self.s3:
            self.adopt_vanished_directories(operation.touched)
        for path in operation.touched:
            self.check(path)

    def attempt(self, frontend: Frontend, operation: Operation) -> bool:
        """Whether the operation got an answer. Without one, `adopt` tells what became of it."""
        try:
            operation.run()
        except Exception as error:
            if not is_temporary(error):
                raise
            self.trace.append(f"      failed: {error!r:.120}")
            return False
        return True

    def adopt(self, operation: Operation) -> None:
        """Takes what is there for the truth where it is the old or the new state, path by path, and fails where it is neither.

        The frontends get a moment to agree: FUSE tries once more after a failed close, and the kernel may go on with
        what it knew of a change that failed half-way.
        """
        before = self.tree.copy()
        if operation.effect:
            operation.effect()
        after = self.tree.copy()
        changed = {path for path, _ in before.files.items() ^ after.files.items()} | (before.directories ^ after.directories)
        paths = {path for path in (*operation.touched, *operation.leaves, *changed) if path}
        wait_for(lambda: self.agree_on(paths), AGREEMENT_S, f"agreement on {sorted(paths)}")
        self.adopt_files(paths, before, after, operation.leaves)
        for path in sorted(before.directories | after.directories, reverse=True):  # what is below decides first
            self.adopt_directory(path, path in before.directories and path in after.directories)
        self.adopt_vanished_directories([*self.tree.files, *operation.touched])
        for path in paths:
            self.check(path)

    def agree_on(self, paths: set[str]) -> bool:
        contents = all(len({frontend.read(path) for frontend in self.frontends}) == 1 for path in paths)
        return contents and all(len({view.is_directory(path) for view in self.views}) == 1 for path in paths)

    def adopt_files(self, paths: set[str], before: Tree, after: Tree, leaves: dict[str, bytes]) -> None:
        for path in sorted(paths):
            found = self.hdfs.read(path)
            allowed = [before.files.get(path), after.files.get(path), *([leaves[path]] if path in leaves else [])]
            assert found in allowed, f"{path!r} is {brief(found)}, neither of {[brief(data) for data in allowed]}"
            if found is None:
                self.tree.files.pop(path, None)
            else:
                self.tree.write(path, found)
        moved = {data for data in before.files.values() if data} & {data for data in after.files.values() if data}
        lost = moved - set(self.tree.files.values())
        assert not lost, f"content was lost on its way to another name: {[brief(data) for data in lost]}"

    def adopt_directory(self, path: str, is_certain: bool) -> None:
        if self.tree.below(path) or is_certain:
            return
        if self.hdfs.is_directory(path):
            self.tree.make_directories(path)
        else:
            self.tree.directories.discard(path)

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
