"""Clients of every kind in great number. Contents repeat one block that their key makes, so each byte can be checked."""

import hashlib
import http.client
import itertools
import selectors
import socket
import threading
from collections.abc import Callable
from urllib.parse import urlsplit

from harness.gateway import Gateway

MIB = 1 << 20
BLOCK_BYTES = 64 << 10
PATIENCE_S = 120

# The gateway's budgets, and what a process may take beside its memory budget.
BUDGET_BYTES = 128 * MIB
NVME_BYTES = 128 * MIB
SLACK_BYTES = 64 * MIB

# What the store holds of each kind.
OBJECTS = 128
OBJECT_BYTES = 4 * MIB


def block(key: str) -> bytes:
    return hashlib.shake_128(key.encode()).digest(BLOCK_BYTES)


def content(key: str, size_bytes: int) -> bytes:
    return block(key) * (size_bytes // BLOCK_BYTES)


class Traffic:
    """What clients do with one mount of a gateway, which S3 calls a bucket; any failure is an AssertionError."""

    def __init__(self, gateway: Gateway, bucket: str) -> None:
        self.gateway = gateway
        self.bucket = bucket
        self.s3 = gateway.s3()
        self.hdfs = gateway.webhdfs()
        self.host = gateway.address("s3")

    def signed(self, operation: str, key: str, **more) -> str:
        parameters = {"Bucket": self.bucket, "Key": key} | more
        url = urlsplit(self.s3.generate_presigned_url(operation, Params=parameters, ExpiresIn=3600))
        return f"{url.path}?{url.query}"

    def get(self, key: str, size_bytes: int) -> None:
        expected, left = block(key), size_bytes
        with self.exchange("GET", self.signed("get_object", key)) as response:
            while left > 0:
                piece = response.read(BLOCK_BYTES)
                assert piece == expected, f"GET {key}: other bytes, {left} before the end"
                left -= len(piece)

    def put(self, key: str, size_bytes: int) -> None:
        self.send(self.signed("put_object", key), key, size_bytes)

    def put_parts(self, key: str, parts: int, part_bytes: int) -> None:
        target = {"Bucket": self.bucket, "Key": key}
        upload = self.s3.create_multipart_upload(**target)["UploadId"]
        made = []
        for number in range(1, parts + 1):
            url = self.signed("upload_part", key, UploadId=upload, PartNumber=number)
            made.append({"PartNumber": number, "ETag": self.send(url, key, part_bytes)})
        self.s3.complete_multipart_upload(**target, UploadId=upload, MultipartUpload={"Parts": made})

    def send(self, url: str, key: str, size_bytes: int) -> str:
        body = itertools.repeat(block(key), size_bytes // BLOCK_BYTES)
        with self.exchange("PUT", url, body, {"Content-Length": str(size_bytes)}) as response:
            response.read()
            return response.headers["ETag"]

    def exchange(self, method: str, url: str, body=None, headers=None) -> http.client.HTTPResponse:
        """One request on a connection of its own; the response closes it."""
        connection = http.client.HTTPConnection(self.host, timeout=PATIENCE_S)
        try:
            connection.request(method, url, body, {"Connection": "close"} | (headers or {}))
            response = connection.getresponse()
            assert response.status == 200, f"{method} {url}: {response.status} {response.read()[:500]}"
            return response
        except http.client.HTTPException as error:
            raise AssertionError(f"{method} {url}: {error!r}") from error

    def create(self, path: str, size_bytes: int) -> None:
        made = self.hdfs.create(f"/{self.bucket}/{path}", content(path, size_bytes), overwrite="true")
        assert made.status == 201, made

    def write_file(self, path: str, size_bytes: int) -> None:
        (self.gateway.mountpoint / self.bucket / path).write_bytes(content(path, size_bytes))

    def read_file(self, path: str, size_bytes: int) -> None:
        with (self.gateway.mountpoint / self.bucket / path).open("rb") as file:
            for at in range(0, size_bytes, BLOCK_BYTES):
                assert file.read(BLOCK_BYTES) == block(path), f"{path} at {at}"

    def listing(self) -> None:
        assert self.s3.list_objects_v2(Bucket=self.bucket, MaxKeys=1000)["KeyCount"] > 0


class SlowReaders:
    """Downloads that are read a little at a time; all of what came must be right, and none may break off."""

    STEP_BYTES = 1 << 10
    STEP_S = 0.25

    def __init__(self, traffic: Traffic, keys: list[str]) -> None:
        self.selector = selectors.DefaultSelector()
        self.received = dict.fromkeys(keys, b"")
        self.failures: list[str] = []
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._run)
        for key in keys:
            reader = socket.socket()
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            host, port = traffic.host.split(":")
            reader.connect((host, int(port)))
            request = f"GET {traffic.signed('get_object', key)} HTTP/1.1\r\nHost: {traffic.host}\r\n\r\n"
            reader.sendall(request.encode())
            reader.setblocking(False)
            self.selector.register(reader, selectors.EVENT_READ, key)

    def __enter__(self) -> "SlowReaders":
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.ended.set()
        self.thread.join()
        for registered in list(self.selector.get_map().values()):
            registered.fileobj.close()
        self.selector.close()

    def _run(self) -> None:
        while not self.ended.wait(self.STEP_S):
            for registered, _ in self.selector.select(0):
                try:
                    piece = registered.fileobj.recv(self.STEP_BYTES)
                except OSError as error:
                    piece, self.failures = b"", [*self.failures, f"{registered.data}: {error!r}"]
                if piece:
                    self.received[registered.data] += piece
                else:
                    self.failures.append(f"{registered.data} broke off")
                    self.selector.unregister(registered.fileobj)

    def check(self) -> None:
        assert not self.failures, self.failures[:3]
        for key, text in self.received.items():
            head, _, body = text.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head[:500]
            whole = content(key, (len(body) // BLOCK_BYTES + 1) * BLOCK_BYTES)
            assert whole.startswith(body), f"{key}: other bytes"
            assert body, f"{key}: nothing came"


def at_once(count: int, work: Callable[[int], None]) -> list[str]:
    """Runs `work` for each number in a thread of its own; what failed."""
    failures = []

    def run(number: int) -> None:
        try:
            work(number)
        except Exception as error:
            failures.append(f"{number}: {error!r}"[:600])

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures
