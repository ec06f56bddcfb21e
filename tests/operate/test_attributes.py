"""Modes, owners, times and xattrs on a store that cannot keep them: there after a kill, and the same in all frontends."""

import os
import stat

import pytest
from harness.gateway import Gateway, settings
from harness.tool import has_fuse

DATED_S = 1_100_000_000


@pytest.fixture
def marked(tmp_path, store):
    """A gateway over a bucket in which a file and a directory have attributes of their own and were renamed since."""
    gateway = Gateway(tmp_path, settings(tmp_path, {"/bucket": store.mount(store.bucket("attributes"))})).start()
    if has_fuse():
        mark_through_fuse(gateway.mountpoint / "bucket")
    else:
        mark_through_webhdfs(gateway.webhdfs())
    yield gateway
    gateway.stop()


def mark_through_fuse(root) -> None:
    (root / "old").mkdir(mode=0o750)
    (root / "old/sub").mkdir()
    (root / "old/sub").chmod(0o711)
    (root / "old/file").write_bytes(b"content")
    (root / "old/file").chmod(0o640)
    os.chown(root / "old/file", 0, 6)
    os.utime(root / "old/file", (DATED_S, DATED_S))
    os.setxattr(root / "old/file", "user.colour", b"green")
    (root / "gone").write_bytes(b"x")
    (root / "gone").chmod(0o600)
    (root / "gone").unlink()
    (root / "old").rename(root / "new")


def mark_through_webhdfs(webhdfs) -> None:
    def done(method, path, op, **params):
        outcome = webhdfs.outcome(method, f"/bucket/{path}", op, **params)
        assert outcome.status == 200, outcome

    assert webhdfs.create("/bucket/old/file", b"content").status == 201
    assert webhdfs.create("/bucket/gone", b"x").status == 201
    done("PUT", "old/sub", "MKDIRS")
    for path, mode in {"old": "750", "old/sub": "711", "old/file": "640", "gone": "600"}.items():
        done("PUT", path, "SETPERMISSION", permission=mode)
    done("PUT", "old/file", "SETOWNER", owner="root", group="disk")
    done("PUT", "old/file", "SETTIMES", modificationtime=str(DATED_S * 1000), accesstime=str(DATED_S * 1000))
    done("PUT", "old/file", "SETXATTR", xattr_name="user.colour", xattr_value='"green"', flag="CREATE")
    done("DELETE", "gone", "DELETE")
    done("PUT", "old", "RENAME", destination="/bucket/new")


def check(gateway) -> None:
    webhdfs = gateway.webhdfs()
    status = {path: webhdfs.status(f"/bucket/new{path}").value for path in ("", "/sub", "/file")}
    assert [found["permission"] for found in status.values()] == ["750", "711", "640"]
    file = status["/file"]
    assert (file["owner"], file["group"], file["modificationTime"]) == ("root", "disk", DATED_S * 1000)
    xattrs = webhdfs.outcome("GET", "/bucket/new/file", "GETXATTRS", encoding="text").value["XAttrs"]
    assert {"name": "user.colour", "value": '"green"'} in xattrs
    if gateway.mountpoint:
        found = (gateway.mountpoint / "bucket/new/file").stat()
        assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o640, 0, 6)
        assert int(found.st_mtime) == DATED_S
        assert os.getxattr(gateway.mountpoint / "bucket/new/file", "user.colour") == b"green"
        assert stat.S_IMODE((gateway.mountpoint / "bucket/new").stat().st_mode) == 0o750


def restart(gateway) -> None:
    gateway.kill()
    gateway.clear_mount()
    gateway.start()


def test_attributes_outlive_a_kill_and_are_the_same_in_all_frontends(marked):
    check(marked)
    restart(marked)
    check(marked)


def test_attributes_outlive_damage_of_the_database_and_of_either_copy_of_the_ledger(marked):
    metadata = marked.directory / "var/metadata"
    for kind in ("log", "copy"):
        marked.kill()
        (metadata / "listings.redb").write_bytes(b"no database")
        (ledger,) = (metadata / "ledgers").glob(f"*.{kind}")
        content = ledger.read_bytes()
        ledger.write_bytes(content[:40] + b"\0" + content[41:])
        restart(marked)
        check(marked)


def test_file_that_is_made_anew_has_nothing_of_the_one_before(marked):
    restart(marked)
    marked.s3().put_object(Bucket="bucket", Key="gone", Body=b"new")
    assert marked.webhdfs().status("/bucket/gone").value["permission"] == "644"
