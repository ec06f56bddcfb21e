"""The stores that need no server: a local directory and the gateway's own memory."""

from pathlib import Path

from harness.stores.store import Store


class FsStore(Store):
    """Buckets are directories below `data`. There is no server to stop or pause."""

    kind = "fs"
    is_remote = False

    def argv(self) -> list:
        return []

    def start(self) -> None:
        self.process = None

    def stop(self) -> None:
        self.process = None

    def make_bucket(self, name: str) -> None:
        (self.data / name).mkdir()

    def mount(self, bucket: str, endpoint: str | None = None, **extra) -> dict:
        return {"store": "fs", "options": {"root": str(self.data / bucket)}} | extra

    def _file(self, bucket: str, key: str) -> Path:
        return self.data / bucket / key

    def put(self, bucket: str, key: str, data: bytes) -> None:
        self._file(bucket, key).parent.mkdir(parents=True, exist_ok=True)
        self._file(bucket, key).write_bytes(data)

    def get(self, bucket: str, key: str) -> bytes | None:
        return self._file(bucket, key).read_bytes() if self._file(bucket, key).is_file() else None

    def delete(self, bucket: str, key: str) -> None:
        self._file(bucket, key).unlink()

    def keys(self, bucket: str) -> list[str]:
        root = self.data / bucket
        return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())

    @staticmethod
    def error(status: int) -> tuple[dict[str, str], bytes]:
        raise NotImplementedError(f"a directory answers no {status}")


class MemoryStore(FsStore):
    """Lives and ends with the gateway; nothing can be seen or changed from outside."""

    kind = "memory"
    forgets = True

    def make_bucket(self, name: str) -> None:
        """A mount is its bucket."""

    def mount(self, bucket: str, endpoint: str | None = None, **extra) -> dict:
        return {"store": "memory"} | extra
