"""Files through the mount: every kind of write, what a reader of an open file sees, per store."""

import errno
import hashlib
import mmap
import os
import shutil
import stat
import subprocess

import pytest

MIB = 1 << 20
DATA = hashlib.shake_128(b"fuse").digest(3 * MIB + 77)


def fails(number):
    return pytest.raises(OSError, match=rf"\[Errno {number}\]")


def test_what_is_written_is_what_is_read(tree):
    (tree / "f").write_bytes(DATA)
    assert (tree / "f").stat().st_size == len(DATA)
    assert (tree / "f").read_bytes() == DATA


def test_an_empty_file_exists_as_soon_as_it_is_created(tree):
    with (tree / "f").open("xb"):
        assert (tree / "f").stat().st_size == 0
    assert (tree / "f").read_bytes() == b""
    with pytest.raises(FileExistsError):
        (tree / "f").open("xb")


def test_append_adds_to_what_is_there(tree):
    (tree / "f").write_bytes(DATA)
    for piece in (b"one", b"two"):
        with (tree / "f").open("ab") as target:
            target.write(piece)
    assert (tree / "f").read_bytes() == DATA + b"onetwo"


def test_random_writes_change_only_their_bytes(tree):
    expected = bytearray(DATA)
    (tree / "f").write_bytes(DATA)
    with (tree / "f").open("r+b") as target:
        for offset in (MIB - 3, 0, 2 * MIB + 5, len(DATA) - 1):
            target.seek(offset)
            target.write(b"wxyz")
            expected[offset : offset + 4] = b"wxyz"
    assert (tree / "f").read_bytes() == bytes(expected)


def test_a_gap_reads_as_zeros(tree):
    with (tree / "f").open("wb") as target:
        target.seek(100_000)
        target.write(b"end")
    assert (tree / "f").read_bytes() == bytes(100_000) + b"end"


@pytest.mark.parametrize("size", [0, 1, MIB, len(DATA), len(DATA) + 5000])
def test_truncate_cuts_and_extends(tree, size):
    (tree / "f").write_bytes(DATA)
    os.truncate(tree / "f", size)
    assert (tree / "f").read_bytes() == (DATA + bytes(5000))[:size]


def test_truncate_of_an_open_file(tree):
    with (tree / "f").open("w+b") as target:
        target.write(DATA)
        target.truncate(10)
        target.seek(0)
        assert target.read() == DATA[:10]
    assert (tree / "f").read_bytes() == DATA[:10]


def test_open_with_truncate_replaces_the_content(tree):
    (tree / "f").write_bytes(DATA)
    (tree / "f").write_bytes(b"short")
    assert (tree / "f").read_bytes() == b"short"


def test_a_file_is_readable_while_it_is_written(tree):
    with (tree / "f").open("w+b", buffering=0) as target:
        target.write(b"first")
        assert os.pread(target.fileno(), 10, 0) == b"first"
        target.write(b"second")
        assert os.pread(target.fileno(), 20, 0) == b"firstsecond"


def test_two_writers_of_one_file_see_each_other(tree):
    with (tree / "f").open("wb", buffering=0) as one, (tree / "f").open("r+b", buffering=0) as other:
        one.write(b"aaaa")
        other.seek(4)
        other.write(b"bbbb")
        assert os.fstat(one.fileno()).st_size == 8
    assert (tree / "f").read_bytes() == b"aaaabbbb"


def test_duplicated_descriptors_share_one_file(tree):
    descriptor = os.open(tree / "f", os.O_CREAT | os.O_RDWR)
    copy = os.dup(descriptor)
    os.write(descriptor, b"one")
    os.close(descriptor)
    os.write(copy, b"two")
    os.close(copy)
    assert (tree / "f").read_bytes() == b"onetwo"


def test_fsync_makes_the_content_visible_elsewhere(tree, s3, place):
    with (tree / "f").open("wb") as target:
        target.write(b"synced")
        target.flush()
        os.fsync(target.fileno())
        assert s3.get_object(Bucket=place.bucket, Key=place.key("f"))["Body"].read() == b"synced"


def test_an_open_file_keeps_its_version_when_it_is_replaced(tree, s3, place):
    (tree / "f").write_bytes(b"old" * 1000)
    with (tree / "f").open("rb", buffering=0) as reader:
        assert reader.read(3) == b"old"  # what a reader has seen of an object is kept for it
        inode = os.fstat(reader.fileno()).st_ino
        s3.put_object(Bucket=place.bucket, Key=place.key("f"), Body=b"new")
        assert reader.read() == b"old" * 999
        assert (tree / "f").read_bytes() == b"new"
        assert (tree / "f").stat().st_ino != inode


