"""The process behind `FaultDisk`: a file system in memory that speaks FUSE over /dev/fuse.

`python -m harness.fault_disk_server DIRECTORY` mounts and prints `done`; then it takes an order a line on standard input,
prints `done` for each, and unmounts at the end of input. Structures are those of <linux/fuse.h>, protocol 7.31.
"""

import ctypes
import errno
import os
import resource
import select
import stat
import struct
import sys
import time
from collections.abc import Callable
from contextlib import suppress

from harness.lossy import File, Folder, Node

MAX_WRITE = 1 << 20
ROOT = 1
BLOCK = 4096
DISK_BLOCKS = 1 << 28

MS_NOSUID, MS_NODEV, MNT_DETACH = 2, 4, 2
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
ASYNC_READ, BIG_WRITES, PARALLEL_DIROPS, MAX_PAGES = 1 << 0, 1 << 5, 1 << 18, 1 << 22
# Without FLUSH: the kernel lets nobody die who waits for one.
OPENED = 1 << 0 | 1 << 5  # FOPEN_DIRECT_IO, FOPEN_NOFLUSH
FATTR_MODE, FATTR_UID, FATTR_GID, FATTR_SIZE, FATTR_ATIME, FATTR_MTIME = 1, 2, 4, 8, 16, 32
FATTR_ATIME_NOW, FATTR_MTIME_NOW = 128, 256

REQUEST = struct.Struct("=IIQQIIIHH")
ANSWER = struct.Struct("=IiQ")
ATTRIBUTES = struct.Struct("=6Q10I")

FORGET, INTERRUPT, BATCH_FORGET = 2, 36, 42
READS = {15: "READ", 28: "READDIR"}
GROWS = {9: "MKDIR", 13: "LINK", 16: "WRITE", 35: "CREATE", 43: "FALLOCATE", 47: "COPY_FILE_RANGE"}
CHANGES = GROWS | {4: "SETATTR", 10: "UNLINK", 11: "RMDIR", 12: "RENAME", 20: "FSYNC", 30: "FSYNCDIR", 45: "RENAME2"}
OTHERS = {1: "LOOKUP", 3: "GETATTR", 14: "OPEN", 17: "STATFS", 18: "RELEASE", 26: "INIT", 27: "OPENDIR", 29: "RELEASEDIR"}
OTHERS |= {46: "LSEEK"}
NAMES = READS | CHANGES | OTHERS
SAFE = {18, 26, 29}

# What each order makes of which requests.
FAULTS: dict[str, tuple[set[int], int]] = {
    "ok": (set(), 0),
    "fail": (set(NAMES) - SAFE, errno.EIO),
    "fail-reads": (set(READS), errno.EIO),
    "fail-writes": (set(CHANGES), errno.EIO),
    "full": (set(GROWS), errno.ENOSPC),
    "ro": (set(CHANGES), errno.EROFS),
}

libc = ctypes.CDLL(None, use_errno=True)


def names(packed: memoryview) -> list[bytes]:
    return bytes(packed).split(b"\0")[:-1]


