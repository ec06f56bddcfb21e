"""Files and directories in memory that know what of them was fsynced."""

import errno
import os
import time
from dataclasses import dataclass

PIECE = 1 << 20


@dataclass(frozen=True)
class Status:
    size: int
    blocks: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int


class Node:
    """What files and directories share."""

    def __init__(self, number: int, mode: int) -> None:
        self.number = number
        self.mode = mode
        self.uid = self.gid = 0
        self.links = 0
        # How often the kernel was told of it.
        self.lookups = 0


class File(Node):
    """The bytes that are visible, and those that were fsynced."""

    def __init__(self, number: int, mode: int) -> None:
        super().__init__(number, mode)
        self.now = _sparse()
        self.kept = _sparse()
        # Ranges written since the last fsync, and the shortest it has been since.
        self.dirty: list[tuple[int, int]] = []
        self.shortest = 0

    def status(self) -> Status:
        found = os.fstat(self.now.fileno())
        return Status(found.st_size, found.st_blocks, found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns)

    def write(self, piece: bytes | memoryview, offset: int) -> int:
        written = os.pwrite(self.now.fileno(), piece, offset)
        is_next = self.dirty and self.dirty[-1][1] == offset
        start = self.dirty.pop()[0] if is_next else offset
        self.dirty.append((start, offset + written))
        return written

    def truncate(self, size: int) -> None:
        os.ftruncate(self.now.fileno(), size)
        self.shortest = min(self.shortest, size)

    def touch(self, atime_ns: int, mtime_ns: int) -> None:
        os.utime(self.now.fileno(), ns=(atime_ns, mtime_ns))

    def keep(self) -> None:
        """Fsync."""
        _copy(self.now, self.kept, self.shortest, self.dirty)
        self.dirty = []
        self.shortest = self.status().size

    def lose(self) -> None:
        """Makes what was fsynced visible again."""
        _copy(self.kept, self.now, 0, [(0, os.fstat(self.kept.fileno()).st_size)])
        self.dirty = []
        self.shortest = self.status().size


class Folder(Node):
    """The names that are visible, and those that were fsynced."""

    def __init__(self, number: int, mode: int) -> None:
        super().__init__(number, mode)
        self.now: dict[bytes, Node] = {}
        self.kept: dict[bytes, Node] = {}
        self.changed_ns = time.time_ns()

    def status(self) -> Status:
        return Status(4096, 8, self.changed_ns, self.changed_ns, self.changed_ns)

    def touch(self, _: int, mtime_ns: int) -> None:
        self.changed_ns = mtime_ns

    def child(self, name: bytes) -> Node:
        if name not in self.now:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return self.now[name]

    def put(self, name: bytes, node: Node) -> None:
        if name in self.now:
            self.now[name].links -= 1
        self.now[name] = node
        node.links += 1
        self.changed_ns = time.time_ns()

    def take(self, name: bytes) -> Node:
        node = self.child(name)
        del self.now[name]
        node.links -= 1
        self.changed_ns = time.time_ns()
        return node

    def keep(self) -> None:
        """Fsync."""
        self.kept = dict(self.now)

    def lose(self) -> None:
        """Drops, here and below, what was not fsynced."""
        for name in list(self.now):
            self.take(name)
        for name, node in self.kept.items():
            self.put(name, node)
            node.lose()


def _sparse():
    return os.fdopen(os.memfd_create("fault-disk"), "r+b", 0)


def _copy(source, target, shortest: int, ranges: list[tuple[int, int]]) -> None:
    """Brings `target` to the size of `source`, through `shortest`, and copies `ranges`."""
    size = os.fstat(source.fileno()).st_size
    os.ftruncate(target.fileno(), min(shortest, size))
    os.ftruncate(target.fileno(), size)
    for start, end in ranges:
        offset = start
        while offset < min(end, size):
            piece = os.pread(source.fileno(), min(end, size, offset + PIECE) - offset, offset)
            offset += os.pwrite(target.fileno(), piece, offset)
