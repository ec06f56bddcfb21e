"""Directories, renames and listings through the mount, per store."""

import errno
import os
import subprocess

import pytest


def fails(number):
    return pytest.raises(OSError, match=rf"\[Errno {number}\]")


def test_directories_are_made_listed_and_removed(tree):
    (tree / "d").mkdir()
    (tree / "d" / "f").write_bytes(b"x")
    assert sorted(os.listdir(tree)) == ["d"]
    with fails(errno.ENOTEMPTY):
        (tree / "d").rmdir()
    with fails(errno.EEXIST):
        (tree / "d").mkdir()
    (tree / "d" / "f").unlink()
    assert os.listdir(tree / "d") == []
    (tree / "d").rmdir()
    assert not (tree / "d").exists()


def test_wrong_kinds_have_their_errnos(tree):
    (tree / "f").write_bytes(b"x")
    (tree / "d").mkdir()
    with fails(errno.ENOTDIR):
        (tree / "f" / "x").write_bytes(b"x")
    with fails(errno.EISDIR):
        (tree / "d").open("wb")
    with fails(errno.ENOTDIR):
        (tree / "f").rmdir()
    with fails(errno.EISDIR):
        os.unlink(tree / "d")
    with fails(errno.ENOENT):
        (tree / "no" / "x").write_bytes(b"x")


def test_rename_moves_a_file(tree):
    (tree / "a").write_bytes(b"a")
    (tree / "a").rename(tree / "b")
    assert os.listdir(tree) == ["b"]
    assert (tree / "b").read_bytes() == b"a"


def test_rename_over_a_file_replaces_it(tree):
    """How editors, git and checkpoint writers publish: temporary name, chmod, rename."""
    (tree / "f").write_bytes(b"old")
    with (tree / "f").open("rb", buffering=0) as reader:
        assert reader.read(1) == b"o"  # what a reader has seen of an object is kept for it
        (tree / "f.tmp").write_bytes(b"new")
        (tree / "f.tmp").chmod(0o600)
        (tree / "f.tmp").rename(tree / "f")
        assert (tree / "f").read_bytes() == b"new"
        assert reader.read() == b"ld"
    assert os.listdir(tree) == ["f"]


def test_rename_while_the_file_is_open_for_writing(tree):
    with (tree / "f.tmp").open("wb") as target:
        target.write(b"before")
        target.flush()
        (tree / "f.tmp").rename(tree / "f")
        target.write(b" after")
    assert os.listdir(tree) == ["f"]
    assert (tree / "f").read_bytes() == b"before after"


def test_rename_moves_a_directory_with_all_below_it(tree):
    (tree / "from" / "deep" / "er").mkdir(parents=True)
    (tree / "from" / "deep" / "er" / "f").write_bytes(b"x")
    (tree / "from" / "empty").mkdir()
    (tree / "from").rename(tree / "to")
    assert (tree / "to" / "deep" / "er" / "f").read_bytes() == b"x"
    assert sorted(os.listdir(tree / "to")) == ["deep", "empty"]
    assert not (tree / "from").exists()


def test_renames_that_posix_forbids(tree):
    (tree / "d" / "sub").mkdir(parents=True)
    (tree / "f").write_bytes(b"x")
    (tree / "full").mkdir()
    (tree / "full" / "x").write_bytes(b"x")
    with fails(errno.EINVAL):
        (tree / "d").rename(tree / "d" / "sub" / "d")
    with fails(errno.EISDIR):
        (tree / "f").rename(tree / "d")
    with fails(errno.ENOTDIR):
        (tree / "d").rename(tree / "f")
    with fails(errno.ENOTEMPTY):
        (tree / "d").rename(tree / "full")
    with fails(errno.ENOENT):
        (tree / "no").rename(tree / "f2")


def test_rename_between_mounts_is_exdev_and_mv_copies(tree, place, gateway):
    other = gateway.mountpoint / ("scratch" if place.bucket != "scratch" else "local") / f"moved-{place.directory}"
    (tree / "f").write_bytes(b"x")
    with fails(errno.EXDEV):
        (tree / "f").rename(other)
    subprocess.run(["mv", tree / "f", other], check=True)
    assert other.read_bytes() == b"x"
    assert not (tree / "f").exists()


def test_a_large_directory_lists_each_name_once(tree):
    names = [f"name-{number:04}" for number in range(500)]
    (tree / "big").mkdir()
    for name in names:
        (tree / "big" / name).touch()
    assert sorted(os.listdir(tree / "big")) == names
    with os.scandir(tree / "big") as entries:
        assert sum(entry.is_file() for entry in entries) == 500


def test_names_are_byte_exact(tree, s3, place):
    names = sorted(["a b", "a+b", "a%20b", "é", " lead", "trail ", "a\\b", "-rf", "x" * 200])
    if place.store == "hdfs":
        with fails(errno.EINVAL):
            (tree / "a:b").write_bytes(b"x")
    else:
        names = sorted([*names, "a:b"])
    for name in names:
        (tree / name).write_bytes(name.encode())
    assert sorted(os.listdir(tree)) == names
    keys = [item["Key"] for item in s3.list_objects_v2(Bucket=place.bucket, Prefix=place.key())["Contents"]]
    assert sorted(key.removeprefix(place.key()) for key in keys if not key.endswith("/")) == names


def test_statfs_is_plausible(tree):
    space = os.statvfs(tree)
    assert space.f_blocks * space.f_frsize > 1 << 20
    assert 0 < space.f_bavail <= space.f_blocks
    assert space.f_namemax == 255


def test_find_du_and_rm_walk_the_tree(tree):
    for name in ("a/b/c", "a/d", "e"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(b"x" * 5000)
    found = subprocess.run(["find", tree, "-type", "f"], capture_output=True, text=True, check=True).stdout.split()
    assert len(found) == 3
    used = subprocess.run(["du", "--apparent-size", "-sb", tree], capture_output=True, text=True, check=True).stdout
    assert int(used.split()[0]) >= 15_000
    subprocess.run(["rm", "-r", tree / "a"], check=True)
    assert os.listdir(tree) == ["e"]
