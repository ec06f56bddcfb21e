"""A rate that many connections share."""

import threading
import time

SLICE_S = 0.001
SLICE_BYTES_MIN = 4096
SLICE_BYTES_MAX = 1 << 18
BURST_S = 0.01


class Pacer:
    """Says when bytes may go, so that all of them together keep `bytes_per_s`.

    Time is reckoned from when the line is free, not from when a sleeper woke: what a late wake-up lost is caught up,
    as far as `BURST_S` goes.
    """

    def __init__(self, bytes_per_s: float) -> None:
        self.bytes_per_s = bytes_per_s
        self.slice_bytes = int(min(max(bytes_per_s * SLICE_S, SLICE_BYTES_MIN), SLICE_BYTES_MAX))
        self.lock = threading.Lock()
        self.free_at_s = 0.0

    def take(self, size_bytes: int) -> None:
        """Returns when the last of `size_bytes` would have left."""
        with self.lock:
            now = time.monotonic()
            self.free_at_s = max(self.free_at_s, now - BURST_S) + size_bytes / self.bytes_per_s
            wait_s = self.free_at_s - now
        if wait_s > 0:
            time.sleep(wait_s)
