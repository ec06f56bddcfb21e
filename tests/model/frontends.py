"""The three frontends as the model drives them: one random operation at a time, its result compared at once."""

import itertools
import os
import random
from pathlib import Path

from harness.s3 import refused
from harness.webhdfs import WebHdfs
from model.reference import Tree

NAMES = ["a", "b", "c d", "é%20"]
SIZES = [0, 1, 100, 5000, 70_000, 70_000, (1 << 20) + 3]
PART = 5 << 20


class Frontend:
    """Shared choices. An operation changes the world and the reference, and returns the paths it touched."""

    name = ""

    def __init__(self, tree: Tree, choose: random.Random, trace: list[str]) -> None:
        self.tree = tree
        self.choose = choose
        self.trace = trace

    def operations(self) -> list:
        return [getattr(self, name) for name in dir(self) if name.startswith("do_")]

    def note(self, text: str) -> None:
        self.trace.append(f"{len(self.trace):5} {self.name:7} {text}")

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

    def do_put(self) -> list[str]:
        path, data = self.free_path(), self.data()
        if path is None:
            return []
        self.note(f"put {path!r} {len(data)} bytes")
        self.client.put_object(**self.target(path), Body=data)
        self.tree.write(path, data)
        return [path]

    def do_put_if_absent(self) -> list[str]:
        path, data = self.free_path(), self.data()
        if path is None:
            return []
        self.note(f"put if absent {path!r} {len(data)} bytes")
        if self.tree.is_file(path):
            assert refused(self.client.put_object, **self.target(path), Body=data, IfNoneMatch="*")[0] == 412
        else:
            self.client.put_object(**self.target(path), Body=data, IfNoneMatch="*")
            self.tree.write(path, data)
        return [path]

    def do_multipart(self) -> list[str]:
        path = self.free_path()
        if path is None or self.choose.random() < 0.7:
            return []
        parts = [self.choose.randbytes(PART), self.data()]
        self.note(f"multipart {path!r} {[len(part) for part in parts]}")
        upload = {"UploadId": self.client.create_multipart_upload(**self.target(path))["UploadId"]} | self.target(path)
        sent = [
            {"PartNumber": number, "ETag": self.client.upload_part(**upload, PartNumber=number, Body=part)["ETag"]}
            for number, part in enumerate(parts, 1)
        ]
        self.client.complete_multipart_upload(**upload, MultipartUpload={"Parts": sent})
        self.tree.write(path, b"".join(parts))
        return [path]

    def do_copy(self) -> list[str]:
        source, path = self.any_file(), self.free_path()
        if source is None or path is None or source == path:
            return []
        self.note(f"copy {source!r} to {path!r}")
        self.client.copy_object(**self.target(path), CopySource=self.target(source))
        self.tree.write(path, self.tree.files[source])
        return [source, path]

    def do_delete(self) -> list[str]:
        path = self.any_path()
        if self.tree.is_directory(path):
            return []
        self.note(f"delete {path!r}")
        self.client.delete_object(**self.target(path))
        self.tree.files.pop(path, None)
        return [path]

    def do_read_range(self) -> list[str]:
        path = self.any_file()
        if path is None or not self.tree.files[path]:
            return []
        data = self.tree.files[path]
        first = self.choose.randrange(len(data))
        last = self.choose.randrange(first, len(data))
        self.note(f"get {path!r} bytes {first}-{last}")
        answer = self.client.get_object(**self.target(path), Range=f"bytes={first}-{last}")
        assert answer["Body"].read() == data[first : last + 1]
        return []

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

    def do_create(self) -> list[str]:
        path, data, overwrite = self.any_path(), self.data(), self.choose.random() < 0.6
        self.note(f"create {path!r} {len(data)} bytes, overwrite={overwrite}")
        answer = self.client.create(self.path(path), data, overwrite=str(overwrite).lower())
        refuse = self.tree.is_directory(path) or self.tree.is_under_a_file(path) or (self.tree.is_file(path) and not overwrite)
        assert answer.status == (403 if refuse else 201), answer
        if not refuse:
            self.tree.write(path, data)
        return [path]

    def do_append(self) -> list[str]:
        path, data = self.any_path(), self.data()
        self.note(f"append {path!r} {len(data)} bytes")
        answer = self.client.append(self.path(path), data)
        if self.tree.is_file(path):
            assert answer.status == 200, answer
            self.tree.files[path] += data
        else:
            assert answer.status in (403, 404), answer
        return [path]

    def do_mkdirs(self) -> list[str]:
        path = self.any_path()
        self.note(f"mkdirs {path!r}")
        answer = self.client.mkdirs(self.path(path))
        if self.tree.is_file(path) or self.tree.is_under_a_file(path):
            assert answer.status == 403, answer
        else:
            assert answer == (200, {"boolean": True})
            self.tree.make_directories(path)
        return [path]

    def do_rename(self) -> list[str]:
        source, destination = self.any_path(), self.any_path()
        if source != destination and self.tree.parent(source) == destination:
            return []
        self.note(f"rename {source!r} to {destination!r}")
        target = self.tree.hadoop_rename_target(source, destination)
        answer = self.client.rename(self.path(source), self.path(destination))
        if answer.status == 403 and any(map(self.tree.is_under_a_file, (source, destination))):
            return [source, destination]  # a NameNode refuses to walk through a file; false is as good
        assert answer == (200, {"boolean": target is not None}), f"{answer}, expected a move to {target!r}"
        if target not in (None, source):
            self.tree.move(source, target)
        return [source, destination, *([target] if target else [])]

    def do_delete(self) -> list[str]:
        path, recursive = self.any_path(), self.choose.random() < 0.3
        self.note(f"delete {path!r}, recursive={recursive}")
        answer = self.client.delete(self.path(path), recursive)
        if self.tree.is_directory(path) and self.tree.below(path) and not recursive:
            assert answer == (403, "PathIsNotEmptyDirectoryException"), answer
            return [path]
        if answer.status == 403 and self.tree.is_under_a_file(path):
            return [path]
        assert answer == (200, {"boolean": self.tree.exists(path)}), answer
        self.tree.remove(path)
        return [path, self.tree.parent(path)]

    def do_read_range(self) -> list[str]:
        path = self.any_file()
        if path is None or not self.tree.files[path]:
            return []
        data = self.tree.files[path]
        offset, length = self.choose.randrange(len(data)), self.choose.randrange(len(data) + 10)
        self.note(f"open {path!r} offset {offset} length {length}")
        assert self.client.open(self.path(path), offset=offset, length=length) == (200, data[offset : offset + length])
        return []

    def read(self, path: str) -> bytes | None:
        answer = self.client.open(self.path(path))
        return answer.value if answer.status == 200 else None

    def is_directory(self, path: str) -> bool:
        status = self.client.status(self.path(path))
        return status.status == 200 and status.value["type"] == "DIRECTORY"

    def children(self, path: str) -> list[str]:
        return sorted(self.client.names(self.path(path)), key=lambda name: name.rstrip("/"))


class Fuse(Frontend):
    name = "fuse"

    def __init__(self, base: Path, *shared) -> None:
        super().__init__(*shared)
        self.base = base

    def attempt(self, expected: bool, action) -> bool:
        """Runs `action`; it must succeed exactly when it is expected to."""
        try:
            action()
        except OSError as error:
            assert not expected, f"failed: {error!r}"
            return False
        assert expected, "succeeded and should have failed"
        return True

    def may_write(self, path: str) -> bool:
        return self.tree.is_directory(self.tree.parent(path)) and not self.tree.is_directory(path)

    def do_write(self) -> list[str]:
        path, data = self.any_path(), self.data()
        self.note(f"write {path!r} {len(data)} bytes")
        if self.attempt(self.may_write(path), lambda: (self.base / path).write_bytes(data)):
            self.tree.write(path, data)
        return [path]

    def do_append(self) -> list[str]:
        path, data = self.any_path(), self.data()
        self.note(f"append {path!r} {len(data)} bytes")

        def append() -> None:
            with (self.base / path).open("ab") as target:
                target.write(data)

        if self.attempt(self.may_write(path), append):
            self.tree.write(path, self.tree.files.get(path, b"") + data)
        return [path]

    def do_write_inside(self) -> list[str]:
        path, data = self.any_file(), self.choose.randbytes(100)
        if path is None:
            return []
        old = self.tree.files[path]
        offset = self.choose.randrange(len(old) + 1000)
        self.note(f"write inside {path!r} at {offset}")
        with (self.base / path).open("r+b") as target:
            target.seek(offset)
            target.write(data)
        self.tree.files[path] = old[:offset].ljust(offset, b"\0") + data + old[offset + 100 :]
        return [path]

    def do_truncate(self) -> list[str]:
        path = self.any_path()
        size = self.choose.choice([0, 1, 1000, 100_000])
        self.note(f"truncate {path!r} to {size}")
        if self.attempt(self.tree.is_file(path), lambda: os.truncate(self.base / path, size)):
            self.tree.files[path] = self.tree.files[path][:size].ljust(size, b"\0")
        return [path]

    def do_replace(self) -> list[str]:
        """Writes beside the file and renames over it, as editors and checkpoints do."""
        path, data = self.any_path(), self.data()
        if not self.may_write(path):
            return []
        self.note(f"replace {path!r} {len(data)} bytes")
        (self.base / f"{path}.tmp").write_bytes(data)
        (self.base / f"{path}.tmp").rename(self.base / path)
        self.tree.write(path, data)
        return [path, f"{path}.tmp"]

    def do_mkdir(self) -> list[str]:
        path = self.any_path()
        self.note(f"mkdir {path!r}")
        may = not self.tree.exists(path) and self.tree.is_directory(self.tree.parent(path))
        if self.attempt(may, (self.base / path).mkdir):
            self.tree.make_directories(path)
        return [path]

    def do_rmdir(self) -> list[str]:
        path = self.any_path()
        self.note(f"rmdir {path!r}")
        may = self.tree.is_directory(path) and not self.tree.below(path)
        if self.attempt(may, (self.base / path).rmdir):
            self.tree.remove(path)
        return [path, self.tree.parent(path)]

    def do_unlink(self) -> list[str]:
        path = self.any_path()
        self.note(f"unlink {path!r}")
        if self.attempt(self.tree.is_file(path), (self.base / path).unlink):
            self.tree.remove(path)
        return [path, self.tree.parent(path)]

    def do_rename(self) -> list[str]:
        source, destination = self.any_path(), self.any_path()
        self.note(f"rename {source!r} to {destination!r}")
        may = self.tree.posix_may_rename(source, destination)
        if self.attempt(may, lambda: os.rename(self.base / source, self.base / destination)) and source != destination:
            self.tree.move(source, destination)
        return [source, destination]

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
