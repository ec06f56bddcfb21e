"""A gateway whose budgets are small beside what it is asked for, before a store that is full."""

import pytest
from burst.traffic import BUDGET_BYTES, MIB, NVME_BYTES, OBJECT_BYTES, OBJECTS, content
from harness.gateway import Gateway, settings
from harness.tool import tool


def pytest_addoption(parser):
    parser.addoption("--burst-seconds", type=int, default=20, help="how long everything runs at once")
    parser.addoption("--burst-release", action="store_true", help="the release binary")


@pytest.fixture(scope="session")
def filled(store):
    """A bucket with four times what the disk tier holds: files of a page, and of four."""
    bucket = store.bucket("burst")
    for number in range(OBJECTS):
        store.put(bucket, f"pages/{number}", content(f"pages/{number}", OBJECT_BYTES))
        store.put(bucket, f"page/{number}", content(f"page/{number}", MIB))
    return bucket


@pytest.fixture
def own(request, tmp_path, store, filled):
    cache = {"memory": {"size": BUDGET_BYTES}, "nvme": {"size": NVME_BYTES, "directory": str(tmp_path / "cache")}}
    binary = tool("forebay-release") if request.config.getoption("--burst-release") else None
    mounts = {"/bucket": store.mount(filled, limits={"queue_deadline": "2m"})}
    gateway = Gateway(tmp_path, settings(tmp_path, mounts, cache=cache), binary).start()
    yield gateway
    gateway.stop()