def failed(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class FileSystem:
    """Answers one request at a time; each method is one operation of the protocol, `body` what follows its header."""

    def __init__(self) -> None:
        self.root = Folder(ROOT, stat.S_IFDIR | 0o755)
        self.nodes: dict[int, Node] = {ROOT: self.root}
        self.listings: dict[int, list[tuple[bytes, Node]]] = {}
        self.last = ROOT
        self.mode = "ok"

    def operation(self, opcode: int) -> Callable:
        faulty, number = FAULTS[self.mode]
        if opcode in faulty:
            raise failed(number)
        if opcode not in NAMES:
            raise failed(errno.ENOSYS)
        return getattr(self, NAMES[opcode].lower())

    def init(self, _: Node, body: memoryview) -> bytes:
        ahead = struct.unpack_from("=I", body, 8)[0]
        flags = ASYNC_READ | BIG_WRITES | PARALLEL_DIROPS | MAX_PAGES
        answer = struct.pack("=4I2H2I2H", 7, 31, ahead, flags, 0xFFFF, 0xFFFF, MAX_WRITE, 1, MAX_WRITE // BLOCK, 0)
        return answer.ljust(64, b"\0")

    def attributes(self, node: Node) -> bytes:
        found = node.status()
        times = [found.atime_ns, found.mtime_ns, found.ctime_ns]
        seconds, parts = zip(*(divmod(time, 10**9) for time in times), strict=True)
        owner = (node.mode, node.links, node.uid, node.gid)
        return ATTRIBUTES.pack(node.number, found.size, found.blocks, *seconds, *parts, *owner, 0, BLOCK, 0)

    def entry(self, node: Node) -> bytes:
        node.lookups += 1
        self.nodes[node.number] = node
        return struct.pack("=4Q2I", node.number, 0, 0, 0, 0, 0) + self.attributes(node)

    def lookup(self, folder: Folder, body: memoryview) -> bytes:
        return self.entry(folder.child(names(body)[0]))

    def forget(self, number: int, lookups: int) -> None:
        node = self.nodes[number]
        node.lookups -= lookups
        if node.lookups <= 0 and number != ROOT:
            del self.nodes[number]

    def forget_all(self, opcode: int, number: int, body: memoryview) -> None:
        if opcode == FORGET:
            self.forget(number, *struct.unpack_from("=Q", body))
            return
        count = struct.unpack_from("=I", body)[0]
        for number, lookups in struct.iter_unpack("=QQ", body[8 : 8 + 16 * count]):
            self.forget(number, lookups)

    def getattr(self, node: Node, _: memoryview) -> bytes:
        return bytes(16) + self.attributes(node)

    def setattr(self, node: Node, body: memoryview) -> bytes:
        valid, _, _, size, _, *times = struct.unpack_from("=2I6Q", body)
        *parts, mode, _, uid, gid, _ = struct.unpack_from("=8I", body, 56)
        if valid & FATTR_MODE:
            node.mode = mode
        if valid & FATTR_UID:
            node.uid = uid
        if valid & FATTR_GID:
            node.gid = gid
        if valid & FATTR_SIZE:
            node.truncate(size)
        found, now = node.status(), time.time_ns()
        wanted = [found.atime_ns, found.mtime_ns]
        for place, (is_given, is_now) in enumerate(((FATTR_ATIME, FATTR_ATIME_NOW), (FATTR_MTIME, FATTR_MTIME_NOW))):
            if valid & is_given:
                wanted[place] = now if valid & is_now else times[place] * 10**9 + parts[place]
        if valid & (FATTR_ATIME | FATTR_MTIME):
            node.touch(*wanted)
        return self.getattr(node, body)

    def add(self, folder: Folder, name: bytes, node: Node) -> bytes:
        if name in folder.now:
            raise failed(errno.EEXIST)
        folder.put(name, node)
        return self.entry(node)

    def number(self) -> int:
        self.last += 1
        return self.last

    def mkdir(self, folder: Folder, body: memoryview) -> bytes:
        mode, umask = struct.unpack_from("=2I", body)
        return self.add(folder, names(body[8:])[0], Folder(self.number(), stat.S_IFDIR | mode & ~umask))

    def create(self, folder: Folder, body: memoryview) -> bytes:
        _, mode, umask = struct.unpack_from("=3I", body)
        made = self.add(folder, names(body[16:])[0], File(self.number(), stat.S_IFREG | stat.S_IMODE(mode) & ~umask))
        return made + self.opened(0, OPENED)

    def link(self, folder: Folder, body: memoryview) -> bytes:
        return self.add(folder, names(body[8:])[0], self.nodes[struct.unpack_from("=Q", body)[0]])

    def unlink(self, folder: Folder, body: memoryview) -> bytes:
        folder.take(names(body)[0])
        return b""

    def rmdir(self, folder: Folder, body: memoryview) -> bytes:
        (name,) = names(body)
        if folder.child(name).now:
            raise failed(errno.ENOTEMPTY)
        folder.take(name)
        return b""

    def rename(self, folder: Folder, body: memoryview) -> bytes:
        return self.move(folder, self.nodes[struct.unpack_from("=Q", body)[0]], names(body[8:]), 0)

    def rename2(self, folder: Folder, body: memoryview) -> bytes:
        target, flags = struct.unpack_from("=QI", body)
        return self.move(folder, self.nodes[target], names(body[16:]), flags)

    def move(self, source: Folder, target: Folder, pair: list[bytes], flags: int) -> bytes:
        old, new = pair
        moved, there = source.child(old), target.now.get(new)
        if flags & RENAME_NOREPLACE and there:
            raise failed(errno.EEXIST)
        if flags & RENAME_EXCHANGE:
            other = target.child(new)
            source.put(old, other)
        elif moved is there:
            return b""
        else:
            if isinstance(there, Folder) and there.now:
                raise failed(errno.ENOTEMPTY)
            source.take(old)
        target.put(new, moved)
        return b""

    def opened(self, handle: int, flags: int) -> bytes:
        return struct.pack("=QIi", handle, flags, 0)

    def open(self, _: File, body: memoryview) -> bytes:
        is_for_writing = struct.unpack_from("=I", body)[0] & os.O_ACCMODE != os.O_RDONLY
        if is_for_writing and self.mode == "ro":
            raise failed(errno.EROFS)
        return self.opened(0, OPENED)

    def release(self, _: File, __: memoryview) -> bytes:
        return b""

    def read(self, file: File, body: memoryview) -> bytes:
        offset, size = struct.unpack_from("=QI", body, 8)
        return os.pread(file.now.fileno(), size, offset)

    def write(self, file: File, body: memoryview) -> bytes:
        offset, size = struct.unpack_from("=QI", body, 8)
        return struct.pack("=2I", file.write(body[40 : 40 + size], offset), 0)

    def copy_file_range(self, source: File, body: memoryview) -> bytes:
        _, start, target, _, offset, length, _ = struct.unpack_from("=7Q", body)
        piece = os.pread(source.now.fileno(), min(length, MAX_WRITE), start)
        return struct.pack("=2I", self.nodes[target].write(piece, offset), 0)

    def fallocate(self, file: File, body: memoryview) -> bytes:
        _, offset, length, mode = struct.unpack_from("=3QI", body)
        if libc.fallocate(file.now.fileno(), mode, ctypes.c_long(offset), ctypes.c_long(length)):
            raise failed(ctypes.get_errno())
        file.dirty.append((offset, offset + length))
        return b""

    def lseek(self, file: File, body: memoryview) -> bytes:
        _, offset, whence = struct.unpack_from("=QqI", body)
        return struct.pack("=q", os.lseek(file.now.fileno(), offset, whence))

    def fsync(self, file: File, _: memoryview) -> bytes:
        file.keep()
        return b""

    def statfs(self, _: Node, __: memoryview) -> bytes:
        free = 0 if self.mode == "full" else DISK_BLOCKS
        return struct.pack("=5Q4I6I", DISK_BLOCKS, free, free, DISK_BLOCKS, free, BLOCK, 255, BLOCK, *[0] * 7)

    def opendir(self, folder: Folder, _: memoryview) -> bytes:
        handle = self.number()
        self.listings[handle] = [(b".", folder), (b"..", folder), *folder.now.items()]
        return self.opened(handle, 0)

    def readdir(self, _: Folder, body: memoryview) -> bytes:
        handle, offset, size = struct.unpack_from("=2QI", body)
        answer = bytearray()
        for place, (name, node) in enumerate(self.listings[handle][offset:], offset + 1):
            record = struct.pack("=2Q2I", node.number, place, len(name), node.mode >> 12) + name
            record += bytes(-len(record) % 8)
            if len(answer) + len(record) > size:
                break
            answer += record
        return bytes(answer)

    def releasedir(self, _: Folder, body: memoryview) -> bytes:
        del self.listings[struct.unpack_from("=Q", body)[0]]
        return b""

    def fsyncdir(self, folder: Folder, _: memoryview) -> bytes:
        folder.keep()
        return b""


class Server:
    """The connection to the kernel, and the orders."""

    def __init__(self, directory: str) -> None:
        self.system = FileSystem()
        self.directory = os.fsencode(directory)
        self.device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self.device},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
        if libc.mount(b"fault", self.directory, b"fuse.fault", MS_NOSUID | MS_NODEV, options.encode()):
            raise failed(ctypes.get_errno())
        self.request = memoryview(bytearray(MAX_WRITE + BLOCK))
        self.poller = select.poll()
        self.poller.register(self.device, select.POLLIN)
        self.poller.register(0, select.POLLIN)

    def run(self) -> None:
        print("done", flush=True)
        while True:
            ready = {descriptor for descriptor, _ in self.poller.poll()}
            if 0 in ready:
                orders = os.read(0, BLOCK)
                if not orders:
                    return
                for order in orders.decode().split():
                    self.obey(order)
            elif self.device in ready and not self.answer():
                return

    def obey(self, order: str) -> None:
        if order == "lose":
            self.system.root.lose()
        elif order == "hang":
            self.poller.modify(self.device, 0)
        else:
            self.system.mode = order
            self.poller.modify(self.device, select.POLLIN)
        print("done", flush=True)

    def answer(self) -> bool:
        """One request; `False` once it is unmounted."""
        try:
            size = os.readv(self.device, [self.request])
        except OSError as error:
            return error.errno != errno.ENODEV
        _, opcode, unique, number, *_ = REQUEST.unpack_from(self.request)
        body = self.request[REQUEST.size : size]
        if opcode in (FORGET, BATCH_FORGET):
            self.system.forget_all(opcode, number, body)
        elif opcode != INTERRUPT:
            error, answer = self.outcome(opcode, number, body)
            # Whoever asked may be gone.
            with suppress(FileNotFoundError):
                os.writev(self.device, [ANSWER.pack(ANSWER.size + len(answer), -error, unique), answer])
        return True

    def outcome(self, opcode: int, number: int, body: memoryview) -> tuple[int, bytes]:
        try:
            operation = self.system.operation(opcode)
            # INIT is about no file.
            return 0, operation(self.system.nodes.get(number, self.system.root), body)
        except OSError as error:
            return error.errno or errno.EIO, b""


def main() -> None:
    # Two descriptors a file.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    server = Server(sys.argv[1])
    try:
        server.run()
    finally:
        libc.umount2(server.directory, MNT_DETACH)


if __name__ == "__main__":
    main()
