"""S3 clients: boto3 for what is right, a raw signer for what is deliberately wrong."""

import datetime
import hashlib
import hmac
import http.client
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

REGION = "us-east-1"
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
STREAMING = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
STREAMING_TRAILER = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"


@dataclass(frozen=True)
class Credentials:
    key: str
    secret: str


def client(endpoint: str, who: Credentials, **config):
    """boto3 without retries, so that the first answer is the one that counts."""
    options = {
        "signature_version": "s3v4",
        "s3": {"addressing_style": "path"},
        "retries": {"total_max_attempts": 1},
        "read_timeout": 60,
    } | config
    return boto3.client(
        "s3", endpoint_url=endpoint, aws_access_key_id=who.key, aws_secret_access_key=who.secret,
        region_name=REGION, verify=False, config=Config(**options),
    )  # fmt: skip


def refused(call, **arguments) -> tuple[int, str]:
    """(status, code) of a call that must fail."""
    try:
        answer = call(**arguments)
    except ClientError as error:
        return error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]["Code"]
    raise AssertionError(f"was not refused: {answer}")


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The S3 error code of an XML body; empty without one."""
        return self.body.partition(b"<Code>")[2].partition(b"</Code>")[0].decode()


class RawS3:
    """Signature Version 4 by hand (AWS: "Authenticating Requests"), each step open to tampering."""

    def __init__(self, endpoint: str, who: Credentials, now: datetime.datetime | None = None) -> None:
        self.host = urlsplit(endpoint).netloc
        self.who = who
        self.now = now or datetime.datetime.now(datetime.UTC)
        self.stamp = self.now.strftime("%Y%m%dT%H%M%SZ")
        self.scope = f"{self.stamp[:8]}/{REGION}/s3/aws4_request"
        key = f"AWS4{who.secret}".encode()
        for part in (self.stamp[:8], REGION, "s3", "aws4_request"):
            key = _hmac(key, part)
        self.signing_key = key

    def sign(self, method: str, path: str, query: str, headers: dict[str, str], payload: str) -> dict[str, str]:
        """All headers to send. `path` and `query` are as on the wire; `payload` is x-amz-content-sha256."""
        signed = {name.lower(): value for name, value in headers.items()}
        signed |= {"host": self.host, "x-amz-date": self.stamp, "x-amz-content-sha256": payload}
        names = ";".join(sorted(signed))
        lines = "".join(f"{name}:{signed[name]}\n" for name in sorted(signed))
        request = "\n".join([method, path, query, lines, names, payload])
        digest = hashlib.sha256(request.encode()).hexdigest()
        signature = self._signature(f"AWS4-HMAC-SHA256\n{self.stamp}\n{self.scope}\n{digest}")
        credential = f"AWS4-HMAC-SHA256 Credential={self.who.key}/{self.scope}"
        return signed | {"authorization": f"{credential},SignedHeaders={names},Signature={signature}"}

    def _signature(self, text: str) -> str:
        return hmac.new(self.signing_key, text.encode(), hashlib.sha256).hexdigest()

    def chunks(self, data: bytes, seed: str | None, trailer: tuple[str, str] | None = None, size: int = 65536) -> bytes:
        """aws-chunked framing; `seed` is the request's signature, None frames without signatures."""
        framed, previous = b"", seed
        pieces = [data[at : at + size] for at in range(0, len(data), size)] + [b""]
        for piece in pieces:
            mark = ""
            if previous is not None:
                digest = hashlib.sha256(piece).hexdigest()
                text = f"AWS4-HMAC-SHA256-PAYLOAD\n{self.stamp}\n{self.scope}\n{previous}\n{EMPTY_SHA256}\n{digest}"
                previous = self._signature(text)
                mark = f";chunk-signature={previous}"
            framed += f"{len(piece):x}{mark}\r\n".encode() + piece + (b"\r\n" if piece else b"")
        if trailer:
            line = f"{trailer[0]}:{trailer[1]}"
            framed += f"{line}\r\n".encode()
            if previous is not None:
                digest = hashlib.sha256(f"{line}\n".encode()).hexdigest()
                text = f"AWS4-HMAC-SHA256-TRAILER\n{self.stamp}\n{self.scope}\n{previous}\n{digest}"
                framed += f"x-amz-trailer-signature:{self._signature(text)}\r\n".encode()
        return framed + b"\r\n"

    def send(self, method: str, path: str, query: str, headers: dict[str, str], body: bytes | None = None) -> Reply:
        """Sends exactly these bytes; a Content-Length in `headers` may lie."""
        connection = http.client.HTTPConnection(self.host, timeout=30)
        try:
            connection.putrequest(method, path + (f"?{query}" if query else ""), skip_host=True, skip_accept_encoding=True)
            lengths = (
                {} if any(name.lower() == "content-length" for name in headers) else {"content-length": str(len(body or b""))}
            )
            for name, value in (headers | lengths).items():
                connection.putheader(name, value)
            connection.endheaders()
            if body:
                connection.send(body)
            response = connection.getresponse()
            return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def request(self, method: str, path: str, query: str = "", body: bytes = b"", **headers: str) -> Reply:
        """A correctly signed request; header names are written with `_` for `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        payload = named.pop("x-amz-content-sha256", hashlib.sha256(body).hexdigest())
        return self.send(method, path, query, self.sign(method, path, query, named, payload), body)

    def streamed(self, path: str, data: bytes, payload: str, trailer: tuple[str, str] | None = None, spoil=lambda b: b) -> Reply:
        """A PUT in aws-chunked encoding; `spoil` changes the framed bytes after they were signed."""
        headers = {"content-encoding": "aws-chunked", "x-amz-decoded-content-length": str(len(data))}
        if trailer:
            headers["x-amz-trailer"] = trailer[0]
        headers = self.sign("PUT", path, "", headers, payload)
        seed = headers["authorization"].rpartition("Signature=")[2] if payload.startswith("STREAMING-AWS4") else None
        return self.send("PUT", path, "", headers, spoil(self.chunks(data, seed, trailer)))


def wire(key: str) -> str:
    """A key as SigV4's canonical URI has it."""
    return quote(key, safe="/-_.~")


def keys(s3, bucket: str, prefix: str = "") -> list[str]:
    """Every key below a prefix but directory markers (one page)."""
    listed = s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
    return [item["Key"] for item in listed if not item["Key"].endswith("/")]
