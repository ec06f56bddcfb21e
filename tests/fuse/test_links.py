"""Symbolic links through the mount, per store, and what the other frontends make of them."""

import errno
import os
import stat
import subprocess
import sys
import sysconfig

import pytest
from harness.gateway import Gateway, settings
from harness.tool import has_fuse, machine, tool


def run(*argv, **options):
    return subprocess.run(
        [str(part) for part in argv], check=True, capture_output=True, text=True, errors="surrogateescape", **options
    ).stdout


def fails(number):
    return pytest.raises(OSError, match=rf"\[Errno {number}\]")


def links_below(top):
    """Every link of a tree with its target, as bytes."""
    found = {}
    for directory, names, files in os.walk(os.fsencode(top)):
        for name in names + files:
            path = os.path.join(directory, name)
            if os.path.islink(path):
                found[os.path.relpath(path, os.fsencode(top))] = os.readlink(path)
    return found


def plant(top):
    """A tree with every kind of link: relative, absolute, upwards, dangling, to a directory, of bytes that are no text."""
    (top / "d" / "deep").mkdir(parents=True)
    (top / "d" / "f").write_bytes(b"content")
    for target, name in [("d/f", "file"), ("d", "directory"), (str(top / "d" / "f"), "absolute"), ("nowhere", "dangling")]:
        os.symlink(target, top / name)
    os.symlink("../f", top / "d" / "deep" / "up")
    os.symlink(b"\xff\n no/where", os.fsencode(top / "bytes"))
    return {b"file", b"directory", b"absolute", b"dangling", b"bytes", b"d/deep/up"}


def test_ln_readlink_and_ls_show_links_as_what_they_are(tree):
    planted = plant(tree)
    assert set(links_below(tree)) == planted
    run("ln", "-s", "some where", tree / "made")
    assert run("readlink", "-n", tree / "made") == "some where"
    listed = run("ls", "-l", tree).splitlines()
    assert [line[0] for line in listed if " -> some where" in line] == ["l"]
    with os.scandir(tree) as entries:
        assert {entry.name for entry in entries if entry.is_symlink()} == {
            "file",
            "directory",
            "absolute",
            "dangling",
            "bytes",
            "made",
        }
    found = (tree / "dangling").lstat()
    assert (stat.S_ISLNK(found.st_mode), found.st_size, found.st_uid) == (True, len("nowhere"), os.getuid())
    assert not (tree / "dangling").exists()
    for name in ("file", "absolute", "directory/f", "d/deep/up"):
        assert (tree / name).read_bytes() == b"content"
    with fails(errno.EEXIST):
        os.symlink("x", tree / "dangling")
    with fails(errno.EINVAL):
        os.readlink(tree / "d" / "f")


def test_what_is_written_through_a_link_is_in_its_target(tree, s3, place):
    plant(tree)
    (tree / "file").write_bytes(b"through the link")
    (tree / "dangling").write_bytes(b"made through the link")
    assert s3.get_object(Bucket=place.bucket, Key=place.key("d/f"))["Body"].read() == b"through the link"
    assert (tree / "nowhere").read_bytes() == b"made through the link"
    assert (tree / "dangling").is_symlink()


def test_renames_and_removals_act_on_the_link(tree):
    plant(tree)
    (tree / "dangling").rename(tree / "d" / "moved")
    assert os.readlink(tree / "d" / "moved") == "nowhere"
    (tree / "directory").rename(tree / "file")
    assert os.readlink(tree / "file") == "d"
    (tree / "d" / "f").rename(tree / "file")
    assert (tree / "file").read_bytes() == b"content"
    assert not (tree / "file").is_symlink()
    os.symlink("d", tree / "directory")
    with fails(errno.ENOTDIR):
        (tree / "directory").rmdir()
    (tree / "directory").unlink()
    assert (tree / "d").is_dir()
    (tree / "d").rename(tree / "e")
    assert os.readlink(tree / "e" / "moved") == "nowhere"
    run("ln", "-sfn", "e", tree / "current")
    run("ln", "-sfn", "e/deep", tree / "current")
    assert os.readlink(tree / "current") == "e/deep"
    run("rm", "-r", tree / "e")
    assert not (tree / "e").exists()


def test_times_and_owner_of_a_link_are_its_own(tree):
    plant(tree)
    before = (tree / "d" / "f").stat()
    os.utime(tree / "file", (1_000_000_000, 1_100_000_000), follow_symlinks=False)
    os.chown(tree / "file", 12, 34, follow_symlinks=False)
    found = (tree / "file").lstat()
    assert (int(found.st_mtime), found.st_uid, found.st_gid) == (1_100_000_000, 12, 34)
    after = (tree / "d" / "f").stat()
    assert (after.st_mtime, after.st_uid) == (before.st_mtime, before.st_uid)
    assert os.listxattr(tree / "file", follow_symlinks=False) == []


def test_cp_and_tar_keep_trees_with_links(tree, tmp_path):
    source, back = tmp_path / "source", tmp_path / "back"
    source.mkdir()
    back.mkdir()
    plant(source)
    os.utime(source / "dangling", (1_000_000_000, 1_000_000_000), follow_symlinks=False)
    run("cp", "-a", source, tree / "copy")
    run("cp", "-a", tree / "copy", tree / "again")
    run("tar", "-C", source, "-cf", tmp_path / "links.tar", ".")
    (tree / "out").mkdir()
    run("tar", "-C", tree / "out", "-xpf", tmp_path / "links.tar")
    run("tar", "-C", tree / "copy", "-cf", tmp_path / "back.tar", ".")
    run("tar", "-C", back, "-xf", tmp_path / "back.tar")
    for copy in (tree / "copy", tree / "again", tree / "out", back):
        assert links_below(copy) == links_below(source)
        assert int((copy / "dangling").lstat().st_mtime) == int((source / "dangling").lstat().st_mtime)


