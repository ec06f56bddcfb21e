"""WebHDFS as it goes over the wire: one request at a time, redirects followed by hand."""

from typing import Any, NamedTuple
from urllib.parse import quote

import requests


class Outcome(NamedTuple):
    """What a client sees: the status, and the JSON body, the exception's name or the bytes."""

    status: int
    value: Any


class WebHdfs:
    """A thin client of one user. Paths are percent-encoded here, once."""

    def __init__(self, base: str, user: str = "root", **session) -> None:
        self.base = base
        self.user = user
        self.session = requests.Session()
        self.session.trust_env = False
        for name, value in session.items():
            setattr(self.session, name, value)

    def url(self, path: str) -> str:
        return f"{self.base}/webhdfs/v1{quote(path, safe='/')}"

    def step(self, method: str, path: str, op: str, body: bytes | None = None, **params) -> requests.Response:
        """The first step alone: a redirect is returned, not followed."""
        query = {"op": op, "user.name": self.user} | {name.replace("_", "."): value for name, value in params.items()}
        headers = {"Content-Type": "application/octet-stream"} if body is not None else {}
        return self.session.request(
            method, self.url(path), params=query, data=body, headers=headers, allow_redirects=False, timeout=60
        )  # fmt: skip

    def call(self, method: str, path: str, op: str, body: bytes | None = None, **params) -> requests.Response:
        """Both steps: data goes only to where the redirect points, as Hadoop's client does it."""
        answer = self.step(method, path, op, **params)
        if answer.status_code == 307:
            headers = {"Content-Type": "application/octet-stream"} if body is not None else {}
            location = answer.headers["Location"]
            answer = self.session.request(method, location, data=body, headers=headers, allow_redirects=False, timeout=60)
        return answer

    def outcome(self, method: str, path: str, op: str, body: bytes | None = None, **params) -> Outcome:
        answer = self.call(method, path, op, body, **params)
        if answer.status_code >= 400:
            return Outcome(answer.status_code, answer.json()["RemoteException"]["exception"])
        is_json = answer.headers.get("Content-Type", "").startswith("application/json")
        return Outcome(answer.status_code, answer.json() if is_json else answer.content)

    def create(self, path: str, data: bytes, **params) -> Outcome:
        return self.outcome("PUT", path, "CREATE", data, **params)

    def append(self, path: str, data: bytes) -> Outcome:
        return self.outcome("POST", path, "APPEND", data)

    def open(self, path: str, **params) -> Outcome:
        return self.outcome("GET", path, "OPEN", **params)

    def mkdirs(self, path: str) -> Outcome:
        return self.outcome("PUT", path, "MKDIRS")

    def rename(self, path: str, destination: str, **params) -> Outcome:
        return self.outcome("PUT", path, "RENAME", destination=destination, **params)

    def delete(self, path: str, recursive: bool = False) -> Outcome:
        return self.outcome("DELETE", path, "DELETE", recursive=str(recursive).lower())

    def status(self, path: str) -> Outcome:
        answer = self.outcome("GET", path, "GETFILESTATUS")
        return Outcome(answer.status, answer.value["FileStatus"]) if answer.status == 200 else answer

    def names(self, path: str) -> list[str]:
        """Names in the order of the answer, directories with a trailing slash."""
        answer = self.outcome("GET", path, "LISTSTATUS")
        assert answer.status == 200, answer
        entries = answer.value["FileStatuses"]["FileStatus"]
        return [entry["pathSuffix"] + ("/" if entry["type"] == "DIRECTORY" else "") for entry in entries]
