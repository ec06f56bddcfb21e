"""Real clients, unchanged: awscli, rclone, pyarrow, s3fs."""

import hashlib
import os
import subprocess
import sys

import pyarrow
import pyarrow.dataset
import pyarrow.fs
import pyarrow.parquet
import pytest
import s3fs
from harness.gateway import OWNER
from harness.tool import tool

DATA = hashlib.shake_128(b"client").digest(20 << 20)


@pytest.fixture
def sample(tmp_path):
    source = tmp_path / "source"
    (source / "deep er").mkdir(parents=True)
    (source / "big.bin").write_bytes(DATA)
    (source / "deep er" / "small+é.txt").write_bytes(b"small")
    (source / "empty").write_bytes(b"")
    for path in source.rglob("*"):
        os.utime(path, (1_500_000_000, 1_500_000_000))  # sync copies again what looks newer than its copy
    return source


def aws(gateway, *arguments, **kwargs):
    environment = os.environ | {
        "AWS_ACCESS_KEY_ID": OWNER.key, "AWS_SECRET_ACCESS_KEY": OWNER.secret, "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true", "AWS_MAX_ATTEMPTS": "1",
    }  # fmt: skip
    argv = [sys.executable, "-m", "awscli", "--endpoint-url", gateway.url("s3"), *arguments]
    done = subprocess.run(argv, capture_output=True, env=environment, timeout=60, **kwargs)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def same_files(left, right):
    def files(root):
        return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    assert files(left) == files(right)


def test_awscli_syncs_there_and_back(gateway, place, sample, tmp_path):
    base = f"s3://{place.bucket}/{place.directory}"
    aws(gateway, "s3", "sync", "--no-progress", str(sample), f"{base}/tree")
    assert aws(gateway, "s3", "ls", "--recursive", f"{base}/tree/").count(b"\n") == 3
    assert aws(gateway, "s3", "sync", "--no-progress", str(sample), f"{base}/tree") == b""  # nothing left to do
    aws(gateway, "s3", "sync", "--no-progress", f"{base}/tree", str(tmp_path / "back"))
    same_files(sample, tmp_path / "back")
    aws(gateway, "s3", "mv", "--no-progress", f"{base}/tree/big.bin", f"{base}/moved.bin")
    aws(gateway, "s3", "rm", "--recursive", f"{base}/tree")
    assert aws(gateway, "s3", "ls", f"{base}/").split()[-1] == b"moved.bin"


def test_awscli_streams_from_and_to_a_pipe(gateway, local):
    target = f"s3://{local.bucket}/{local.key('piped')}"
    aws(gateway, "s3", "cp", "-", target, input=DATA)
    assert aws(gateway, "s3", "cp", target, "-") == DATA


def test_rclone_copies_and_checks(gateway, place, sample, tmp_path):
    config = tmp_path / "rclone.conf"
    config.write_text(
        f"[gateway]\ntype = s3\nprovider = Other\nendpoint = {gateway.url('s3')}\nregion = us-east-1\n"
        f"access_key_id = {OWNER.key}\nsecret_access_key = {OWNER.secret}\nforce_path_style = true\n"
    )

    def rclone(*arguments):
        argv = [str(tool("rclone")), "--config", str(config), "--retries", "1", "--low-level-retries", "1", *arguments]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    remote = f"gateway:{place.bucket}/{place.directory}"
    rclone("copy", "--s3-upload-cutoff", "6M", "--s3-chunk-size", "5M", str(sample), remote)
    rclone("check", "--download", str(sample), remote)
    rclone("copy", remote, str(tmp_path / "back"))
    same_files(sample, tmp_path / "back")
    rclone("purge", remote)


def test_pyarrow_writes_and_reads_a_partitioned_dataset(gateway, place):
    files = pyarrow.fs.S3FileSystem(
        access_key=OWNER.key, secret_key=OWNER.secret, region="us-east-1", scheme="http",
        endpoint_override=gateway.address("s3"),
    )  # fmt: skip
    table = pyarrow.table({"part": [n % 3 for n in range(30_000)], "value": list(range(30_000))})
    base = f"{place.bucket}/{place.directory}/table"
    pyarrow.dataset.write_dataset(table, base, filesystem=files, format="parquet", partitioning=["part"])
    back = pyarrow.dataset.dataset(base, filesystem=files, format="parquet", partitioning=["part"]).to_table()
    assert back.num_rows == 30_000
    assert sorted(back["value"].to_pylist()) == list(range(30_000))
    single = pyarrow.parquet.read_table(f"{base}/0/part-0.parquet", filesystem=files, columns=["value"])
    assert single.num_rows == 10_000


def test_s3fs_writes_lists_and_reads(gateway, place):
    files = s3fs.S3FileSystem(
        key=OWNER.key, secret=OWNER.secret, endpoint_url=gateway.url("s3"), client_kwargs={"region_name": "us-east-1"},
        skip_instance_cache=True,
    )  # fmt: skip
    base = f"{place.bucket}/{place.directory}"
    with files.open(f"{base}/big", "wb", block_size=6 << 20) as target:
        target.write(DATA)
    files.pipe(f"{base}/small", b"small")
    assert sorted(files.ls(base)) == [f"{base}/big", f"{base}/small"]
    with files.open(f"{base}/big", "rb") as source:
        source.seek(-100, 2)
        assert source.read() == DATA[-100:]
    assert files.cat(f"{base}/small") == b"small"
    files.mv(f"{base}/small", f"{base}/renamed")
    assert files.info(f"{base}/renamed")["size"] == 5
    files.rm(base, recursive=True)
    assert not files.exists(f"{base}/big")
