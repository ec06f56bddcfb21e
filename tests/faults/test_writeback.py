"""kill -9 of a write-back mount: what was acknowledged reaches the store, nothing else does, the last write of a name wins."""

import hashlib
import json
import random
import threading

import pytest
from harness.gateway import Gateway, settings
from harness.s3 import keys
from harness.wait import wait_for

ROUNDS = 5
WRITERS = 6
SIZES = (100, 20_000, 100_000, 1_500_000)


def content(name: str, number: int, size: int) -> bytes:
    return hashlib.shake_128(f"{name} {number}".encode()).digest(size)


class Writer(threading.Thread):
    """Overwrites a name again and again; knows what was answered and what was begun after it."""

    def __init__(self, gateway, mount: str, name: str, seed: int) -> None:
        super().__init__(daemon=True)
        self.gateway, self.mount, self.name, self.random = gateway, mount, name, random.Random(seed)
        self.acknowledged = b""
        self.begun = [b""]
        self.count = 0

    def run(self) -> None:
        s3, hdfs = self.gateway.s3(), self.gateway.webhdfs()
        while True:
            body = content(self.name, self.count, self.random.choice(SIZES))
            self.begun = [self.acknowledged, body]
            try:
                if self.random.random() < 0.5:
                    s3.put_object(Bucket=self.mount, Key=self.name, Body=body)
                else:
                    assert hdfs.create(f"/{self.mount}/{self.name}", body, overwrite="true").status == 201
            except Exception:  # the gateway was killed
                return
            self.acknowledged, self.begun = body, [body]
            self.count += 1


@pytest.mark.parametrize("mode", ["back", "through"])
def test_kills_lose_nothing_acknowledged_and_invent_nothing(store, tmp_path, mode):
    seed = random.randrange(1 << 32)
    print(f"{mode}: seed {seed}")
    chance = random.Random(seed)
    mount = store.mount(store.bucket(f"writeback-{mode}")) | {"cache": {"write": mode, "revalidate": "always"}}
    gateway = Gateway(tmp_path / "gateway", settings(tmp_path / "gateway", {"/data": mount}, fuse=False))
    acknowledged = 0
    try:
        for _ in range(ROUNDS):
            gateway.start()
            writers = [Writer(gateway, "data", f"file-{n}", chance.randrange(1 << 32)) for n in range(WRITERS)]
            for writer in writers:
                writer.start()
            wait_for(lambda: sum(w.count for w in writers) >= chance.randrange(10, 60), 30, "some writes")  # noqa: B023
            gateway.kill()
            for writer in writers:
                writer.join(30)
            acknowledged += sum(writer.count for writer in writers)
            gateway.start()
            seen = {w.name: gateway.s3().get_object(Bucket="data", Key=w.name)["Body"].read() for w in writers if w.acknowledged}
            flushed = gateway.cli("flush")
            assert flushed.returncode == 0, flushed.stderr
            assert json.loads(gateway.cli("status", "--json").stdout) == []
            for writer in writers:
                if not writer.acknowledged:
                    continue
                stored = gateway.s3().get_object(Bucket="data", Key=writer.name)["Body"].read()
                assert stored == seen[writer.name], "the flush changed what readers see"
                assert stored in writer.begun, f"{writer.name} is neither its last answered write nor the one after it"
            assert [key for key in keys(gateway.s3(), "data") if not key.startswith("file-") or "conflict" in key] == []
            gateway.stop()
    finally:
        gateway.kill()
    print(f"{mode}: {ROUNDS} kills, {acknowledged} acknowledged writes")
    assert acknowledged > ROUNDS * 10
