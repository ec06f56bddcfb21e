"""S3 from real servers: MinIO, versitygw and moto."""

import os
import sys
from pathlib import Path

import boto3
from botocore.config import Config

from harness.stores.store import Store
from harness.tool import tool
from harness.wait import free_port

ACCESS_KEY = "store-access"
SECRET_KEY = "store-secret-key"
REGION = "us-east-1"
CODES = {403: "AccessDenied", 409: "ConditionalRequestConflict", 429: "TooManyRequests", 500: "InternalError", 503: "SlowDown"}


class BucketStore(Store):
    """What the S3 servers have in common; `client` is boto3 beside the gateway."""

    kind = "s3"

    def start(self) -> None:
        super().start()
        self.client = boto3.client(
            "s3", endpoint_url=self.endpoint, aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY,
            region_name=REGION, config=Config(s3={"addressing_style": "path"}),
        )  # fmt: skip

    def make_bucket(self, name: str) -> None:
        self.client.create_bucket(Bucket=name)

    def mount(self, bucket: str, endpoint: str | None = None, **extra) -> dict:
        options = {
            "bucket": bucket, "endpoint": endpoint or self.endpoint, "region": REGION,
            "access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY,
        }  # fmt: skip
        return {"store": "s3", "options": options} | extra

    def put(self, bucket: str, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=bucket, Key=key, Body=data)

    def get(self, bucket: str, key: str) -> bytes | None:
        try:
            return self.client.get_object(Bucket=bucket, Key=key)["Body"].read()
        except self.client.exceptions.NoSuchKey:
            return None

    def delete(self, bucket: str, key: str) -> None:
        self.client.delete_object(Bucket=bucket, Key=key)

    def keys(self, bucket: str) -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return sorted(item["Key"] for page in pages for item in page.get("Contents", []))

    @staticmethod
    def error(status: int) -> tuple[dict[str, str], bytes]:
        code = CODES[status]
        body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{code}.</Message></Error>'
        return {"Content-Type": "application/xml"}, body.encode()


class MinioStore(BucketStore):
    health = "/minio/health/ready"

    def argv(self) -> list:
        console = f"127.0.0.1:{free_port()}"
        return [tool("s3-server"), "server", self.data, "--address", self.address, "--console-address", console, "--quiet"]

    def environment(self) -> dict[str, str]:
        return {
            "MINIO_ROOT_USER": ACCESS_KEY, "MINIO_ROOT_PASSWORD": SECRET_KEY, "MINIO_PROMETHEUS_AUTH_TYPE": "public",
        }  # fmt: skip


class VersityStore(BucketStore):
    """Objects are files and their metadata extended attributes."""

    def argv(self) -> list:
        return [self.program(), "--port", self.address, "--quiet", "posix", self.data]

    @staticmethod
    def program() -> Path:
        chosen = Path(os.environ.get("FOREBAY_TOOL_S3_SERVER", ""))
        return chosen if chosen.name == "versitygw" else tool("versitygw")

    def environment(self) -> dict[str, str]:
        return {"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY}


class MotoStore(BucketStore):
    forgets = True

    def argv(self) -> list:
        return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", self.port]


# The S3 store of most tests: MinIO, or what the runner located in its place.
S3Store = {"minio": MinioStore, "versitygw": VersityStore}.get(
    Path(os.environ.get("FOREBAY_TOOL_S3_SERVER", "")).name, MotoStore
)  # fmt: skip
