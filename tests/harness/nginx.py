"""nginx serving a directory: the yardstick for HTTP figures."""

import os
import shutil
from pathlib import Path

import requests

from harness.process import Process
from harness.tool import tool
from harness.wait import free_port

CONFIG = """
daemon off; pid {directory}/nginx.pid; error_log {directory}/error.log; worker_processes 1;
events {{ worker_connections 1024; }}
http {{
    access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000; default_type application/octet-stream;
    client_body_temp_path {directory}/b; proxy_temp_path {directory}/p; fastcgi_temp_path {directory}/f;
    uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
    server {{ listen 127.0.0.1:{port}; root {root}; autoindex on; }}
}}
"""


class Nginx:
    def __init__(self, directory: Path, root: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        directory.mkdir(parents=True)
        (directory / "nginx.conf").write_text(CONFIG.format(directory=directory, root=root, port=port))
        argv = [tool("nginx"), "-c", directory / "nginx.conf", "-p", directory, "-g", "user root;"]
        self.process = Process("nginx", argv, directory / "nginx.log")
        self.process.ready(lambda: requests.get(self.url, timeout=2).status_code < 500, 10)

    def cpu_seconds(self) -> float:
        """Master and worker together."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        ticks = 0
        for pid in [str(self.process.pid), *children]:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        self.process.stop()


def serve_copy(directory: Path, files: dict[str, Path]) -> Nginx:
    """An nginx whose root holds copies of these files."""
    root = directory / "root"
    for name, source in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, root / name)
    return Nginx(directory / "nginx", root)
