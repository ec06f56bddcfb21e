"""Google Cloud Storage from fake-gcs-server, looked at through its JSON API."""

import json
from urllib.parse import quote

import requests

from harness.stores.store import Store
from harness.tool import tool

REASONS = {429: "rateLimitExceeded", 500: "internalError", 503: "backendError"}


class GcsStore(Store):
    """In memory: its files cannot hold a name that ends in `/`. It knows itself by its Host, so a proxy has to say that one."""

    kind = "gcs"
    forgets = True
    signs_host = False
    health = "/storage/v1/b?project=store"

    def argv(self) -> list:
        return [
            tool("fake-gcs-server"), "-scheme", "http", "-host", "127.0.0.1", "-port", self.port,
            "-public-host", self.address, "-backend", "memory", "-log-level", "warn",
        ]  # fmt: skip

    def _url(self, bucket: str, key: str | None = None) -> str:
        tail = "" if key is None else f"/{quote(key, safe='')}"
        return f"{self.endpoint}/storage/v1/b/{bucket}/o{tail}"

    def _ask(self, method: str, url: str, **arguments) -> requests.Response:
        answer = requests.request(method, url, timeout=30, **arguments)
        if answer.status_code != 404:
            answer.raise_for_status()
        return answer

    def make_bucket(self, name: str) -> None:
        self._ask("POST", f"{self.endpoint}/storage/v1/b?project=store", json={"name": name})

    def mount(self, bucket: str, endpoint: str | None = None, **extra) -> dict:
        options = {"bucket": bucket, "endpoint": endpoint or self.endpoint, "skip_signature": True}
        return {"store": "gcs", "options": options} | extra

    def put(self, bucket: str, key: str, data: bytes) -> None:
        url = f"{self.endpoint}/upload/storage/v1/b/{bucket}/o"
        headers = {"Content-Type": "application/octet-stream"}
        self._ask("POST", url, params={"uploadType": "media", "name": key}, data=data, headers=headers)

    def get(self, bucket: str, key: str) -> bytes | None:
        answer = self._ask("GET", self._url(bucket, key), params={"alt": "media"})
        return None if answer.status_code == 404 else answer.content

    def delete(self, bucket: str, key: str) -> None:
        self._ask("DELETE", self._url(bucket, key))

    def keys(self, bucket: str) -> list[str]:
        found, page = [], {}
        while True:
            answer = self._ask("GET", self._url(bucket), params=page).json()
            found += [item["name"] for item in answer.get("items", [])]
            if not answer.get("nextPageToken"):
                return sorted(found)
            page = {"pageToken": answer["nextPageToken"]}

    @staticmethod
    def error(status: int) -> tuple[dict[str, str], bytes]:
        reason = REASONS[status]
        detail = {"domain": "global", "reason": reason, "message": f"{reason}."}
        body = {"error": {"code": status, "message": detail["message"], "errors": [detail]}}
        return {"Content-Type": "application/json; charset=UTF-8"}, json.dumps(body).encode()
