"""Modes, owners, times and xattrs on a store that cannot keep them: there after a kill, and the same in all frontends."""

import json
import os
import stat

import pytest
from harness.faults import Status
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
    mark_file(root / "old/file")
    (root / "gone").write_bytes(b"x")
    (root / "gone").chmod(0o600)
    (root / "gone").unlink()
    (root / "old").rename(root / "new")


def mark_file(path) -> None:
    path.write_bytes(b"content")
    path.chmod(0o640)
    os.chown(path, 0, 6)
    os.utime(path, (DATED_S, DATED_S))
    os.setxattr(path, "user.colour", b"green")


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
    status = [webhdfs.status(f"/bucket/new{path}").value for path in ("", "/sub")]
    assert [found["permission"] for found in status] == ["750", "711"]
    check_file(gateway, "new/file")
    if gateway.mountpoint:
        assert stat.S_IMODE((gateway.mountpoint / "bucket/new").stat().st_mode) == 0o750


def check_file(gateway, name: str) -> None:
    webhdfs = gateway.webhdfs()
    file = webhdfs.status(f"/bucket/{name}").value
    assert (file["permission"], file["owner"], file["group"]) == ("640", "root", "disk")
    assert file["modificationTime"] == DATED_S * 1000
    xattrs = webhdfs.outcome("GET", f"/bucket/{name}", "GETXATTRS", encoding="text").value["XAttrs"]
    assert {"name": "user.colour", "value": '"green"'} in xattrs
    if gateway.mountpoint:
        path = gateway.mountpoint / "bucket" / name
        found = path.stat()
        assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o640, 0, 6)
        assert int(found.st_mtime) == DATED_S
        assert os.getxattr(path, "user.colour") == b"green"


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


def test_attributes_of_what_is_pending_outlive_a_kill_and_its_upload(tmp_path, store, proxy):
    if not has_fuse():
        pytest.skip("machine: no /dev/fuse, or not root")
    mount = store.mount(store.bucket("attributes"), proxy.endpoint, cache={"write": "back"})
    gateway = Gateway(tmp_path, settings(tmp_path, {"/bucket": mount})).start()
    try:
        with proxy.fault(Status(503), method="PUT"):
            made = gateway.mountpoint / "bucket/made"
            os.close(os.open(made, os.O_CREAT | os.O_WRONLY, 0o600))
            mark_file(gateway.mountpoint / "bucket/file")
            assert len(json.loads(gateway.cli("status", "--json").stdout)["pending"]) == 2
            restart(gateway)
            check_file(gateway, "file")
            found = (gateway.mountpoint / "bucket/file").stat()
        assert gateway.cli("flush").returncode == 0
        check_file(gateway, "file")
        restart(gateway)
        check_file(gateway, "file")
        assert stat.S_IMODE((gateway.mountpoint / "bucket/made").stat().st_mode) == 0o600
        assert (gateway.mountpoint / "bucket/file").stat().st_ino == found.st_ino
    finally:
        gateway.stop()
