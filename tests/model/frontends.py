"""The three frontends as the model drives them: one random operation at a time, its result compared at once."""

import itertools
import os
import random
from pathlib import Path

from harness.s3 import refused
from harness.webhdfs import Outcome, WebHdfs
from model.operation import Operation, Temporary, is_temporary
from model.reference import Tree

NAMES = ["a", "b", "c d", "é%20"]
SIZES = [0, 1, 100, 5000, 70_000, 70_000, (1 << 20) + 3]
PART = 5 << 20


class Frontend:
    """Shared choices. A `do_` method plans one operation, or nothing when the dice ask for what cannot be asked."""

    name = ""

    def __init__(self, tree: Tree, choose: random.Random) -> None:
        self.tree = tree
        self.choose = choose

    def plan(self) -> Operation | None:
        operations = [name for name in dir(self) if name.startswith("do_")]
        return getattr(self, self.choose.choice(operations))()

    def data(self) -> bytes:
        return self.choose.randbytes(self.choose.choice(SIZES))

    def any_path(self) -> str:
        """Often something that exists, so that operations meet each other."""
        existing = sorted(path for path in (*self.tree.files, *self.tree.directories) if path)
        if existing and self.choose.random() < 0.6:
            return self.choose.choice(existing)
        return "/".join(self.choose.choices(NAMES, k=self.choose.choice([1, 1, 2, 3])))

    def any_file(self) -> str | None:
        return self.choose.choice(sorted(self.tree.files)) if self.tree.files else None


class S3(Frontend):
    name = "s3"

    def __init__(self, client, bucket: str, directory: str, *shared) -> None:
        super().__init__(*shared)
        self.client = client
        self.bucket = bucket
        self.directory = directory

    def target(self, path: str) -> dict:
        return {"Bucket": self.bucket, "Key": f"{self.directory}/{path}"}

    def free_path(self) -> str | None:
        """A path an object may have without meeting a directory or lying under a file: what fs stores cannot hold."""
        path = self.any_path()
        return None if self.tree.is_directory(path) or self.tree.is_under_a_file(path) else path

    def do_put(self) -> Operation | None:
        path, data = self.free_path(), self.data()
        if path is None:
            return None

        def put() -> None:
            self.client.put_object(**self.target(path), Body=data)

        return Operation(f"put {path!r} {len(data)} bytes", [path], put, lambda: self.tree.write(path, data))

    def do_put_if_absent(self) -> Operation | None:
        path, data = self.free_path(), self.data()
        if path is None:
            return None
        text = f"put if absent {path!r} {len(data)} bytes"

        def put() -> None:
            self.client.put_object(**self.target(path), Body=data, IfNoneMatch="*")

        def be_refused() -> None:
            answer = refused(self.client.put_object, **self.target(path), Body=data, IfNoneMatch="*")
            if answer[0] >= 500:
                raise Temporary(answer)
            assert answer[0] == 412, answer

        if self.tree.is_file(path):
            return Operation(text, [path], be_refused)
        return Operation(text, [path], put, lambda: self.tree.write(path, data))

    def do_multipart(self) -> Operation | None:
        path = self.free_path()
        if path is None or self.choose.random() < 0.7:
            return None
        parts = [self.choose.randbytes(PART), self.data()]

        def upload() -> None:
            sent = {"UploadId": self.client.create_multipart_upload(**self.target(path))["UploadId"]} | self.target(path)
            tags = [
                {"PartNumber": number, "ETag": self.client.upload_part(**sent, PartNumber=number, Body=part)["ETag"]}
                for number, part in enumerate(parts, 1)
            ]
            self.client.complete_multipart_upload(**sent, MultipartUpload={"Parts": tags})

        text = f"multipart {path!r} {[len(part) for part in parts]}"
        return Operation(text, [path], upload, lambda: self.tree.write(path, b"".join(parts)))

    def do_copy(self) -> Operation | None:
        source, path = self.any_file(), self.free_path()
        if source is None or path is None or source == path:
            return None
        data = self.tree.files[source]

        def copy() -> None:
            self.client.copy_object(**self.target(path), CopySource=self.target(source))

        return Operation(f"copy {source!r} to {path!r}", [source, path], copy, lambda: self.tree.write(path, data))

    def do_delete(self) -> Operation | None:
        path = self.any_path()
        if self.tree.is_directory(path):
            return None

        def delete() -> None:
            self.client.delete_object(**self.target(path))

        return Operation(f"delete {path!r}", [path], delete, lambda: self.tree.files.pop(path, None))

    def do_read_range(self) -> Operation | None:
        path = self.any_file()
        if path is None or not self.tree.files[path]:
            return None
        data = self.tree.files[path]
        first = self.choose.randrange(len(data))
        last = self.choose.randrange(first, len(data))

        def read() -> None:
            answer = self.client.get_object(**self.target(path), Range=f"bytes={first}-{last}")
            assert answer["Body"].read() == data[first : last + 1]

        return Operation(f"get {path!r} bytes {first}-{last}", [], read)

    def read(self, path: str) -> bytes | None:
        try:
            return self.client.get_object(**self.target(path))["Body"].read()
        except self.client.exceptions.NoSuchKey:
            return None

    def all_files(self) -> dict[str, int]:
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=f"{self.directory}/", PaginationConfig={"PageSize": 7}
        )  # fmt: skip
        items = itertools.chain.from_iterable(page.get("Contents", []) for page in pages)
        sizes = {item["Key"].removeprefix(f"{self.directory}/"): item["Size"] for item in items}
        return {name: size for name, size in sizes.items() if name and not name.endswith("/")}


