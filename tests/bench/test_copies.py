"""`forebay cp -r` of small files from S3 to Azure against rclone with as many transfers."""

import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from bench.figures import Arm, interleave, verdict
from harness.gateway import Gateway, settings
from harness.stores.azblob import VolatileAzblobStore
from harness.stores.s3 import ACCESS_KEY, REGION, SECRET_KEY
from harness.tool import tool

FILES = 10_000
TRANSFERS = 16
ROUNDS = 2


@pytest.fixture(scope="module")
def two(stores, tmp_path_factory):
    directory = tmp_path_factory.mktemp("copies")
    source, target = stores["s3"], VolatileAzblobStore(directory / "azblob")
    bucket, container = source.bucket("copies"), target.bucket("copies")
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: source.put(bucket, f"d{number % 50}/f{number}", b"%1024d" % number), range(FILES)))
    mounts = {"/from": source.mount(bucket), "/onto": target.mount(container)}
    gateway = Gateway(directory, settings(directory, mounts, fuse=False), binary=tool("forebay-release")).start()
    (directory / "rclone.conf").write_text(
        f"[s3]\ntype = s3\nprovider = Minio\nendpoint = {source.endpoint}\nregion = {REGION}\naccess_key_id = {ACCESS_KEY}\n"
        f"secret_access_key = {SECRET_KEY}\n[az]\ntype = azureblob\nsas_url = {target.signed(container)}\n"
    )
    yield gateway, target, bucket, container, directory
    gateway.stop()
    target.stop()


def ours(gateway: Gateway, number: int) -> dict[str, float]:
    argv = [str(gateway.binary), "cp", "-r", "/from", f"/onto/ours{number}", "--transfers", str(TRANSFERS), "--json"]
    began = time.monotonic()
    done = subprocess.run([*argv, "--admin", gateway.url("admin")], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, "\n".join(done.stdout.splitlines()[-5:]) + done.stderr
    return {"files_s": FILES / (time.monotonic() - began)}


def theirs(config: Path, bucket: str, container: str, number: int) -> dict[str, float]:
    argv = [str(tool("rclone")), "--config", str(config), "copy", f"s3:{bucket}", f"az:{container}/theirs{number}"]
    began = time.monotonic()
    subprocess.run(
        [*argv, "--transfers", str(TRANSFERS), "--checkers", str(TRANSFERS)], check=True, capture_output=True, timeout=900
    )
    return {"files_s": FILES / (time.monotonic() - began)}


def test_small_files_are_copied_faster_than_by_rclone(two):
    gateway, target, bucket, container, directory = two
    numbers = iter(range(2 * ROUNDS))

    def store_cpu() -> float:
        return target.process.cpu_seconds()

    def fresh() -> None:
        """Azurite is slower the more blobs it has, so each run finds an empty one."""
        target.process.kill()
        target.start()
        target.make_bucket(container)

    medians = interleave(f"{FILES} files of 1 KiB, MinIO to Azurite, {TRANSFERS} transfers (server_cpu_s is Azurite's)", [
        Arm("forebay", lambda: ours(gateway, next(numbers)), store_cpu),
        Arm("rclone", lambda: theirs(directory / "rclone.conf", bucket, container, next(numbers)), store_cpu),
    ], ROUNDS, before=fresh)  # fmt: skip
    verdict("files a second ÷ rclone", medians["forebay"]["files_s"] / medians["rclone"]["files_s"], 3, at_most=False)
