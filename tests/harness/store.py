"""A real S3 store behind the gateway's s3 mounts: MinIO, versitygw or moto, whichever the runner located."""

import itertools
import os
import sys
from pathlib import Path

import boto3
import requests
from botocore.config import Config

from harness.process import Process
from harness.wait import free_port

ACCESS_KEY = "store-access"
SECRET_KEY = "store-secret-key"
REGION = "us-east-1"
ENVIRONMENT = {
    "MINIO_ROOT_USER": ACCESS_KEY,
    "MINIO_ROOT_PASSWORD": SECRET_KEY,
    "MINIO_PROMETHEUS_AUTH_TYPE": "public",
    "ROOT_ACCESS_KEY": ACCESS_KEY,
    "ROOT_SECRET_KEY": SECRET_KEY,
}


class S3Store:
    """The server and its data directory; `kind` says which one it is."""

    def __init__(self, directory: Path) -> None:
        program = Path(os.environ.get("FOREBAY_TOOL_S3_SERVER") or sys.executable)
        self.directory = directory
        self.numbers = itertools.count(1)
        self.kind = program.name if program.name in ("minio", "versitygw") else "moto"
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        data = directory / "data"
        data.mkdir(parents=True)
        address = f"127.0.0.1:{self.port}"
        arguments = {
            "minio": ["server", data, "--address", address, "--console-address", f"127.0.0.1:{free_port()}", "--quiet"],
            "versitygw": ["--port", address, "posix", "--nometa", data],
            "moto": ["-m", "moto.server", "-H", "127.0.0.1", "-p", self.port],
        }
        self.argv = [program, *arguments[self.kind]]
        self.start()
        self.client = boto3.client(
            "s3", endpoint_url=self.endpoint, aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY,
            region_name=REGION, config=Config(s3={"addressing_style": "path"}),
        )  # fmt: skip

    def start(self) -> None:
        """Also after `stop`: same port, same data (moto forgets)."""
        self.process = Process(self.kind, self.argv, self.directory / "store.log", env=os.environ | ENVIRONMENT)
        self.process.ready(self._answers, 60)

    def _answers(self) -> bool:
        path = "/minio/health/ready" if self.kind == "minio" else "/"
        return requests.get(self.endpoint + path, timeout=2).status_code < 500

    def bucket(self, purpose: str) -> str:
        """A bucket of its own for each caller; its name."""
        name = f"{purpose}-{next(self.numbers)}"
        self.client.create_bucket(Bucket=name)
        return name

    def mount(self, bucket: str, endpoint: str | None = None, **extra) -> dict:
        """The entry of mounts.yaml that serves `bucket`; `endpoint` when a proxy stands between."""
        options = {
            "bucket": bucket, "endpoint": endpoint or self.endpoint, "region": REGION,
            "access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY,
        }  # fmt: skip
        return {"store": "s3", "options": options} | extra

    def stop(self) -> None:
        self.process.stop()
