"""What the end-to-end parts share: one store and one gateway per run, a fresh directory per test."""

import itertools
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.gateway import Gateway, settings
from harness.store import S3Store
from harness.tool import has_fuse, machine

STORES = {"fs": "local", "memory": "scratch", "s3": "bucket"}
_numbers = itertools.count(1)

# A developer's own cloud settings must not reach the clients under test.
for name in [name for name in os.environ if name.startswith("AWS_") or name.endswith(("_CA_BUNDLE", "_PROXY", "_proxy"))]:
    del os.environ[name]


@dataclass(frozen=True)
class Place:
    """A directory of its own for one test, in one mount, as each frontend names it."""

    store: str
    bucket: str
    directory: str
    mountpoint: Path | None

    def key(self, name: str = "") -> str:
        return f"{self.directory}/{name}"

    def path(self, name: str = "") -> str:
        return f"/{self.bucket}/{self.directory}" + (f"/{name}" if name else "")

    def file(self, name: str = "") -> Path:
        machine(self.mountpoint, "no /dev/fuse, or not root")
        return self.mountpoint / self.bucket / self.directory / name


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    server = S3Store(tmp_path_factory.mktemp("store"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def gateway(tmp_path_factory, store):
    directory = tmp_path_factory.mktemp("gateway")
    frozen = directory / "frozen"
    frozen.mkdir()
    (frozen / "kept.txt").write_bytes(b"kept")
    mounts = {
        "/local": {"store": "fs", "options": {"root": str(directory / "local")}},
        "/local/nested": {"store": "memory"},
        "/scratch": {"store": "memory"},
        "/bucket": store.mount(store.bucket("gateway")),
        "/frozen": {"store": "fs", "options": {"root": str(frozen)}, "read_only": True},
    }
    (directory / "local").mkdir()
    running = Gateway(directory, settings(directory, mounts)).start()
    yield running
    running.stop()


@pytest.fixture(params=list(STORES))
def place(request, gateway):
    """Runs the test once per store, in a directory nobody else uses."""
    return Place(request.param, STORES[request.param], f"t{os.getpid()}-{next(_numbers)}", gateway.mountpoint)


@pytest.fixture
def local(gateway):
    """For tests whose answer cannot depend on the store."""
    return Place("fs", STORES["fs"], f"t{os.getpid()}-{next(_numbers)}", gateway.mountpoint)


@pytest.fixture
def s3(gateway):
    return gateway.s3()


@pytest.fixture
def hdfs(gateway):
    return gateway.webhdfs()


@pytest.fixture
def tree(place):
    """The test's directory in the FUSE mount, made and empty."""
    machine(has_fuse(), "no /dev/fuse, or not root")
    place.file().mkdir()
    return place.file()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    running = getattr(item, "funcargs", {}).get("gateway")
    if report.failed and isinstance(running, Gateway) and running.log.exists():
        lines = running.log.read_text(errors="replace").splitlines()[-25:]
        report.sections.append(("gateway log", "\n".join(lines)))
