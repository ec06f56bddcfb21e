"""The fault disk itself: in order it is a file system, and each fault does what its name says."""

import errno
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest

from harness.fault_disk import FaultDisk
from harness.wait import wait_for

BODY = bytes(range(256)) * 5000


@pytest.fixture
def disk(tmp_path):
    with FaultDisk(tmp_path / "disk") as disk:
        yield disk


@contextmanager
def refused(number: int):
    with pytest.raises(OSError) as refusal:
        yield
    assert refusal.value.errno == number, refusal.value


def sync(path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def test_in_order_it_is_a_file_system(disk):
    top = disk.path / "top"
    (top / "below").mkdir(parents=True)
    (top / "file").write_bytes(BODY)
    assert (top / "file").read_bytes() == BODY
    assert (top / "file").stat().st_size == len(BODY)
    with (top / "file").open("r+b", buffering=0) as file:
        os.ftruncate(file.fileno(), 100)
        os.pwrite(file.fileno(), b"far", 1 << 30)
        assert os.pread(file.fileno(), 3, 99) == BODY[99:100] + bytes(2)
        assert os.fstat(file.fileno()).st_blocks * 512 < 1 << 20
        os.posix_fallocate(file.fileno(), 0, 1 << 20)
        assert os.fstat(file.fileno()).st_blocks * 512 >= 1 << 20
        (top / "file").rename(top / "below" / "moved")
        assert os.pread(file.fileno(), 3, 1 << 30) == b"far"
    assert sorted(path.name for path in top.iterdir()) == ["below"]
    os.utime(top / "below" / "moved", ns=(1, 2))
    assert (top / "below" / "moved").stat().st_mtime_ns == 2
    (top / "below" / "moved").chmod(0o640)
    assert (top / "below" / "moved").stat().st_mode & 0o777 == 0o640
    with refused(errno.ENOTEMPTY):
        (top / "below").rmdir()
    (top / "below" / "moved").unlink()
    (top / "below").rmdir()
    assert list(top.iterdir()) == []


def test_a_directory_of_many_files_is_listed_whole_while_they_go(disk):
    for number in range(3000):
        (disk.path / f"file-{number}").touch()
    with os.scandir(disk.path) as entries:
        seen = [entry.name for entry in entries if not os.unlink(entry.path)]
    assert len(set(seen)) == len(seen) == 3000
    assert list(disk.path.iterdir()) == []


def test_what_was_not_fsynced_is_lost(disk):
    kept, lost, unnamed = (disk.path / name for name in ("kept", "lost", "unnamed"))
    kept.write_bytes(BODY)
    sync(kept)
    lost.write_bytes(BODY)
    sync(disk.path)
    unnamed.write_bytes(BODY)
    sync(unnamed)
    with kept.open("r+b", buffering=0) as file:
        file.truncate(10)
        os.fsync(file.fileno())
        os.pwrite(file.fileno(), b"after", 3)
        file.truncate(300)
    disk.lose()
    assert sorted(path.name for path in disk.path.iterdir()) == ["kept", "lost"]
    assert kept.read_bytes() == BODY[:10]
    assert lost.read_bytes() == b""


def test_a_file_cut_and_grown_again_keeps_nothing_of_what_was_cut(disk):
    file = disk.path / "file"
    file.write_bytes(BODY)
    sync(file)
    sync(disk.path)
    os.truncate(file, 10)
    os.truncate(file, 20)
    sync(file)
    disk.lose()
    assert file.read_bytes() == BODY[:10] + bytes(10)


def test_names_are_as_when_their_directory_was_fsynced(disk):
    old, new, gone, made = (disk.path / name for name in ("old", "new", "gone", "made"))
    for path in (old, new, gone):
        path.write_text(path.name)
        sync(path)
    sync(disk.path)
    old.rename(new)
    gone.unlink()
    made.mkdir()
    (made / "below").touch()
    sync(made)
    disk.lose()
    assert {path.name: path.read_text() for path in disk.path.iterdir()} == {"old": "old", "new": "new", "gone": "gone"}


def test_each_fault_is_what_its_name_says_and_ends(disk):
    file = disk.path / "file"
    file.write_bytes(BODY)
    disk.fail()
    with refused(errno.EIO):
        file.stat()
    disk.fail_reads()
    with refused(errno.EIO):
        file.read_bytes()
    file.write_bytes(BODY)
    descriptor = os.open(file, os.O_RDWR)
    for fault, number in ((disk.fail_writes, errno.EIO), (disk.full, errno.ENOSPC), (disk.read_only, errno.EROFS)):
        fault()
        assert file.read_bytes() == BODY
        with refused(number):
            os.pwrite(descriptor, b"x", 0)
        with refused(number):
            (disk.path / "new").touch()
    disk.full()
    assert os.statvfs(disk.path).f_bavail == 0
    file.unlink()
    disk.ok()
    assert os.pwrite(descriptor, b"x", 0) == 1
    os.close(descriptor)


def test_who_waits_for_a_disk_that_hangs_goes_on_after_it(disk):
    file = disk.path / "file"
    file.write_bytes(BODY)
    read = []
    reader = Thread(target=lambda: read.append(file.read_bytes()))
    disk.hang()
    reader.start()
    reader.join(0.2)
    assert reader.is_alive()
    disk.ok()
    reader.join(10)
    assert read == [BODY]


def test_who_waits_for_a_disk_that_hangs_can_be_killed(disk):
    script = "import sys; file = open('file', 'wb', 0); sys.stdout.write('.'); file.write(sys.stdin.buffer.read(1))"
    waiting = subprocess.Popen([sys.executable, "-uc", script], cwd=disk.path, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert waiting.stdout.read(1) == b"."
    disk.hang()
    waiting.stdin.write(b"x")
    waiting.stdin.flush()
    wait_for(lambda: "fuse" in Path(f"/proc/{waiting.pid}/stack").read_text(), 10, "the write to hang")
    waiting.kill()
    assert waiting.wait(10) == -signal.SIGKILL
    waiting.stdin.close()
    waiting.stdout.close()
