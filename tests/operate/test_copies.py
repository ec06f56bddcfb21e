"""Copies and moves of trees through `forebay cp -r` and `mv`: between every two stores, resumed, verified, honest about failures."""

import json
import os
import subprocess
import time

import pytest
import requests
from harness.place import STORES
from harness.wait import wait_for

FILES = {
    "a": b"first", "a b/ä+%20": b"name", "d/big": os.urandom(20_000_000), "d/e/empty": b"", "d/e/z": b"last",
}  # fmt: skip


def fill(gateway, place) -> None:
    s3 = gateway.s3()
    for name, data in FILES.items():
        metadata = {"colour": "blue"}
        s3.put_object(Bucket=place.bucket, Key=place.key(name), Body=data, ContentType="text/x-test", Metadata=metadata)


def tree_of(gateway, place) -> dict[str, bytes]:
    s3 = gateway.s3()
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=place.bucket, Prefix=place.key())
    keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
    return {key[len(place.key()) :]: s3.get_object(Bucket=place.bucket, Key=key)["Body"].read() for key in keys}


def copied(gateway, *arguments: str) -> tuple[int, dict, list[dict]]:
    """Exit code, the last line and the failures."""
    done = gateway.cli(*arguments, "--json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events, done.stderr.decode()
    assert events[-1]["event"] == "done", done.stderr.decode()
    return done.returncode, events[-1], [event for event in events if event["event"] == "failed"]


@pytest.mark.parametrize("source", STORES)
@pytest.mark.parametrize("target", STORES)
def test_a_tree_is_copied_whole_and_the_second_run_finds_it_there(gateway, place_in, source, target):
    origin, goal = place_in(source), place_in(target)
    fill(gateway, origin)
    code, done, _ = copied(gateway, "cp", "-r", "--verify", origin.path(), goal.path())
    total = sum(map(len, FILES.values()))
    assert (code, done["files"], done["bytes"], done["verified"]) == (0, len(FILES), total, len(FILES))
    assert tree_of(gateway, goal) == FILES
    head = gateway.s3().head_object(Bucket=goal.bucket, Key=goal.key("a"))
    assert (head["ContentType"], head["Metadata"]["colour"]) == ("text/x-test", "blue")
    again = ("cp", "-r", "--checksum") if source == target else ("cp", "-r")
    code, done, _ = copied(gateway, *again, origin.path(), goal.path())
    assert (code, done["files"], done["skipped_files"], done["bytes"]) == (0, 0, len(FILES), 0)
    gateway.s3().put_object(Bucket=origin.bucket, Key=origin.key("a"), Body=b"First")
    code, done, _ = copied(gateway, *again, origin.path(), goal.path())
    assert (code, done["files"], done["skipped_files"]) == (0, 1, len(FILES) - 1)
    assert tree_of(gateway, goal)["a"] == b"First"


@pytest.mark.parametrize(("source", "target"), [("fs", "s3"), ("s3", "memory"), ("s3", "s3"), ("fs", "fs")])
def test_a_move_leaves_nothing_behind(gateway, place_in, source, target):
    origin, goal = place_in(source), place_in(target)
    fill(gateway, origin)
    gateway.webhdfs().mkdirs(origin.path("empty/deeper"))
    code, _, failures = copied(gateway, "mv", origin.path(), goal.path())
    assert (code, failures) == (0, [])
    seen = tree_of(gateway, goal)
    assert {name: data for name, data in seen.items() if not name.endswith("/")} == FILES
    assert gateway.webhdfs().names(goal.path("empty")) == ["deeper/"]
    assert tree_of(gateway, origin) == {}
    assert gateway.cli("stat", origin.path()).returncode == 1


def test_one_file_that_fails_stops_nobody_and_is_named(gateway, place_in):
    origin, goal = place_in("memory"), place_in("fs")
    fill(gateway, origin)
    gateway.webhdfs().mkdirs(goal.path("a"))
    code, done, failures = copied(gateway, "cp", "-r", origin.path(), goal.path())
    assert (code, done["failed"], done["files"]) == (1, 1, len(FILES) - 1)
    assert [event["path"] for event in failures] == [origin.path("a")]
    told = gateway.cli("cp", "-r", origin.path(), goal.path())
    assert told.returncode == 1
    assert origin.path("a") in told.stderr.decode()
    assert f"{len(FILES) - 1} were there already" in told.stdout.decode()


def test_a_file_of_equal_size_and_other_content_is_copied_again(gateway, place_in):
    origin, goal = place_in("fs"), place_in("s3")
    fill(gateway, origin)
    copied(gateway, "cp", "-r", origin.path(), goal.path())
    gateway.s3().put_object(Bucket=goal.bucket, Key=goal.key("a"), Body=b"FIRST")
    _, done, _ = copied(gateway, "cp", "-r", origin.path(), goal.path())
    assert (done["files"], done["skipped_files"]) == (1, len(FILES) - 1)
    assert tree_of(gateway, goal) == FILES


def test_a_client_that_goes_away_ends_the_copy_and_a_second_run_goes_on(gateway, place_in):
    origin, goal = place_in("memory"), place_in("s3")
    s3 = gateway.s3()
    for number in range(300):
        s3.put_object(Bucket=origin.bucket, Key=origin.key(f"{number:03}"), Body=os.urandom(100_000))
    url = f"{gateway.url('admin')}/api/v1/copies"
    query = {"from": origin.path(), "to": goal.path(), "transfers": 1}
    with requests.post(url, params=query, stream=True, timeout=30) as answer:
        next(answer.iter_lines())
    wait_for(lambda: "cancelled by its client" in gateway.log.read_text(), 10, "the copy to end")
    count = len(tree_of(gateway, goal))
    assert 0 < count < 300
    time.sleep(0.5)
    assert len(tree_of(gateway, goal)) == count
    code, done, _ = copied(gateway, "cp", "-r", origin.path(), goal.path())
    assert (code, done["files"], done["skipped_files"]) == (0, 300 - count, count)


def test_local_directories_go_up_and_come_down(gateway, place, tmp_path):
    for name, data in FILES.items():
        path = tmp_path / "up" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    assert gateway.cli("cp", "-r", f"file:{tmp_path}/up", place.path()).returncode == 0
    assert tree_of(gateway, place) == FILES
    assert gateway.cli("cp", "-r", place.path(), f"file:{tmp_path}/down").returncode == 0
    down = tmp_path / "down"
    assert {str(path.relative_to(down)): path.read_bytes() for path in down.rglob("*") if path.is_file()} == FILES


def refused(gateway, *arguments: str) -> str:
    done: subprocess.CompletedProcess = gateway.cli(*arguments)
    assert (done.returncode, done.stdout) == (1, b"")
    return done.stderr.decode()


def test_what_cannot_be_copied_is_refused_before_anything_is_done(gateway, place_in):
    origin = place_in("fs")
    fill(gateway, origin)
    assert "never end" in refused(gateway, "cp", "-r", origin.path(), origin.path("d/inside"))
    assert "read-only" in refused(gateway, "cp", "-r", origin.path(), "/frozen/copy")
    assert "read-only" in refused(gateway, "mv", "/frozen", origin.path("moved"))
    assert origin.path("missing") in refused(gateway, "cp", "-r", origin.path("missing"), "/scratch/x")
    assert "transfers" in refused(gateway, "cp", "-r", "--transfers", "0", origin.path(), "/scratch/x")
    assert tree_of(gateway, origin) == FILES


@pytest.mark.parametrize(("source", "target"), [("s3", "fs"), ("fs", "s3"), ("memory", "s3")])
def test_an_s3_copy_across_mounts_streams_through_with_its_headers(gateway, place_in, source, target):
    origin, goal = place_in(source), place_in(target)
    fill(gateway, origin)
    s3 = gateway.s3()
    copy_source = {"Bucket": origin.bucket, "Key": origin.key("d/big")}
    tag = s3.copy_object(Bucket=goal.bucket, Key=goal.key("copy"), CopySource=copy_source)["CopyObjectResult"]["ETag"]
    seen = s3.get_object(Bucket=goal.bucket, Key=goal.key("copy"))
    assert seen["Body"].read() == FILES["d/big"]
    assert (seen["ETag"], seen["ContentType"], seen["Metadata"]) == (tag, "text/x-test", {"colour": "blue"})


def test_a_webhdfs_rename_across_mounts_is_refused_and_changes_nothing(gateway, place_in):
    origin, goal = place_in("fs"), place_in("memory")
    fill(gateway, origin)
    hdfs = gateway.webhdfs()
    hdfs.mkdirs(goal.path("here"))
    for name in ("a", "d"):
        for options in ({}, {"renameoptions": "NONE"}):
            assert hdfs.rename(origin.path(name), goal.path("here/new"), **options) == (403, "IOException")
    assert tree_of(gateway, origin) == FILES
    assert hdfs.names(goal.path("here")) == []
