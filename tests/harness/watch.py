"""Watches what a process takes while something runs: memory of its own, and the disk below a directory."""

import contextlib
import os
import threading
from pathlib import Path

INTERVAL_S = 0.05
BLOCK_BYTES = 512


class Watch:
    """Samples from its start to its end; the peaks are what counts. Memory is RssAnon, what no file stands behind."""

    def __init__(self, pid: int, directory: Path) -> None:
        self.pid = pid
        self.directory = directory
        self.rss_anon_bytes: list[int] = []
        self.disk_bytes: list[int] = []
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Watch":
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.ended.set()
        self.thread.join()

    @property
    def peak_rss_anon_bytes(self) -> int:
        return max(self.rss_anon_bytes)

    @property
    def peak_disk_bytes(self) -> int:
        return max(self.disk_bytes)

    def __str__(self) -> str:
        first, last = (self.rss_anon_bytes[at] >> 20 for at in (0, -1))
        return (
            f"RssAnon {first} to {self.peak_rss_anon_bytes >> 20} MiB, {last} in the end, disk {self.peak_disk_bytes >> 20} MiB"
        )

    def _run(self) -> None:
        while not self.ended.is_set():
            with contextlib.suppress(OSError):
                self.rss_anon_bytes.append(rss_anon_bytes(self.pid))
                self.disk_bytes.append(disk_bytes(self.pid, self.directory))
            self.ended.wait(INTERVAL_S)


def rss_anon_bytes(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("RssAnon:")[2].split()[0]) << 10


def disk_bytes(pid: int, directory: Path) -> int:
    """Blocks of all files below `directory`, those included that have no name any more and are open in the process."""
    blocks = {}
    for parent, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):
                found = os.lstat(f"{parent}/{name}")
                blocks[found.st_ino] = found.st_blocks
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            target = os.readlink(descriptor)
            if target.startswith(f"{directory}/") and target.endswith(" (deleted)"):
                found = os.stat(descriptor)
                blocks[found.st_ino] = found.st_blocks
    return sum(blocks.values()) * BLOCK_BYTES
