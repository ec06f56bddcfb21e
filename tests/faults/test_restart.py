"""The disk cache outlives the gateway: warm after kill -9, and what was damaged in between comes from the store."""

import hashlib
import time
from pathlib import Path

import pytest
from harness.wait import wait_for

MIB = 1 << 20
SIZES = {"page": MIB, "pages": 5 * MIB + 77, "small": 10_000, "tiny": 1}
FILES = ["page", "pages"]  # the others are packed into a segment
LOGGED_S = 1.0  # the logger's interval and what a busy machine adds


def content(key: str) -> bytes:
    return hashlib.shake_128(key.encode()).digest(SIZES[key])


def read_all(gateway) -> None:
    for key in SIZES:
        assert gateway.s3().get_object(Bucket="bucket", Key=key)["Body"].read() == content(key)


def fetches(gateway) -> float:
    return gateway.metrics().total("forebay_cache_fetches_total", mount="/bucket")


@pytest.fixture
def warm(own, store):
    """Killed once all objects were on its disk and in its log."""
    own.config["gateway"]["cache"]["memory"]["size"] = "16MiB"
    own.rewrite().start()
    bucket = own.config["mounts"]["/bucket"]["options"]["bucket"]
    for key in SIZES:
        store.client.put_object(Bucket=bucket, Key=key, Body=content(key))
    read_all(own)
    held = sum(-(-SIZES[key] // 4096) * 4096 for key in FILES)
    index = own.directory / "var" / "cache" / "index"

    def is_cached() -> bool:
        seen = own.metrics()
        packed = seen.total("forebay_cache_disk_contents", tier="nvme", form="segments")
        return seen.total("forebay_cache_disk_bytes", tier="nvme", form="files") >= held and packed == len(SIZES) - len(FILES)

    wait_for(is_cached, 10, "all pages to be on disk")
    wait_for(lambda: time.time() - index.stat().st_mtime > LOGGED_S, 10, "the log to be quiet")
    own.kill()
    return own


def cached_files(gateway) -> list[Path]:
    cache = gateway.directory / "var" / "cache"
    files, segments = sorted((cache / "clean").iterdir()), sorted((cache / "segments").iterdir())
    assert (len(files), len(segments)) == (len(FILES), 1)
    return files + segments


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 0x10]))


def test_killed_gateway_is_warm_when_it_starts_again(warm):
    warm.start()
    wait_for(lambda: warm.metrics().total("forebay_cache_used_bytes", tier="nvme") > 6 * MIB, 10, "the cache to be back")
    read_all(warm)
    assert fetches(warm) == 0


def test_flipped_bytes_of_cached_files_are_never_served(warm):
    for path in cached_files(warm):
        for at in range(0, path.stat().st_size, MIB):
            flip(path, at)
    warm.start()
    read_all(warm)
    pages = sum(-(-size // MIB) for size in SIZES.values())
    assert warm.metrics().total("forebay_cache_damaged_pages_total") > 0
    assert 0 < fetches(warm) <= pages
    read_all(warm)


@pytest.mark.parametrize("place", ["start", "middle", "end"])
def test_damaged_log_loses_warmth_and_nothing_else(warm, place):
    index = warm.directory / "var" / "cache" / "index"
    size = index.stat().st_size
    flip(index, {"start": 0, "middle": size // 2, "end": size - 1}[place])
    warm.start()
    read_all(warm)
    warm.stop()
    warm.start()
    read_all(warm)
