"""A web server that is mounted read-only: nginx over a directory."""

from harness.nginx import CONFIG
from harness.stores.local import FsStore
from harness.stores.store import Store
from harness.tool import tool


class HttpStore(FsStore):
    """Buckets are directories below `data`, filled from outside."""

    kind = "http"
    is_read_only = True
    is_remote = True
    can_list = False
    start = Store.start
    stop = Store.stop

    def argv(self) -> list:
        root = self.directory / "nginx"
        root.mkdir(exist_ok=True)
        (root / "nginx.conf").write_text(CONFIG.format(directory=root, root=self.data, port=self.port))
        return [tool("nginx"), "-c", root / "nginx.conf", "-p", root, "-g", "master_process off;"]

    def mount(self, bucket: str, endpoint: str | None = None, **extra) -> dict:
        return {"store": "http", "options": {"endpoint": f"{endpoint or self.endpoint}/{bucket}"}} | extra

    @staticmethod
    def error(status: int) -> tuple[dict[str, str], bytes]:
        return {"Content-Type": "text/html"}, f"<html><head><title>{status}</title></head></html>".encode()