def test_git_clones_a_repository_with_links(tree, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    names = plant(source)
    git = [tool("git"), "-c", "user.name=t", "-c", "user.email=t@t", "-c", "protocol.file.allow=always"]
    run(*git, "-C", source, "init", "--quiet")
    run(*git, "-C", source, "add", ".")
    run(*git, "-C", source, "commit", "--quiet", "-m", "links")
    run(*git, "clone", "--quiet", f"file://{source}", tree / "clone")
    assert run(*git, "-C", tree / "clone", "status", "--porcelain") == ""
    assert set(links_below(tree / "clone")) == names
    assert links_below(tree / "clone") == links_below(source)


def test_a_virtual_environment_works_in_the_mount(tree):
    run(sys.executable, "-m", "venv", "--without-pip", tree / "venv")
    python = tree / "venv" / "bin" / "python"
    assert python.is_symlink()
    assert run(python, "-c", "import sys; print(sys.prefix)").strip() == str(tree / "venv")
    library = tree / "venv" / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    (library / "own_module.py").write_text("VALUE = 7\n")
    assert run(python, "-c", "import own_module; print(own_module.VALUE)").strip() == "7"


def test_other_frontends_follow_links_of_a_local_mount_beneath_its_root_only(local, s3, hdfs):
    machine(has_fuse(), "no /dev/fuse, or not root")
    tree = local.file()
    tree.mkdir()
    plant(tree)
    os.symlink("/etc/passwd", tree / "outside")
    keys = [item["Key"] for item in s3.list_objects_v2(Bucket=local.bucket, Prefix=local.key())["Contents"]]
    assert [key.removeprefix(local.key()) for key in keys] == ["d/deep/up", "d/f", "directory/deep/up", "directory/f", "file"]
    assert s3.get_object(Bucket=local.bucket, Key=local.key("file"))["Body"].read() == b"content"
    for name in ("outside", "absolute", "dangling"):
        with pytest.raises(s3.exceptions.ClientError) as refusal:
            s3.get_object(Bucket=local.bucket, Key=local.key(name))
        assert refusal.value.response["ResponseMetadata"]["HTTPStatusCode"] == 404
        assert hdfs.call("GET", local.path(name), "GETFILESTATUS").status_code == 404
    assert hdfs.call("GET", local.path("file"), "GETFILESTATUS").json()["FileStatus"]["type"] == "FILE"
    s3.delete_object(Bucket=local.bucket, Key=local.key("file"))
    assert not (tree / "file").is_symlink()
    for name in ("dangling", "outside", "directory"):
        assert hdfs.call("DELETE", local.path(name), "DELETE").json() == {"boolean": True}
        assert not (tree / name).is_symlink()
    assert (tree / "d" / "f").read_bytes() == b"content"


def test_what_others_change_through_a_link_is_seen_at_once_at_its_own_path(local, s3, hdfs):
    machine(has_fuse(), "no /dev/fuse, or not root")
    tree = local.file()
    tree.mkdir()
    plant(tree)
    for content in (b"first", b"second and longer"):
        s3.put_object(Bucket=local.bucket, Key=local.key("directory/f"), Body=content)
        assert (
            (tree / "d" / "f").read_bytes() == (tree / "directory" / "f").read_bytes() == (tree / "file").read_bytes() == content
        )
    s3.delete_object(Bucket=local.bucket, Key=local.key("directory/f"))
    assert not (tree / "d" / "f").exists()


@pytest.fixture
def objects(place_in):
    machine(has_fuse(), "no /dev/fuse, or not root")
    place = place_in("s3")
    place.file().mkdir()
    return place


def test_on_an_object_store_others_see_a_file_with_the_target(objects, s3, hdfs):
    tree = objects.file()
    plant(tree)
    read = s3.get_object(Bucket=objects.bucket, Key=objects.key("dangling"))
    assert (read["Body"].read(), read["ContentLength"]) == (b"nowhere", 7)
    sizes = {item["Key"]: item["Size"] for item in s3.list_objects_v2(Bucket=objects.bucket, Prefix=objects.key())["Contents"]}
    assert sizes[objects.key("dangling")] == 7
    status = hdfs.call("GET", objects.path("dangling"), "GETFILESTATUS").json()["FileStatus"]
    assert (status["type"], status["length"]) == ("FILE", 7)
    for name, content in (("dangling", b"nowhere"), ("file", b"another")):
        s3.put_object(Bucket=objects.bucket, Key=objects.key(name), Body=content)
        assert (tree / name).read_bytes() == content
        assert not (tree / name).is_symlink()


def test_links_of_an_object_store_survive_restarts_and_kills(tmp_path, store):
    machine(has_fuse(), "no /dev/fuse, or not root")
    own = Gateway(tmp_path, settings(tmp_path, {"/bucket": store.mount(store.bucket("links"))})).start()
    try:
        tree = own.mountpoint / "bucket" / "tree"
        tree.mkdir()
        names = plant(tree)
        planted = links_below(tree)
        assert set(planted) == names
        own.kill()
        own.clear_mount()
        own.start()
        assert links_below(tree) == planted
        assert (tree / "directory" / "f").read_bytes() == b"content"
        tree.rename(own.mountpoint / "bucket" / "moved")
        own.stop()
        own.start()
        assert links_below(own.mountpoint / "bucket" / "moved") == planted
    finally:
        own.stop()
        own.clear_mount()
