"""What several files of this part need."""

import pytest
from harness.faults import FaultProxy


@pytest.fixture
def proxy(store):
    """Lies between a gateway and the S3 store."""
    running = FaultProxy.before(store)
    yield running
    running.stop()
