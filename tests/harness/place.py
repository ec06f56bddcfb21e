"""Where a test works: a directory of its own in one mount."""

import os
from dataclasses import dataclass
from pathlib import Path

from harness.tool import machine

# Kind of store → where the shared gateway mounts one. Starting HDFS takes a while: only parts that ask for it have it.
STORES = {"fs": "local", "memory": "scratch", "s3": "bucket"}
if os.environ.get("FOREBAY_TOOL_HDFS"):
    STORES["hdfs"] = "lake"


@dataclass(frozen=True)
class Place:
    """A directory of its own for one test, in one mount, as each frontend names it."""

    store: str
    bucket: str
    directory: str
    mountpoint: Path | None

    def key(self, name: str = "") -> str:
        return f"{self.directory}/{name}"

    def path(self, name: str = "") -> str:
        return f"/{self.bucket}/{self.directory}" + (f"/{name}" if name else "")

    def file(self, name: str = "") -> Path:
        machine(self.mountpoint, "no /dev/fuse, or not root")
        return self.mountpoint / self.bucket / self.directory / name
