"""A change through any frontend is visible through every other on the next request, per store."""

import itertools

import pytest

FRONTENDS = ["s3", "webhdfs", "fuse"]


class Door:
    """The same five verbs through one frontend."""

    def __init__(self, name, place, s3, hdfs):
        self.name, self.place, self.s3, self.hdfs = name, place, s3, hdfs

    def target(self, name):
        return {"Bucket": self.place.bucket, "Key": self.place.key(name)}

    def write(self, name, data):
        if self.name == "s3":
            self.s3.put_object(**self.target(name), Body=data)
        elif self.name == "webhdfs":
            assert self.hdfs.create(self.place.path(name), data, overwrite="true").status == 201
        else:
            self.place.file(name).write_bytes(data)

    def read(self, name):
        if self.name == "s3":
            try:
                return self.s3.get_object(**self.target(name))["Body"].read()
            except self.s3.exceptions.NoSuchKey:
                return None
        if self.name == "webhdfs":
            answer = self.hdfs.open(self.place.path(name))
            return answer.value if answer.status == 200 else None
        return self.place.file(name).read_bytes() if self.place.file(name).exists() else None

    def size(self, name):
        if self.name == "s3":
            return self.s3.head_object(**self.target(name))["ContentLength"]
        if self.name == "webhdfs":
            return self.hdfs.status(self.place.path(name)).value["length"]
        return self.place.file(name).stat().st_size

    def names(self):
        if self.name == "s3":
            listed = self.s3.list_objects_v2(Bucket=self.place.bucket, Prefix=self.place.key()).get("Contents", [])
            return [item["Key"].removeprefix(self.place.key()) for item in listed if not item["Key"].endswith("/")]
        if self.name == "webhdfs":
            return self.hdfs.names(self.place.path())
        return sorted(entry.name for entry in self.place.file().iterdir())

    def delete(self, name):
        if self.name == "s3":
            self.s3.delete_object(**self.target(name))
        elif self.name == "webhdfs":
            assert self.hdfs.delete(self.place.path(name)).value == {"boolean": True}
        else:
            self.place.file(name).unlink()


@pytest.mark.parametrize("writer, reader", [pair for pair in itertools.product(FRONTENDS, FRONTENDS) if pair[0] != pair[1]])
def test_writes_overwrites_and_deletes_are_seen_at_once(place, s3, hdfs, writer, reader):
    there, here = Door(writer, place, s3, hdfs), Door(reader, place, s3, hdfs)
    hdfs.mkdirs(place.path())
    for data in (b"one", b"twotwo", b"", b"x" * 2_000_000, b"four"):
        there.write("f", data)
        assert (here.read("f"), here.size("f"), here.names()) == (data, len(data), ["f"])
    there.delete("f")
    assert (here.read("f"), here.names()) == (None, [])
    there.write("f", b"again")
    assert here.read("f") == b"again"


@pytest.mark.parametrize("reader", FRONTENDS)
def test_renames_are_seen_at_once(place, s3, hdfs, reader):
    here = Door(reader, place, s3, hdfs)
    hdfs.create(place.path("a"), b"x")
    assert (here.read("a"), here.read("b")) == (b"x", None)
    hdfs.rename(place.path("a"), place.path("b"))
    assert (here.read("a"), here.read("b"), here.names()) == (None, b"x", ["b"])
    if reader != "fuse" and place.mountpoint:
        place.file("b").rename(place.file("c"))
        assert (here.read("b"), here.read("c")) == (None, b"x")