class Hdfs(Frontend):
    name = "webhdfs"

    def __init__(self, client: WebHdfs, base: str, *shared) -> None:
        super().__init__(*shared)
        self.client = client
        self.base = base

    def path(self, path: str) -> str:
        return f"{self.base}/{path}" if path else self.base

    def do_create(self) -> Operation:
        path, data, overwrite = self.any_path(), self.data(), self.choose.random() < 0.6
        refuse = self.tree.is_directory(path) or self.tree.is_under_a_file(path) or (self.tree.is_file(path) and not overwrite)

        def create() -> None:
            answer = settled(self.client.create(self.path(path), data, overwrite=str(overwrite).lower()))
            assert answer.status == (403 if refuse else 201), answer

        text = f"create {path!r} {len(data)} bytes, overwrite={overwrite}"
        return Operation(text, [path], create, None if refuse else lambda: self.tree.write(path, data))

    def do_append(self) -> Operation:
        path, data = self.any_path(), self.data()
        old = self.tree.files.get(path)

        def append() -> None:
            answer = settled(self.client.append(self.path(path), data))
            assert answer.status in ((403, 404) if old is None else (200,)), answer

        text = f"append {path!r} {len(data)} bytes"
        return Operation(text, [path], append, None if old is None else lambda: self.tree.write(path, old + data))

    def do_mkdirs(self) -> Operation:
        path = self.any_path()
        refuse = self.tree.is_file(path) or self.tree.is_under_a_file(path)

        def mkdirs() -> None:
            answer = settled(self.client.mkdirs(self.path(path)))
            assert answer.status == 403 if refuse else answer == (200, {"boolean": True}), answer

        return Operation(f"mkdirs {path!r}", [path], mkdirs, None if refuse else lambda: self.tree.make_directories(path))

    def do_rename(self) -> Operation | None:
        source, destination = self.any_path(), self.any_path()
        if source != destination and self.tree.parent(source) == destination:
            return None
        target = self.tree.hadoop_rename_target(source, destination)
        is_blocked = any(map(self.tree.is_under_a_file, (source, destination)))

        def rename() -> None:
            answer = settled(self.client.rename(self.path(source), self.path(destination)))
            if answer.status == 403 and is_blocked:
                return  # a NameNode refuses to walk through a file; false is as good
            assert answer == (200, {"boolean": target is not None}), f"{answer}, expected a move to {target!r}"

        touched = [source, destination, *([target] if target else [])]
        moves = target not in (None, source)
        text = f"rename {source!r} to {destination!r}"
        return Operation(text, touched, rename, (lambda: self.tree.move(source, target)) if moves else None)

    def do_delete(self) -> Operation:
        path, recursive = self.any_path(), self.choose.random() < 0.3
        is_full = self.tree.is_directory(path) and bool(self.tree.below(path)) and not recursive
        is_blocked, exists = self.tree.is_under_a_file(path), self.tree.exists(path)

        def delete() -> None:
            answer = settled(self.client.delete(self.path(path), recursive))
            if is_full:
                assert answer == (403, "PathIsNotEmptyDirectoryException"), answer
            elif not (answer.status == 403 and is_blocked):
                assert answer == (200, {"boolean": exists}), answer

        touched = [path] if is_full or is_blocked else [path, self.tree.parent(path)]
        text = f"delete {path!r}, recursive={recursive}"
        return Operation(text, touched, delete, None if is_full else lambda: self.tree.remove(path))

    def do_read_range(self) -> Operation | None:
        path = self.any_file()
        if path is None or not self.tree.files[path]:
            return None
        data = self.tree.files[path]
        offset, length = self.choose.randrange(len(data)), self.choose.randrange(len(data) + 10)

        def read() -> None:
            answer = settled(self.client.open(self.path(path), offset=offset, length=length))
            assert answer == (200, data[offset : offset + length])

        return Operation(f"open {path!r} offset {offset} length {length}", [], read)

    def read(self, path: str) -> bytes | None:
        answer = settled(self.client.open(self.path(path)))
        return answer.value if answer.status == 200 else None

    def is_directory(self, path: str) -> bool:
        status = settled(self.client.status(self.path(path)))
        return status.status == 200 and status.value["type"] == "DIRECTORY"

    def children(self, path: str) -> list[str]:
        return sorted(self.client.names(self.path(path)), key=lambda name: name.rstrip("/"))


