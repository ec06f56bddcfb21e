"""A gateway on free loopback ports, from a mounts.yaml that the test wrote."""

import copy
import os
import subprocess
from pathlib import Path

import requests
import yaml

from harness.metrics import Metrics
from harness.process import Process
from harness.s3 import Credentials, client
from harness.tool import has_fuse, tool
from harness.wait import free_port, wait_for
from harness.webhdfs import WebHdfs

OWNER = Credentials("forebay-owner", "forebay-owner-secret")
READER = Credentials("forebay-reader", "forebay-reader-secret")
GUEST = Credentials("forebay-guest", "forebay-guest-secret")
SHUTDOWN_DEADLINE_S = 8

ACCESS = [
    {
        "name": "owner", "fuse": True, "webhdfs": {"users": ["*"]},
        "s3": {"access_key": OWNER.key, "secret_key": OWNER.secret},
        "grants": [{"prefix": "/", "access": "write"}],
    },
    {
        "name": "reader", "webhdfs": {"users": ["reader"]},
        "s3": {"access_key": READER.key, "secret_key": READER.secret},
        "grants": [{"prefix": "/", "access": "read"}],
    },
    {
        "name": "guest", "webhdfs": {"users": ["guest"]},
        "s3": {"access_key": GUEST.key, "secret_key": GUEST.secret},
        "grants": [{"prefix": "/local/guest", "access": "write"}],
    },
]  # fmt: skip


def settings(directory: Path, mounts: dict, fuse: bool = True, **gateway) -> dict:
    """A mounts.yaml as data. `gateway` replaces or adds keys of the gateway section."""
    listeners = {name: {"listen": f"127.0.0.1:{free_port()}"} for name in ("s3", "webhdfs", "admin")}
    if fuse and has_fuse():
        (directory / "mnt").mkdir(parents=True, exist_ok=True)
        listeners["fuse"] = {"mountpoint": str(directory / "mnt")}
    section = {
        "var": str(directory / "var"),
        "listeners": listeners,
        "access": copy.deepcopy(ACCESS),
        "cache": {"memory": {"size": "64MiB"}, "nvme": {"size": "256MiB", "directory": str(directory / "var" / "cache")}},
        "shutdown": {"deadline": f"{SHUTDOWN_DEADLINE_S}s"},
    }
    return {"gateway": section | gateway, "mounts": mounts}


class Gateway:
    """One `forebay serve`. Restartable: `kill` or `stop`, then `start`, keeps ports and directories."""

    def __init__(self, directory: Path, config: dict, binary: Path | None = None, environment: dict | None = None) -> None:
        self.directory = directory
        self.binary = binary or tool("forebay")
        self.config = config
        self.environment = os.environ | (environment or {})
        self.config_path = directory / "mounts.yaml"
        self.log = directory / "gateway.log"
        self.process: Process | None = None
        self.panics = 0
        directory.mkdir(parents=True, exist_ok=True)
        self.rewrite()

    def rewrite(self) -> "Gateway":
        """Writes `config` out again after a test changed it."""
        self.config_path.write_text(yaml.safe_dump(self.config, sort_keys=False))
        return self

    def address(self, listener: str) -> str:
        return self.config["gateway"]["listeners"][listener]["listen"]

    def url(self, listener: str) -> str:
        scheme = "https" if "tls" in self.config["gateway"]["listeners"][listener] else "http"
        return f"{scheme}://{self.address(listener)}"

    @property
    def mountpoint(self) -> Path | None:
        fuse = self.config["gateway"]["listeners"].get("fuse")
        return Path(fuse["mountpoint"]) if fuse else None

    def start(self) -> "Gateway":
        argv = [self.binary, "serve", "--config", self.config_path]
        self.process = Process("forebay", argv, self.log, cwd=self.directory, env=self.environment)
        self.process.ready(self._is_ready, 30)
        if self.mountpoint:
            self.process.ready(self.mountpoint.is_mount, 10)
        return self

    def _is_ready(self) -> bool:
        return requests.get(f"{self.url('admin')}/readyz", timeout=2, verify=False).status_code == 200

    def stop(self) -> None:
        """SIGTERM; must exit 0 within its configured deadline, leave no mount and have survived without a panic."""
        if self.process is None:
            return
        process, self.process = self.process, None
        code = process.stop(SHUTDOWN_DEADLINE_S + 5)
        self.clear_mount()
        assert code == 0, f"exit {code}:\n{process.tail()}"
        assert self.log.read_text(errors="replace").count("panicked at") == self.panics

    def kill(self) -> None:
        """SIGKILL: what a crash leaves behind stays as it is, the dead mount included."""
        if self.process is not None:
            process, self.process = self.process, None
            process.kill()

    def clear_mount(self) -> None:
        """Lazily detaches what a killed gateway left mounted, so that the directory can be removed."""
        if self.mountpoint and str(self.mountpoint) in Path("/proc/self/mounts").read_text():
            subprocess.run(["umount", "-l", str(self.mountpoint)], check=False, capture_output=True)

    def s3(self, who: Credentials = OWNER):
        return client(self.url("s3"), who)

    def webhdfs(self, user: str = "root") -> WebHdfs:
        return WebHdfs(self.url("webhdfs"), user)

    def metrics(self) -> Metrics:
        return Metrics.scrape(f"{self.url('admin')}/metrics")

    def cli(self, *arguments: str, stdin: bytes | None = None) -> subprocess.CompletedProcess:
        """A command against this gateway; `serve` and `check` read its configuration."""
        argv = [str(self.binary), *arguments]
        if arguments[0] in ("serve", "check"):
            argv += ["--config", str(self.config_path)]
        environment = self.environment | {"FOREBAY_ADMIN": self.url("admin")}
        return subprocess.run(argv, input=stdin, capture_output=True, cwd=self.directory, env=environment, timeout=60)

    def actors(self) -> list[dict]:
        return requests.get(f"{self.url('admin')}/api/v1/actors", timeout=5).json()

    def panic_actor(self, name: str) -> None:
        """Debug builds let a test panic any supervised actor, once it runs (again)."""
        url = f"{self.url('admin')}/debug/actors/{name}/panic"
        wait_for(lambda: requests.post(url, timeout=5).status_code == 204, 10, f"{name} to take its panic")
        self.panics += 1

    def wait_for_metric(self, name: str, at_least: float, deadline_s: float = 10, **labels: str) -> None:
        wait_for(lambda: self.metrics().total(name, **labels) >= at_least, deadline_s, f"{name} {labels} >= {at_least}")
