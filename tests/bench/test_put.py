"""64 MiB written through to an S3 store over a link of a fixed rate, against the same PUT straight to that store."""

import os
import subprocess
import time

import pytest
from bench.figures import Arm, interleave, verdict
from bench.link import Links
from harness.gateway import Gateway, settings
from harness.s3 import Credentials, client
from harness.stores.s3 import ACCESS_KEY, SECRET_KEY
from harness.tool import tool

MIB = 1 << 20
SIZE = 64 * MIB
RATE_PER_S = 200e6
LATENCY_S = 0.001
ROUNDS = 5


@pytest.fixture(scope="module")
def arms(store, tmp_path_factory):
    directory = tmp_path_factory.mktemp("put")
    (directory / "noise").write_bytes(os.urandom(SIZE))
    links = Links(store.endpoint, bytes_per_s=RATE_PER_S, latency_s=LATENCY_S)
    bucket = store.bucket("put")
    mounts = {"/bucket": store.mount(bucket, endpoint=links.endpoints[0])}
    gateway = Gateway(directory, settings(directory, mounts, fuse=False), binary=tool("forebay-release")).start()
    direct = client(links.endpoints[0], Credentials(ACCESS_KEY, SECRET_KEY))
    names = iter(f"{number}" for number in range(10_000))

    def put(s3, bucket: str) -> dict[str, float]:
        where = {"Bucket": bucket, "Key": next(names), "IfNoneMatch": "*"}
        url = s3.generate_presigned_url("put_object", where, ExpiresIn=3600)
        began = time.monotonic()
        subprocess.run(["curl", "-sSf", "-T", directory / "noise", "-H", "If-None-Match: *", "-o", "/dev/null", url], check=True)
        return {"mb_s": SIZE / 1e6 / (time.monotonic() - began)}

    yield [
        Arm("forebay", lambda: put(gateway.s3(), "bucket"), gateway.process.cpu_seconds),
        Arm("direct", lambda: put(direct, bucket), lambda: 0.0),
    ]
    gateway.stop()
    links.stop()


def test_write_through_keeps_up_with_the_store_itself(arms):
    title = f"PUT of {SIZE // MIB} MiB, written through, at {RATE_PER_S / 1e6:.0f} MB/s and {LATENCY_S * 1e3:.0f} ms"
    put = interleave(title, arms, ROUNDS)
    verdict("speed, forebay ÷ direct", put["forebay"]["mb_s"] / put["direct"]["mb_s"], 0.95, at_most=False)
