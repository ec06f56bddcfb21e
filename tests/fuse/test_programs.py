"""Programs that rely on POSIX details: sqlite, git, flock, an editor's rename-over, shell pipelines."""

import fcntl
import json
import sqlite3
import subprocess

import pytest
from harness.tool import tool


@pytest.mark.parametrize("journal", ["DELETE", "WAL", "TRUNCATE"])
def test_sqlite_commits_and_reopens(tree, journal):
    for run in range(3):
        database = sqlite3.connect(tree / "data.sqlite")
        assert database.execute(f"PRAGMA journal_mode={journal}").fetchone() == (journal.lower(),)
        database.execute("CREATE TABLE IF NOT EXISTS t (run INTEGER, value TEXT)")
        with database:
            database.executemany("INSERT INTO t VALUES (?, ?)", [(run, "x" * 500)] * 200)
        with pytest.raises(ZeroDivisionError), database:
            database.execute("DELETE FROM t")
            raise ZeroDivisionError
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        database.close()
    database = sqlite3.connect(tree / "data.sqlite")
    assert database.execute("SELECT count(*) FROM t").fetchone() == (600,)
    database.close()


def test_git_commits_and_passes_its_own_check(tree):
    def git(*arguments):
        argv = [str(tool("git")), "-C", str(tree / "repository"), "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout

    (tree / "repository").mkdir()
    git("init", "--quiet")
    for number in range(3):
        (tree / "repository" / "file").write_text(f"version {number}\n" * 1000)
        git("add", "file")
        git("commit", "--quiet", "-m", f"commit {number}")
    git("gc", "--quiet")
    git("fsck", "--full", "--strict")
    assert len(git("log", "--oneline").splitlines()) == 3
    git("checkout", "--quiet", "HEAD~2")
    assert (tree / "repository" / "file").read_text().startswith("version 0")


def test_flock_excludes_a_second_holder(tree):
    with (tree / "lock").open("w") as first, (tree / "lock").open("r") as second:
        fcntl.flock(first, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(first, fcntl.LOCK_UN)
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_logs_grow_by_appending_from_a_shell(tree):
    script = f"for i in $(seq 200); do echo line $i >> {tree}/log; done; sort -u {tree}/log | wc -l > {tree}/count"
    subprocess.run(["sh", "-c", script], check=True)
    assert (tree / "count").read_text().strip() == "200"


def test_checkpoints_replace_each_other_whole(tree):
    for step in range(5):
        temporary = tree / "checkpoint.tmp"
        temporary.write_text(json.dumps({"step": step, "weights": [step] * 50_000}))
        temporary.replace(tree / "checkpoint")
        assert json.loads((tree / "checkpoint").read_text())["step"] == step


def test_tar_packs_and_unpacks(tree):
    (tree / "in" / "deep").mkdir(parents=True)
    (tree / "in" / "deep" / "f").write_bytes(b"x" * 100_000)
    subprocess.run(["tar", "-C", tree / "in", "-cf", tree / "a.tar", "."], check=True)
    (tree / "out").mkdir()
    subprocess.run(["tar", "-C", tree / "out", "-xf", tree / "a.tar"], check=True)
    assert (tree / "out" / "deep" / "f").read_bytes() == b"x" * 100_000
