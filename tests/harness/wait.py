"""Conditions with deadlines instead of sleeps, and free ports."""

import contextlib
import socket
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
POLL_S = 0.02


def wait_for(condition: Callable[[], T], deadline_s: float, what: str) -> T:
    """Returns the first true value of `condition`; fails with `what` and the last exception after the deadline."""
    end = time.monotonic() + deadline_s
    last: Exception | None = None
    while True:
        try:
            if value := condition():
                return value
            last = None
        except (OSError, AssertionError) as error:
            last = error
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not happen within {deadline_s} s") from last
        time.sleep(POLL_S)


def free_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
