"""Load on several mounts through several frontends, with every failure kept."""

import os
import threading
import traceback
from collections.abc import Callable

from botocore.exceptions import BotoCoreError, ClientError

from harness.wait import wait_for

BODY = b"x" * 200_000
CACHED = os.urandom(3 << 20)


class Load:
    """Runs pieces of work in threads until it is told to stop; every failure is kept under the name of its work."""

    def __init__(self, works: dict[str, Callable[[int], None]]) -> None:
        self.failures: list[tuple[str, str]] = []
        self.done = dict.fromkeys(works, 0)
        self.stopped = threading.Event()
        self.threads = [threading.Thread(target=self.work, args=(name, work)) for name, work in works.items()]
        for thread in self.threads:
            thread.start()

    def work(self, name: str, work: Callable[[int], None]) -> None:
        number = 0
        while not self.stopped.is_set():
            number += 1
            try:
                work(number)
            except (BotoCoreError, ClientError, AssertionError, OSError) as error:
                self.failures.append((name, "".join(traceback.format_exception(error))))
            self.done[name] += 1

    def goes_on(self, rounds: int = 3, but: str | None = None) -> None:
        """Waits until every work (`but` those of one frontend) has been done some more times."""
        goals = {name: done + rounds for name, done in self.done.items() if not but or not name.startswith(but)}
        wait_for(lambda: all(self.done[name] >= goal for name, goal in goals.items()), 30, f"more rounds of {goals}")

    def stop(self) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join(30)


def s3_work(gateway, bucket: str) -> Callable[[int], None]:
    s3 = gateway.s3()

    def work(number: int) -> None:
        target = {"Bucket": bucket, "Key": f"s3/{number % 7}"}
        s3.put_object(**target, Body=BODY)
        body = s3.get_object(**target)["Body"].read()
        assert body == BODY, f"{target['Key']}: {len(body)} bytes"

    return work


def webhdfs_work(gateway, bucket: str) -> Callable[[int], None]:
    hdfs = gateway.webhdfs()

    def work(number: int) -> None:
        path = f"/{bucket}/hdfs/{number % 7}"
        made = hdfs.create(path, BODY, overwrite="true")
        assert made.status == 201, made
        read = hdfs.open(path)
        assert read.value == BODY, read.status

    return work


def fuse_work(gateway, bucket: str) -> Callable[[int], None]:
    directory = gateway.mountpoint / bucket / "fuse"
    directory.mkdir()

    def work(number: int) -> None:
        path = directory / str(number % 7)
        path.write_bytes(BODY)
        assert path.read_bytes() == BODY

    return work


def cached_work(gateway, bucket: str) -> Callable[[int], None]:
    """Reads what the cache holds: no actor of the mount is needed for that, and no store."""
    s3 = gateway.s3()
    s3.put_object(Bucket=bucket, Key="cached", Body=CACHED)
    s3.get_object(Bucket=bucket, Key="cached")["Body"].read()

    def work(_: int) -> None:
        assert s3.get_object(Bucket=bucket, Key="cached")["Body"].read() == CACHED

    return work


def mixed_load(gateway, buckets: tuple[str, ...]) -> Load:
    """S3, WebHDFS and FUSE on each bucket, and reads of a cached file in the last of them."""
    works = {}
    for bucket in buckets:
        works[f"s3 {bucket}"] = s3_work(gateway, bucket)
        works[f"webhdfs {bucket}"] = webhdfs_work(gateway, bucket)
        if gateway.mountpoint:
            works[f"fuse {bucket}"] = fuse_work(gateway, bucket)
    works["s3 cached"] = cached_work(gateway, buckets[-1])
    return Load(works)
