"""Gateways that a test may kill: an fs and an S3 mount each."""

import pytest
from harness.gateway import Gateway, settings


@pytest.fixture
def own(tmp_path, store):
    """Not started yet; `config` may be changed before `start`."""
    (tmp_path / "disk").mkdir()
    mounts = {
        "/disk": {"store": "fs", "options": {"root": str(tmp_path / "disk")}},
        "/bucket": store.mount(store.bucket("faults")),
    }
    gateway = Gateway(tmp_path, settings(tmp_path, mounts))
    yield gateway
    gateway.stop()
    gateway.clear_mount()
