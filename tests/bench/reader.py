"""HTTP readers that cost as little as Python allows: one connection each, one buffer, no copies kept."""

import http.client
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import urlsplit

BUFFER_BYTES = 1 << 20


@dataclass(frozen=True)
class Read:
    """What one GET moved, and when its first byte and its last one came, counted from before it was sent."""

    size_bytes: int
    first_byte_s: float
    total_s: float


class Reader:
    """A kept connection to one server."""

    def __init__(self, url: str) -> None:
        self.connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=120)
        self.buffer = memoryview(bytearray(BUFFER_BYTES))

    def get(self, url: str, first: int | None = None, last: int | None = None) -> Read:
        began = time.monotonic()
        parts = urlsplit(url)
        headers = {} if first is None else {"Range": f"bytes={first}-{last}"}
        self.connection.request("GET", f"{parts.path}?{parts.query}", headers=headers)
        answer = self.connection.getresponse()
        if answer.status not in (200, 206):
            answer.read()
            raise OSError(f"{answer.status} for {parts.path}")
        size = answer.readinto(self.buffer[:1])
        first_byte_s = time.monotonic() - began
        while moved := answer.readinto(self.buffer):
            size += moved
        return Read(size, first_byte_s, time.monotonic() - began)

    def connect(self) -> None:
        self.connection.connect()

    def close(self) -> None:
        self.connection.close()


def parallel(url: str, size_bytes: int, part_bytes: int, readers: int) -> float:
    """Seconds in which `readers` connections move the whole object in ranges: no gateway, no cache, no checks."""

    def work(number: int) -> int:
        reader = Reader(url)
        moved = 0
        for first in range(number * part_bytes, size_bytes, readers * part_bytes):
            moved += reader.get(url, first, min(first + part_bytes, size_bytes) - 1).size_bytes
        reader.close()
        return moved

    began = time.monotonic()
    with ThreadPoolExecutor(readers) as pool:
        assert sum(pool.map(work, range(readers))) == size_bytes
    return time.monotonic() - began