def test_an_unlinked_file_stays_readable_until_it_is_closed(tree):
    (tree / "f").write_bytes(DATA)
    with (tree / "f").open("rb") as reader:
        assert reader.read() == DATA
        (tree / "f").unlink()
        assert not (tree / "f").exists()
        reader.seek(0)
        assert reader.read() == DATA


def test_writing_in_place_keeps_the_inode(tree):
    (tree / "f").write_bytes(b"one")
    before = (tree / "f").stat().st_ino
    with (tree / "f").open("r+b") as target:
        target.write(b"two")
    assert (tree / "f").stat().st_ino == before


def test_mmap_reads_and_writes(tree):
    (tree / "f").write_bytes(DATA)
    with (tree / "f").open("r+b") as target, mmap.mmap(target.fileno(), 0) as view:
        assert view[:] == DATA
        view[MIB : MIB + 4] = b"MMAP"
        view.flush()
    assert (tree / "f").read_bytes()[MIB : MIB + 4] == b"MMAP"


def test_a_write_only_opened_file_cannot_be_read(tree):
    descriptor = os.open(tree / "f", os.O_CREAT | os.O_WRONLY)
    with fails(errno.EBADF):
        os.read(descriptor, 1)
    os.close(descriptor)


def test_modes_owners_and_times_are_kept(tree):
    (tree / "f").write_bytes(b"x")
    (tree / "f").chmod(0o640)
    os.utime(tree / "f", (1_000_000_000, 1_100_000_000))
    found = (tree / "f").stat()
    assert (stat.S_IMODE(found.st_mode), int(found.st_mtime)) == (0o640, 1_100_000_000)
    assert (tree / "f").read_bytes() == b"x"


def test_extended_attributes(tree):
    (tree / "f").write_bytes(b"x")
    os.setxattr(tree / "f", "user.colour", b"green")
    assert os.getxattr(tree / "f", "user.colour") == b"green"
    assert "user.colour" in os.listxattr(tree / "f")
    with fails(errno.EEXIST):
        os.setxattr(tree / "f", "user.colour", b"red", os.XATTR_CREATE)
    os.removexattr(tree / "f", "user.colour")
    with fails(errno.ENODATA):
        os.getxattr(tree / "f", "user.colour")


def test_the_etag_shows_as_an_attribute(tree, s3, place):
    (tree / "f").write_bytes(b"x")
    tag = s3.head_object(Bucket=place.bucket, Key=place.key("f"))["ETag"].strip('"')
    assert os.getxattr(tree / "f", "user.etag").decode().strip('"') == tag


def test_copying_with_cp_and_dd(tree):
    (tree / "f").write_bytes(DATA)
    subprocess.run(["cp", "--sparse=never", tree / "f", tree / "copy"], check=True)
    subprocess.run(["dd", f"if={tree}/f", f"of={tree}/dd", "bs=64k", "conv=fsync", "status=none"], check=True)
    shutil.copyfile(tree / "f", tree / "sendfile")
    assert {(tree / name).read_bytes() for name in ("copy", "dd", "sendfile")} == {DATA}


def test_names_no_store_can_hold_are_refused(tree):
    with fails(errno.ENAMETOOLONG):
        (tree / ("x" * 256)).write_bytes(b"x")


def test_hard_links_and_device_nodes_are_refused(tree):
    (tree / "f").write_bytes(b"x")
    for attempt in (lambda: os.link(tree / "f", tree / "g"), lambda: os.mkfifo(tree / "pipe")):
        with pytest.raises(OSError) as refusal:
            attempt()
        assert refusal.value.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


def test_an_object_replaced_before_it_was_read_is_stale_and_never_mixed(tree, s3, place):
    """An object store no longer has the version; a local disk's file is still there."""
    (tree / "f").write_bytes(b"old" * 1000)
    with (tree / "f").open("rb") as reader:
        s3.put_object(Bucket=place.bucket, Key=place.key("f"), Body=b"new" * 1000)
        try:
            assert reader.read() == b"old" * 1000
        except OSError as error:
            assert (error.errno, place.store != "fs") == (errno.ESTALE, True)
