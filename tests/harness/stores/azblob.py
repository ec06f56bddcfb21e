"""Azure Blob Storage from Azurite, Microsoft's own emulator."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from azure.core.exceptions import ResourceNotFoundError
from azure.storage.blob import BlobServiceClient, ContainerSasPermissions, generate_container_sas

from harness.stores.store import Store
from harness.tool import tool

ACCOUNT = "storeaccount"
KEY = "c3RvcmUta2V5LW9mLXRoZS10ZXN0cw=="
CODES = {429: "TooManyRequests", 500: "InternalError", 503: "ServerBusy"}


class AzblobStore(Store):
    """Strict, and persistent in its directory. The account is the first segment of paths, as with all emulators."""

    kind = "azblob"
    health = f"/{ACCOUNT}?comp=list"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.client = BlobServiceClient(
            f"{self.endpoint}/{ACCOUNT}", {"account_name": ACCOUNT, "account_key": KEY}, retry_total=0
        )  # fmt: skip

    def argv(self) -> list:
        return [
            tool("azurite"), "--blobHost", "127.0.0.1", "--blobPort", self.port, *self.persistence(),
            "--silent", "--disableTelemetry", "--skipApiVersionCheck", "--disableProductStyleUrl",
        ]  # fmt: skip

    def persistence(self) -> list:
        return ["--location", self.data]

    def environment(self) -> dict[str, str]:
        return {"AZURITE_ACCOUNTS": f"{ACCOUNT}:{KEY}"}

    def make_bucket(self, name: str) -> None:
        self.client.create_container(name)

    def mount(self, bucket: str, endpoint: str | None = None, **extra) -> dict:
        options = {
            "container": bucket, "endpoint": f"{endpoint or self.endpoint}/{ACCOUNT}",
            "account_name": ACCOUNT, "account_key": KEY,
        }  # fmt: skip
        return {"store": "azblob", "options": options} | extra

    def put(self, bucket: str, key: str, data: bytes) -> None:
        self.client.get_blob_client(bucket, key).upload_blob(data, overwrite=True)

    def get(self, bucket: str, key: str) -> bytes | None:
        try:
            return self.client.get_blob_client(bucket, key).download_blob().readall()
        except ResourceNotFoundError:
            return None

    def delete(self, bucket: str, key: str) -> None:
        self.client.get_blob_client(bucket, key).delete_blob()

    def signed(self, container: str) -> str:
        """A URL that may do everything in a container for an hour."""
        may = ContainerSasPermissions(read=True, write=True, delete=True, list=True, create=True)
        expiry = datetime.now(UTC) + timedelta(hours=1)
        return f"{self.endpoint}/{ACCOUNT}/{container}?{generate_container_sas(ACCOUNT, container, KEY, permission=may, expiry=expiry)}"

    def keys(self, bucket: str) -> list[str]:
        return sorted(self.client.get_container_client(bucket).list_blob_names())

    @staticmethod
    def error(status: int) -> tuple[dict[str, str], bytes]:
        code = CODES[status]
        body = f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code><Message>{code}.</Message></Error>'
        return {"Content-Type": "application/xml", "x-ms-error-code": code, "x-ms-version": "2021-12-02"}, body.encode()


class VolatileAzblobStore(AzblobStore):
    """For benchmarks: the persistent one writes all it knows into one file every few seconds and answers nobody
    meanwhile, seconds long with 10,000 blobs.
    """

    forgets = True

    def persistence(self) -> list:
        return ["--inMemoryPersistence"]
