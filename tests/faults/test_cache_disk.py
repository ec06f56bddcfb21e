"""What happens to the disks under the cache costs hits and nothing else."""

import hashlib
import subprocess

import pytest
from harness.wait import wait_for

MIB = 1 << 20
SIZES = {
    f"{kind}-{number}": size for number in range(8) for kind, size in (("page", MIB), ("pages", 3 * MIB + 5), ("small", 9000))
}
OK, DEGRADED, DOWN = 0, 1, 2


def content(key: str) -> bytes:
    return hashlib.shake_128(key.encode()).digest(SIZES[key])


def read_all(gateway) -> None:
    s3 = gateway.s3()
    for key in SIZES:
        assert s3.get_object(Bucket="bucket", Key=key)["Body"].read() == content(key), key


def used(gateway, directory) -> float:
    return gateway.metrics().total("forebay_cache_disk_used_bytes", directory=str(directory))


def state(gateway, directory) -> float:
    return gateway.metrics().total("forebay_cache_disk_state", directory=str(directory))


def fetches(gateway) -> float:
    return gateway.metrics().total("forebay_cache_fetches_total", mount="/bucket")


def filled(gateway, store) -> None:
    """Puts the objects into the store behind the gateway's back."""
    bucket = gateway.config["mounts"]["/bucket"]["options"]["bucket"]
    for key in SIZES:
        store.client.put_object(Bucket=bucket, Key=key, Body=content(key))


def warmed(gateway) -> None:
    """Reads until everything comes from the cache."""

    def is_warm() -> bool:
        before = fetches(gateway)
        read_all(gateway)
        return fetches(gateway) == before

    wait_for(is_warm, 20, "all objects to be cached")


def cache_in(gateway, *directories, size: str = "128MiB") -> None:
    """Too little memory to hold the objects, so that the disks are read."""
    places = [{"path": str(directory), "size": size} for directory in directories]
    gateway.config["gateway"]["cache"] = {"memory": {"size": "16MiB"}, "nvme": {"directories": places}}
    gateway.rewrite()


@pytest.fixture
def two(own, store):
    """A gateway with two cache directories and objects in its store; not started."""
    directories = own.directory / "disk-a", own.directory / "disk-b"
    cache_in(own, *directories)
    filled(own, store)
    return own, *directories


def test_two_directories_share_the_contents_and_both_are_warm_after_a_kill(two):
    gateway, a, b = two
    gateway.start()
    warmed(gateway)
    metrics = gateway.metrics()
    assert used(gateway, a) > MIB
    assert used(gateway, b) > MIB
    assert metrics.total("forebay_cache_used_bytes", tier="nvme") == used(gateway, a) + used(gateway, b)
    assert metrics.total("forebay_cache_capacity_bytes", tier="nvme") == 256 * MIB
    wait_for(lambda: (a / "index").exists() and (b / "index").exists(), 10, "both logs")
    # Twice the logger's interval without a change.
    logs = []
    wait_for(lambda: logs.append([(d / "index").stat().st_mtime_ns for d in (a, b)]) or logs[-4:] == 4 * logs[-1:], 10, "quiet")
    gateway.kill()
    gateway.clear_mount()
    gateway.start()
    wait_for(lambda: used(gateway, a) + used(gateway, b) > 32 * MIB, 10, "both to be back")
    read_all(gateway)
    assert fetches(gateway) == 0


def test_a_directory_that_cannot_be_opened_is_down_until_it_can(two):
    gateway, a, b = two
    b.write_text("not a directory")
    gateway.start()
    assert (state(gateway, a), state(gateway, b)) == (OK, DOWN)
    assert "a cache directory is down" in gateway.log.read_text()
    assert str(b) in gateway.log.read_text()
    read_all(gateway)
    assert used(gateway, a) > 0
    b.unlink()
    wait_for(lambda: state(gateway, b) == OK, 15, "the directory to be taken in")
    warmed(gateway)
    assert used(gateway, b) > MIB


def test_directories_that_are_wrong_are_refused_with_what_to_do(own):
    cache_in(own, own.directory / "a", own.directory / "a" / "b")
    refused = own.cli("check")
    assert refused.returncode != 0
    assert b"overlap; give each cache directory a place of its own" in refused.stderr
    cache_in(own, own.directory / "a")
    own.config["gateway"]["cache"]["nvme"]["size"] = "1GiB"
    refused = own.rewrite().cli("serve")
    assert refused.returncode != 0
    assert b"move `size` into one of them" in refused.stderr
    (own.directory / "file").write_text("")
    cache_in(own, own.directory / "file")
    refused = own.cli("serve")
    assert refused.returncode != 0
    assert b"open cache directory" in refused.stderr + refused.stdout


def test_directories_that_change_wait_for_a_restart(two):
    gateway, a, b = two
    cache_in(gateway, a)
    gateway.start()
    read_all(gateway)
    cache_in(gateway, a, b)
    done = gateway.cli("reload")
    assert done.returncode == 0, done.stderr
    assert b"restart" in done.stdout + done.stderr
    gateway.wait_for_metric("forebay_config_outdated", 1, cause="restart")
    assert not b.exists()
    gateway.stop()
    gateway.start()
    warmed(gateway)
    assert used(gateway, b) > MIB


def test_a_second_gateway_on_one_of_the_directories_is_refused(two, tmp_path):
    gateway, a, _ = two
    gateway.start()
    other = gateway.directory / "other.yaml"
    text = (
        gateway.config_path.read_text()
        .replace(str(a), str(tmp_path / "disk-c"))
        .replace(str(gateway.directory / "var"), str(tmp_path / "var2"))
    )
    other.write_text(text)
    argv = [str(gateway.binary), "serve", "--config", str(other)]
    refused = subprocess.run(argv, capture_output=True, timeout=30)
    assert refused.returncode != 0
    assert b"another gateway uses it" in refused.stderr + refused.stdout
    read_all(gateway)
