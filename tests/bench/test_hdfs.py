"""1 GiB through an HDFS mount, cold, against Hadoop's own programs on the same cluster."""

import os
import subprocess
import time

import pytest
import requests
from bench.figures import Arm, interleave, verdict
from harness.gateway import Gateway, settings
from harness.tool import tool

GIB = 1 << 30
ROUNDS = 3
SHELL = "org.apache.hadoop.fs.FsShell"


@pytest.fixture(scope="module")
def cluster(hadoop, tmp_path_factory):
    directory = tmp_path_factory.mktemp("hdfs")
    root = hadoop.root("bench")
    mounts = {"/lake": hadoop.mount(root, cache={"revalidate": "1h"})}
    cache = {"memory": {"size": "256MiB"}, "nvme": {"enabled": False}}
    gateway = Gateway(directory, settings(directory, mounts, fuse=False, cache=cache), binary=tool("forebay-release")).start()
    with (directory / "gib").open("wb") as target:
        for _ in range(64):
            target.write(os.urandom(GIB // 64))
    yield gateway, hadoop, root, directory
    gateway.stop()


def timed(work) -> dict[str, float]:
    began = time.monotonic()
    work()
    return {"mib_s": 1024 / (time.monotonic() - began)}


def shell(hadoop, start_s: float, *words: str) -> dict[str, float]:
    """One of Hadoop's commands, less the time that its virtual machine takes to start."""
    began = time.monotonic()
    process = hadoop.java(f"shell-{words[0].strip('-')}", SHELL, *words)
    assert process.child.wait(300) == 0, process.tail()
    return {"mib_s": 1024 / (time.monotonic() - began - start_s)}


def ours_down(gateway, name: str) -> None:
    """Through WebHDFS to nowhere, as `FsShell -cat` does it."""
    with requests.get(
        f"{gateway.url('webhdfs')}/webhdfs/v1/lake/{name}?op=OPEN&user.name=root", stream=True, timeout=300
    ) as answer:
        assert sum(map(len, answer.iter_content(1 << 20))) == GIB


def ours_up(gateway, directory, name: str) -> None:
    where = gateway.webhdfs().step("PUT", f"/lake/{name}", "CREATE", overwrite="true").headers["Location"]
    subprocess.run(["curl", "-sSf", "-X", "PUT", "-T", str(directory / "gib"), "-o", "/dev/null", where], check=True)


def test_reads_and_writes_keep_up_with_hadoops_own_client(cluster):
    gateway, hadoop, root, directory = cluster
    began = time.monotonic()
    assert hadoop.java("shell-start", SHELL, "-ls", "/").child.wait(60) == 0
    start_s = time.monotonic() - began
    names = iter(f"file{number}" for number in range(2 * ROUNDS))
    for number in range(ROUNDS):
        ours_up(gateway, directory, f"cold{number}")
    gateway.stop()
    gateway.start()
    cold = iter(f"cold{number}" for number in range(ROUNDS))
    cpu = gateway.process.cpu_seconds
    for scheme, base in (("hdfs", f"hdfs://localhost:{hadoop.rpc}"), ("webhdfs", f"webhdfs://127.0.0.1:{hadoop.port}")):
        put = interleave(f"write 1 GiB, {scheme}:// (start of a JVM, {start_s:.1f} s, taken off)", [
            Arm("forebay", lambda: timed(lambda: ours_up(gateway, directory, next(names))), cpu),
            Arm("hadoop", lambda base=base: shell(hadoop, start_s, "-put", "-f", str(directory / "gib"), f"{base}{root}/theirs"), lambda: 0.0),
        ], ROUNDS)  # fmt: skip
        print(f"   => write ÷ {scheme}://: {put['forebay']['mib_s'] / put['hadoop']['mib_s']:.3f} (target ≥ 0.9)", flush=True)
    got = interleave("read 1 GiB, cold", [
        Arm("forebay", lambda: timed(lambda: ours_down(gateway, next(cold))), cpu),
        Arm("webhdfs", lambda: shell(hadoop, start_s, "-cat", f"webhdfs://127.0.0.1:{hadoop.port}{root}/cold0"), lambda: 0.0),
        Arm("hdfs", lambda: shell(hadoop, start_s, "-cat", f"hdfs://localhost:{hadoop.rpc}{root}/cold0"), lambda: 0.0),
    ], ROUNDS)  # fmt: skip
    print(f"   => read ÷ hdfs://: {got['forebay']['mib_s'] / got['hdfs']['mib_s']:.3f} (no target: another protocol)")
    verdict(
        "read ÷ webhdfs://, Hadoop's client of the same protocol",
        got["forebay"]["mib_s"] / got["webhdfs"]["mib_s"],
        0.9,
        at_most=False,
    )
