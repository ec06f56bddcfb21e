"""Programs that the runner located, handed over as FOREBAY_TOOL_<NAME>; without the runner, what PATH has."""

import os
import shutil
from pathlib import Path

import pytest


def tool(name: str) -> Path:
    """The program, or a skip that CI counts as a failure."""
    found = os.environ.get(f"FOREBAY_TOOL_{name.upper().replace('-', '_')}") or shutil.which(name)
    if not found:
        pytest.skip(f"{name} is not installed")
    return Path(found)


def machine(condition: object, reason: str) -> None:
    """Skips what no installation could make possible on this machine."""
    if not condition:
        pytest.skip(f"machine: {reason}")


def has_fuse() -> bool:
    return os.geteuid() == 0 and os.access("/dev/fuse", os.R_OK | os.W_OK)
