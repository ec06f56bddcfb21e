"""The commands against a running gateway: what people read, what scripts parse, exit codes."""

import json
import os
import subprocess

import pytest
from harness.gateway import Gateway, settings
from harness.process import Process
from harness.stores.s3 import ACCESS_KEY, REGION, SECRET_KEY
from harness.tool import has_fuse, machine, tool
from harness.wait import wait_for

DATA = os.urandom(3_000_000)


def run(gateway, *arguments: str, stdin: bytes | None = None) -> bytes:
    done = gateway.cli(*arguments, stdin=stdin)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def refused(gateway, *arguments: str) -> str:
    done = gateway.cli(*arguments)
    assert (done.returncode, done.stdout) == (1, b"")
    message = done.stderr.decode()
    assert message.startswith("forebay: ")
    assert message.count("\n") == 1
    return message


def test_mounts_shows_each_with_its_state(gateway):
    def listed() -> dict[str, dict]:
        return {mount["path"]: mount for mount in json.loads(run(gateway, "mounts", "--json"))}

    assert sorted(listed()) == ["/bucket", "/frozen", "/local", "/local/nested", "/scratch"]
    wait_for(lambda: {mount["state"] for mount in listed().values()} == {"ready"}, 10, "every store to be probed")
    assert (listed()["/frozen"]["read_only"], listed()["/bucket"]["store"]) == (True, "s3")
    assert b"/bucket" in run(gateway, "mounts")


def test_files_go_up_down_and_across(gateway, place, tmp_path):
    (tmp_path / "up").write_bytes(DATA)
    run(gateway, "cp", "--quiet", f"file:{tmp_path}/up", place.path("f"))
    run(gateway, "cp", place.path("f"), place.path("copy"))
    run(gateway, "cp", place.path("copy"), f"file:{tmp_path}/down")
    assert (tmp_path / "down").read_bytes() == DATA
    assert run(gateway, "cat", place.path("copy")) == DATA
    assert gateway.s3().get_object(Bucket=place.bucket, Key=place.key("copy"))["Body"].read() == DATA


def test_standard_input_and_output_are_files_too(gateway, place):
    run(gateway, "cp", "-", place.path("piped"), stdin=DATA)
    assert run(gateway, "cp", place.path("piped"), "-") == DATA


def test_ls_and_stat_agree_with_the_frontends(gateway, place):
    gateway.webhdfs().create(place.path("d/inside"), b"x")
    tag = gateway.s3().put_object(Bucket=place.bucket, Key=place.key("f"), Body=b"four")["ETag"]
    items = [json.loads(line) for line in run(gateway, "ls", "--json", place.path()).splitlines()]
    assert [(item["name"], item["kind"], item["size_bytes"]) for item in items] == [("d/", "directory", 0), ("f", "file", 4)]
    stat = json.loads(run(gateway, "stat", "--json", place.path("f")))
    assert (stat["size_bytes"], stat["etag"]) == (4, tag.strip('"'))
    assert b"d/inside" in run(gateway, "ls", "--recursive", place.path())
    assert run(gateway, "ls", place.path()).count(b"\n") == 2


def test_rm_removes_files_and_guards_directories(gateway, place):
    for name in ("f", "d/a", "d/b"):
        run(gateway, "cp", "-", place.path(name), stdin=b"x")
    run(gateway, "rm", place.path("f"))
    refused(gateway, "rm", place.path("d"))
    run(gateway, "rm", "--recursive", place.path("d"))
    assert run(gateway, "ls", place.path()) == b""


def test_errors_name_the_path_and_leave_no_file_behind(gateway, local, tmp_path):
    assert local.path("missing") in refused(gateway, "cat", local.path("missing"))
    assert local.path("missing") in refused(gateway, "cp", local.path("missing"), f"file:{tmp_path}/down")
    assert list(tmp_path.iterdir()) == []
    assert "file:" in refused(gateway, "cp", "relative", local.path("f"))
    refused(gateway, "rm", local.path("missing"))
    refused(gateway, "cp", local.path("missing"), "/frozen/new")


def test_no_gateway_is_one_clear_line():
    argv = [str(tool("forebay")), "ls", "--admin", "http://127.0.0.1:1"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "forebay serve" in done.stderr


@pytest.mark.parametrize("command", ["serve", "check", "mount", "mounts", "reload", "ls", "stat", "cat", "cp", "rm"])
def test_every_command_explains_itself(command):
    done = subprocess.run([str(tool("forebay")), command, "--help"], capture_output=True, text=True, timeout=30)
    assert (done.returncode, f"Usage: forebay {command}" in done.stdout) == (0, True)


def test_help_shows_examples_and_completions_are_printed(gateway):
    assert b"Examples:" in run(gateway, "--help")
    for shell in ("bash", "zsh", "fish"):
        assert b"forebay" in run(gateway, "completions", shell)


def test_check_reaches_every_store_and_says_which_fails(store, tmp_path):
    (tmp_path / "disk").mkdir()
    mounts = {
        "/disk": {"store": "fs", "options": {"root": str(tmp_path / "disk")}},
        "/good": store.mount(store.bucket("check")),
        "/wrong": store.mount("no-such-bucket"),
    }
    gateway = Gateway(tmp_path, settings(tmp_path, mounts, fuse=False))
    done = gateway.cli("check", "--json")
    found = {finding["path"]: finding["ok"] for finding in json.loads(done.stdout)}
    assert (done.returncode, found) == (1, {"/disk": True, "/good": True, "/wrong": False})
    del gateway.config["mounts"]["/wrong"]
    assert gateway.rewrite().cli("check").returncode == 0


def test_mount_is_a_cache_in_one_command(store, tmp_path):
    machine(has_fuse(), "no /dev/fuse, or not root")
    bucket = store.bucket("one-command")
    store.client.put_object(Bucket=bucket, Key="prefix/deep/f", Body=DATA)
    store.client.put_object(Bucket=bucket, Key="outside", Body=b"x")
    directory = tmp_path / "mnt"
    directory.mkdir()
    argv = [
        tool("forebay"), "mount", "--endpoint", store.endpoint, "--region", REGION, "--var", tmp_path / "var",
        f"s3://{bucket}/prefix", directory,
    ]  # fmt: skip
    environment = os.environ | {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    process = Process("forebay mount", argv, tmp_path / "mount.log", env=environment)
    try:
        process.ready(directory.is_mount, 20)
        assert sorted(path.name for path in directory.iterdir()) == ["deep"]
        assert (directory / "deep" / "f").read_bytes() == DATA
        (directory / "new").write_bytes(b"written")
        wait_for(lambda: store.client.get_object(Bucket=bucket, Key="prefix/new")["Body"].read() == b"written", 5, "the upload")
        assert process.stop() == 0
        assert not directory.is_mount()
    finally:
        process.kill()
        subprocess.run(["umount", "-l", directory], capture_output=True)
