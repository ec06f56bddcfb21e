"""Clients that write without a pause and know what they were promised, name by name."""

import contextlib
import hashlib
import os
import random
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from harness.gateway import Gateway

NAMES = 4
SIZES = (0, 100, 20_000, 100_000, 1_500_000)
PART_BYTES = 5 << 20
END_S = 60
# What a FUSE client writes before it renames it into place: promised to nobody.
UNPROMISED = ".tmp"

Content = bytes | None
Contents = dict[str, Content]


@dataclass
class Promise:
    """What a store of contents must hold when its writer stops: `before` the operation under way, or `after` it, or
    any of `between`. `grows` says that a part of what was appended may be there.
    """

    before: Contents
    after: Contents
    between: list[Contents] = field(default_factory=list)
    grows: bool = False

    def allows(self, seen: Contents) -> bool:
        if any(
            all(seen[name] == content for name, content in state.items()) for state in (self.before, self.after, *self.between)
        ):
            return True
        return self.grows and all(
            seen[name] is not None
            and (before or b"") == seen[name][: len(before or b"")]
            and self.after[name].startswith(seen[name])
            for name, before in self.before.items()
        )


def fsync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Owner:
    """One client of a directory that nobody else writes to, through all frontends by turns."""

    def __init__(self, gateway: Gateway, bucket: str, number: int, seed: int, kind: str) -> None:
        self.gateway, self.bucket, self.number = gateway, bucket, number
        # An append that is cut off may have appended a part.
        self.is_atomic = kind not in ("fs", "hdfs")
        self.has_directories = kind == "fs" and gateway.mountpoint is not None
        self.choose = random.Random(seed)
        self.directory = f"owner-{number}"
        self.names = [f"{self.directory}/{name}" for name in range(NAMES)]
        self.known: Contents = dict.fromkeys(self.names)
        self.under_way: Promise | None = None
        self.is_killed = threading.Event()
        self.failure: BaseException | None = None
        self.done: Counter[str] = Counter()
        self.trace: list[str] = []
        self.writes = 0

    def begin(self) -> None:
        """Writes until `end`, or until something fails."""
        self.is_killed.clear()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def end(self) -> None:
        """Called once the gateway is killed; a request that failed while it lived is an error."""
        self.thread.join(END_S)
        assert not self.thread.is_alive(), f"owner {self.number} hangs: {self.trace[-1]}"
        assert self.failure is None, f"owner {self.number}: {self.failure!r} while nothing had failed: {self.trace[-3:]}"

    def _run(self) -> None:
        self.s3, self.hdfs = self.gateway.s3(), self.gateway.webhdfs()
        try:
            while not self.is_killed.is_set():
                self.step()
        except Exception as error:
            if not self.is_killed.is_set():
                self.failure = error

    def step(self) -> None:
        kinds = {"put": 6, "create": 3, "append": 2, "delete": 2, "rename": 2, "copy": 1, "multipart": 1}
        if self.gateway.mountpoint:
            kinds |= {"replace": 3, "extend": 3}
        kind = self.choose.choices(list(kinds), list(kinds.values()))[0]
        getattr(self, kind)()

    def data(self) -> bytes:
        self.writes += 1
        seed = f"{self.number} {self.writes} {self.choose.random()}".encode()
        return hashlib.shake_128(seed).digest(self.choose.choice(SIZES))

    def name(self, exists: bool = False) -> str | None:
        names = [name for name in self.names if self.known[name] is not None] if exists else self.names
        return self.choose.choice(names) if names else None

    def path(self, name: str) -> str:
        return f"/{self.bucket}/{name}"

    def file(self, name: str) -> Path:
        return self.gateway.mountpoint / self.bucket / name

    @contextlib.contextmanager
    def promised(self, what: str, changes: Contents, between: list[Contents] = (), grows: bool = False):
        """What happens in here leads from what is known to `changes`, and holds once it is over."""
        before = {name: self.known[name] for name in changes}
        self.under_way = Promise(before, changes, list(between), grows)
        self.trace.append(f"{what}: " + ", ".join(f"{name} {self.describe(content)}" for name, content in changes.items()))
        yield
        self.known |= changes
        self.under_way = None
        self.done[what] += 1

    def put(self) -> None:
        name, body = self.name(), self.data()
        with self.promised("put", {name: body}):
            self.s3.put_object(Bucket=self.bucket, Key=name, Body=body)

    def create(self) -> None:
        name, body = self.name(), self.data()
        with self.promised("create", {name: body}):
            answer = self.hdfs.create(self.path(name), body, overwrite="true")
            assert answer.status == 201, answer

    def append(self) -> None:
        name, more = self.name(exists=True), self.data()
        if name:
            with self.promised("append", {name: self.known[name] + more}, grows=not self.is_atomic):
                answer = self.hdfs.append(self.path(name), more)
                assert answer.status == 200, answer

    def delete(self) -> None:
        name = self.name(exists=True)
        if not name:
            return
        with self.promised("delete", {name: None}):
            self.s3.delete_object(Bucket=self.bucket, Key=name)
            if self.has_directories:
                self.keep_names()

    def rename(self) -> None:
        source, target = self.name(exists=True), self.name()
        if source in (None, target) or (self.known[target] is not None and not self.gateway.mountpoint):
            return
        body = self.known[source]
        # Copied and deleted where the store cannot rename: for a moment there are both.
        with self.promised("rename", {source: None, target: body}, between=[{source: body, target: body}]):
            if self.known[target] is None:
                answer = self.hdfs.rename(self.path(source), self.path(target))
                assert answer == (200, {"boolean": True}), answer
            else:
                self.file(source).rename(self.file(target))
            if self.has_directories:
                self.keep_names()

    def copy(self) -> None:
        source, target = self.name(exists=True), self.name()
        if source is None or source == target:
            return
        with self.promised("copy", {target: self.known[source]}):
            self.s3.copy_object(Bucket=self.bucket, Key=target, CopySource={"Bucket": self.bucket, "Key": source})

    def multipart(self) -> None:
        name, parts = self.name(), [self.choose.randbytes(PART_BYTES), self.data()]
        target = {"Bucket": self.bucket, "Key": name}
        with self.promised("multipart", {name: b"".join(parts)}):
            target |= {"UploadId": self.s3.create_multipart_upload(**target)["UploadId"]}
            tags = [
                {"PartNumber": number, "ETag": self.s3.upload_part(**target, PartNumber=number, Body=part)["ETag"]}
                for number, part in enumerate(parts, 1)
            ]
            self.s3.complete_multipart_upload(**target, MultipartUpload={"Parts": tags})

    def replace(self) -> None:
        """As programs write a checkpoint: beside it, made durable, renamed over it."""
        name, body = self.name(), self.data()
        beside = self.file(name + UNPROMISED)
        with self.promised("replace", {name: body}):
            beside.parent.mkdir(exist_ok=True)
            with beside.open("wb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            beside.rename(self.file(name))
            if self.has_directories:
                self.keep_names()

    def keep_names(self) -> None:
        """On a local disk a name is promised to be there, or gone, once its directory is fsynced."""
        fsync(self.file(self.directory))

    def extend(self) -> None:
        """Two writes of one open file, each made durable: the first is on its way when the second comes."""
        name = self.name(exists=True)
        if not name:
            return
        with self.file(name).open("ab") as file:
            for _ in range(2):
                more = self.data()
                with self.promised("extend", {name: self.known[name] + more}, grows=not self.is_atomic):
                    file.write(more)
                    file.flush()
                    os.fsync(file.fileno())

    def verify(self, seen: Contents) -> None:
        """Compares what is there after a crash with what was promised, and holds everything after to it."""
        promise = self.under_way or Promise({}, {})
        settled = {name: content for name, content in self.known.items() if name not in promise.before}
        wrong = [name for name, content in settled.items() if seen[name] != content]
        if wrong or not promise.allows(seen):
            shown = {name: self.describe(seen[name]) for name in wrong or promise.before}
            history = "\n".join(self.trace[-15:])
            raise AssertionError(f"owner {self.number} finds {shown}, promised was another content:\n{history}")
        self.known, self.under_way = dict(seen), None
        self.trace.append("the gateway was killed")

    def describe(self, content: Content) -> str:
        if content is None:
            return "nothing"
        return f"{len(content)} bytes ({hashlib.md5(content).hexdigest()[:8]})"
