"""pjdfstest works as several users."""

import pytest


@pytest.fixture(scope="session")
def fuse_options():
    return {"allow_other": True}
