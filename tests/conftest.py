"""What the end-to-end parts share: one store and one gateway per run, a fresh directory per test."""

import itertools
import os

import pytest
from harness.gateway import Gateway, settings
from harness.place import STORES, Place
from harness.stores import Stores
from harness.tool import has_fuse, machine

_numbers = itertools.count(1)

# A developer's own cloud settings must not reach the clients under test.
for name in [name for name in os.environ if name.startswith("AWS_") or name.endswith(("_CA_BUNDLE", "_PROXY", "_proxy"))]:
    del os.environ[name]


@pytest.fixture(scope="session")
def stores(tmp_path_factory):
    """Every store by its name, started when it is first asked for."""
    running = Stores(tmp_path_factory.mktemp("stores"))
    yield running
    running.stop()


@pytest.fixture(scope="session")
def store(stores):
    """The S3 store of tests that need only one."""
    return stores["s3"]


@pytest.fixture(scope="session")
def hadoop(stores):
    return stores["hdfs"]


@pytest.fixture(scope="session")
def fuse_options():
    """Options of the shared gateway's FUSE mount; a part may override them."""
    return {}


@pytest.fixture(scope="session")
def gateway(request, tmp_path_factory, store, fuse_options):
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
    if "hdfs" in STORES:
        hadoop = request.getfixturevalue("hadoop")
        mounts["/lake"] = hadoop.mount(hadoop.bucket("gateway"))
    (directory / "local").mkdir()
    config = settings(directory, mounts)
    if fuse := config["gateway"]["listeners"].get("fuse"):
        fuse.update(fuse_options)
    running = Gateway(directory, config).start()
    yield running
    running.stop()


@pytest.fixture
def place_in(gateway):
    """Makes a place in the mount of one kind of store."""
    return lambda store: Place(store, STORES[store], f"t{os.getpid()}-{next(_numbers)}", gateway.mountpoint)


@pytest.fixture(params=list(STORES))
def place(request, place_in):
    """Runs the test once per store, in a directory nobody else uses."""
    return place_in(request.param)


@pytest.fixture
def local(place_in):
    """For tests whose answer cannot depend on the store."""
    return place_in("fs")


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
    used = [getattr(value, "gateway", value) for value in getattr(item, "funcargs", {}).values()]
    running = next((value for value in used if isinstance(value, Gateway)), None)
    if report.failed and running and running.log.exists():
        lines = running.log.read_text(errors="replace").splitlines()[-25:]
        report.sections.append(("gateway log", "\n".join(lines)))
