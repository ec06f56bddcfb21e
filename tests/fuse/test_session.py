"""The mount as a whole: passthrough, access, a dead mount cleared, unmount at shutdown."""

import contextlib
import errno
import os
import threading
import traceback

import pytest
from harness.gateway import Gateway, settings
from harness.place import Place
from harness.tool import has_fuse, machine
from harness.wait import wait_for

DATA = os.urandom(4 << 20)


@pytest.fixture
def own(tmp_path, store):
    """A gateway that may be killed: one fs, one memory and one S3 mount."""
    machine(has_fuse(), "no /dev/fuse, or not root")
    (tmp_path / "disk").mkdir()
    mounts = {
        "/disk": {"store": "fs", "options": {"root": str(tmp_path / "disk")}},
        "/bucket": store.mount(store.bucket("fuse")),
    }
    running = Gateway(tmp_path, settings(tmp_path, mounts)).start()
    yield running
    running.stop()
    running.clear_mount()


def opens(gateway, mode):
    return gateway.metrics().total("forebay_fuse_opens_total", mode=mode)


def test_a_local_disk_s_file_is_read_by_passthrough(own, tmp_path):
    (tmp_path / "disk" / "f").write_bytes(DATA)
    before = opens(own, "passthrough")
    assert (own.mountpoint / "disk" / "f").read_bytes() == DATA
    assert opens(own, "passthrough") == before + 1


def test_a_fully_cached_object_is_promoted_to_passthrough(own):
    own.s3().put_object(Bucket="bucket", Key="f", Body=DATA)
    path = own.mountpoint / "bucket" / "f"

    def promoted():
        assert path.read_bytes() == DATA
        return opens(own, "passthrough") > 0

    wait_for(promoted, 10, "an open by passthrough")


def test_writes_go_through_a_lent_file(own, tmp_path):
    before = opens(own, "passthrough") + opens(own, "staged")
    (own.mountpoint / "disk" / "f").write_bytes(DATA)
    assert opens(own, "passthrough") + opens(own, "staged") == before + 1
    assert (tmp_path / "disk" / "f").read_bytes() == DATA


def test_open_modes_may_change_while_readers_race_with_replacements(own):
    """A replaced file never gives EIO, ESTALE or a mix of two versions to a reader."""
    path, s3 = own.mountpoint / "disk" / "raced", own.s3()
    versions = [bytes([letter]) * 300_000 for letter in range(4)]
    s3.put_object(Bucket="disk", Key="raced", Body=versions[0])
    problems, stop = [], threading.Event()

    def read():
        while not stop.is_set():
            try:
                content = path.read_bytes()
            except OSError:
                problems.append(traceback.format_exc())
                return
            if content not in versions:
                problems.append(f"mixed: {set(content)} {len(content)}")
                return

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(60):
        s3.put_object(Bucket="disk", Key="raced", Body=versions[number % 4])
    stop.set()
    for reader in readers:
        reader.join(20)
    assert not problems, problems[0]


def test_a_dead_mount_is_cleared_at_start(own):
    (own.mountpoint / "disk" / "f").write_bytes(b"x")
    own.kill()
    with pytest.raises(OSError) as dead:
        os.listdir(own.mountpoint)
    assert dead.value.errno == errno.ENOTCONN
    own.start()
    assert (own.mountpoint / "disk" / "f").read_bytes() == b"x"


def test_shutdown_unmounts_even_with_an_open_file(own):
    (own.mountpoint / "disk" / "f").write_bytes(b"x")
    with (own.mountpoint / "disk" / "f").open("rb"):
        mountpoint = own.mountpoint
        own.stop()
        assert not os.path.ismount(mountpoint)
        assert os.listdir(mountpoint) == []


def test_what_was_written_and_not_closed_is_published_at_shutdown(own, tmp_path):
    target = (own.mountpoint / "disk" / "f").open("wb", buffering=0)
    target.write(b"acknowledged")
    os.fsync(target.fileno())
    own.stop()
    with contextlib.suppress(OSError):  # the mount is gone; what was fsynced is not
        target.close()
    assert (tmp_path / "disk" / "f").read_bytes() == b"acknowledged"


def test_the_root_lists_the_mounts_and_takes_no_files(gateway):
    machine(gateway.mountpoint, "no /dev/fuse, or not root")
    assert sorted(os.listdir(gateway.mountpoint)) == ["bucket", "frozen", "local", "scratch"]
    with pytest.raises(OSError):
        (gateway.mountpoint / "file").write_bytes(b"x")
    with pytest.raises(OSError):
        (gateway.mountpoint / "scratch").rmdir()


def test_a_read_only_mount_takes_no_writes(gateway):
    machine(gateway.mountpoint, "no /dev/fuse, or not root")
    frozen = gateway.mountpoint / "frozen"
    assert (frozen / "kept.txt").read_bytes() == b"kept"
    for attempt in (
        lambda: (frozen / "new").write_bytes(b"x"),
        lambda: (frozen / "kept.txt").open("r+b"),
        lambda: (frozen / "kept.txt").unlink(),
        lambda: (frozen / "d").mkdir(),
        lambda: os.truncate(frozen / "kept.txt", 0),
    ):
        with pytest.raises(OSError) as refusal:
            attempt()
        assert refusal.value.errno in (errno.EROFS, errno.EACCES)


def test_changes_on_the_disk_itself_become_visible(own, tmp_path):
    path = own.mountpoint / "disk" / "f"
    (tmp_path / "disk" / "f").write_bytes(b"one")
    assert path.read_bytes() == b"one"
    (tmp_path / "disk" / "f").write_bytes(b"another")
    wait_for(lambda: path.read_bytes() == b"another", 10, "the change at the store")


def test_a_directory_seen_by_one_frontend_is_seen_by_the_others(tree, place: Place, s3, hdfs):
    (tree / "made").mkdir()
    assert hdfs.status(place.path("made")).value["type"] == "DIRECTORY"
    s3.put_object(Bucket=place.bucket, Key=place.key("implied/deep/o"), Body=b"x")
    assert sorted(os.listdir(tree)) == ["implied", "made"]
    assert hdfs.names(place.path()) == ["implied/", "made/"]