def settled(answer: Outcome) -> Outcome:
    """An answer that says something about the namespace, rather than that it cannot be asked now."""
    if answer.status >= 500 or answer.value == "RetriableException":
        raise Temporary(answer)
    return answer


class Fuse(Frontend):
    name = "fuse"

    def __init__(self, base: Path, *shared) -> None:
        super().__init__(*shared)
        self.base = base

    def attempt(self, expected: bool, action) -> None:
        """Runs `action`; it must succeed exactly when it is expected to."""
        try:
            action()
        except OSError as error:
            if is_temporary(error):
                raise
            assert not expected, f"failed: {error!r}"
            return
        assert expected, "succeeded and should have failed"

    def operation(self, text: str, touched: list[str], expected: bool, action, effect, **more) -> Operation:
        return Operation(text, touched, lambda: self.attempt(expected, action), effect if expected else None, **more)

    def may_write(self, path: str) -> bool:
        return self.tree.is_directory(self.tree.parent(path)) and not self.tree.is_directory(path)

    def do_write(self) -> Operation:
        path, data = self.any_path(), self.data()
        return self.operation(
            f"write {path!r} {len(data)} bytes", [path], self.may_write(path),
            lambda: (self.base / path).write_bytes(data), lambda: self.tree.write(path, data),
        )  # fmt: skip

    def do_append(self) -> Operation:
        path, data = self.any_path(), self.data()
        old = self.tree.files.get(path, b"")

        def append() -> None:
            with (self.base / path).open("ab") as target:
                target.write(data)

        text = f"append {path!r} {len(data)} bytes"
        return self.operation(text, [path], self.may_write(path), append, lambda: self.tree.write(path, old + data))

    def do_write_inside(self) -> Operation | None:
        path, data = self.any_file(), self.choose.randbytes(100)
        if path is None:
            return None
        old = self.tree.files[path]
        offset = self.choose.randrange(len(old) + 1000)
        new = old[:offset].ljust(offset, b"\0") + data + old[offset + 100 :]

        def write() -> None:
            with (self.base / path).open("r+b") as target:
                target.seek(offset)
                target.write(data)

        return self.operation(f"write inside {path!r} at {offset}", [path], True, write, lambda: self.tree.write(path, new))

    def do_truncate(self) -> Operation:
        path = self.any_path()
        size = self.choose.choice([0, 1, 1000, 100_000])
        new = self.tree.files.get(path, b"")[:size].ljust(size, b"\0")
        return self.operation(
            f"truncate {path!r} to {size}", [path], self.tree.is_file(path),
            lambda: os.truncate(self.base / path, size), lambda: self.tree.write(path, new),
        )  # fmt: skip

    def do_replace(self) -> Operation | None:
        """Writes beside the file and renames over it, as editors and checkpoints do."""
        path, data = self.any_path(), self.data()
        beside = f"{path}.tmp"
        if not self.may_write(path) or self.tree.is_directory(beside):
            return None

        def replace() -> None:
            (self.base / beside).write_bytes(data)
            (self.base / beside).rename(self.base / path)

        def effect() -> None:
            # One that was cut off may have left a file there, which goes the same way.
            self.tree.files.pop(beside, None)
            self.tree.write(path, data)

        return Operation(f"replace {path!r} {len(data)} bytes", [path, beside], replace, effect, leaves={beside: data})

    def do_mkdir(self) -> Operation:
        path = self.any_path()
        may = not self.tree.exists(path) and self.tree.is_directory(self.tree.parent(path))
        effect = lambda: self.tree.make_directories(path)  # noqa: E731
        return self.operation(f"mkdir {path!r}", [path], may, (self.base / path).mkdir, effect)

    def do_rmdir(self) -> Operation:
        path = self.any_path()
        may = self.tree.is_directory(path) and not self.tree.below(path)
        touched = [path, self.tree.parent(path)]
        return self.operation(f"rmdir {path!r}", touched, may, (self.base / path).rmdir, lambda: self.tree.remove(path))

    def do_unlink(self) -> Operation:
        path = self.any_path()
        touched, may = [path, self.tree.parent(path)], self.tree.is_file(path)
        return self.operation(f"unlink {path!r}", touched, may, (self.base / path).unlink, lambda: self.tree.remove(path))

    def do_rename(self) -> Operation:
        source, destination = self.any_path(), self.any_path()

        def move() -> None:
            if source != destination:
                self.tree.move(source, destination)

        return self.operation(
            f"rename {source!r} to {destination!r}", [source, destination], self.tree.posix_may_rename(source, destination),
            lambda: os.rename(self.base / source, self.base / destination), move,
        )  # fmt: skip

    def read(self, path: str) -> bytes | None:
        try:
            return (self.base / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def is_directory(self, path: str) -> bool:
        return (self.base / path).is_dir()

    def children(self, path: str) -> list[str]:
        with os.scandir(self.base / path) as entries:
            plain = sorted((entry.name, entry.is_dir()) for entry in entries)
        return [name + ("/" if is_directory else "") for name, is_directory in plain]
