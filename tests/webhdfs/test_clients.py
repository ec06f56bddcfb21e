"""Real clients, unchanged: HdfsCLI and fsspec."""

import hashlib

import fsspec
import hdfs as hdfscli
import pytest

DATA = hashlib.shake_128(b"client").digest(7 << 20)


def test_hdfscli_uploads_walks_and_downloads(gateway, place, tmp_path):
    client = hdfscli.InsecureClient(gateway.url("webhdfs"), user="root", root=place.path())
    (tmp_path / "up" / "deep").mkdir(parents=True)
    (tmp_path / "up" / "big").write_bytes(DATA)
    (tmp_path / "up" / "deep" / "small é").write_bytes(b"small")
    client.upload("tree", str(tmp_path / "up"), n_threads=2)
    assert sorted(client.list("tree")) == ["big", "deep"]
    client.download("tree", str(tmp_path / "down"), n_threads=2)
    assert (tmp_path / "down" / "big").read_bytes() == DATA
    assert (tmp_path / "down" / "deep" / "small é").read_bytes() == b"small"
    client.rename("tree/big", "moved")
    with client.read("moved", offset=100, length=50) as reader:
        assert reader.read() == DATA[100:150]
    with client.write("text", encoding="utf-8") as writer:
        writer.write("line\n")
    client.write("text", data="more\n", encoding="utf-8", append=True)
    with client.read("text", encoding="utf-8") as reader:
        assert reader.read() == "line\nmore\n"
    assert next(path for path, _, _ in client.walk("")) == place.path()
    assert client.delete("tree", recursive=True) is True
    assert client.delete("absent") is False
    with pytest.raises(hdfscli.HdfsError, match="already exists"):
        client.write("text", data="x")


def test_fsspec_writes_by_appending_and_reads_by_seeking(gateway, place):
    host, port = gateway.address("webhdfs").split(":")
    files = fsspec.filesystem("webhdfs", host=host, port=int(port), user="root", skip_instance_cache=True)
    with files.open(place.path("big"), "wb", block_size=1 << 20) as target:
        target.write(DATA)
    assert files.info(place.path("big"))["size"] == len(DATA)
    with files.open(place.path("big"), "rb") as source:
        source.seek(-10, 2)
        assert source.read() == DATA[-10:]
    assert files.cat_file(place.path("big")) == DATA
    files.mkdir(place.path("d"))
    files.mv(place.path("big"), place.path("d/moved"))
    assert files.ls(place.path("d"), detail=False) == [place.path("d/moved")]
    assert files.find(place.path()) == [place.path("d/moved")]
    files.rm(place.path("d"), recursive=True)
    assert not files.exists(place.path("d/moved"))
