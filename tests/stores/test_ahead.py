"""A large write is on its way to its store before all of it arrived, and leaves nothing there when it never does."""

import http.client
from urllib.parse import urlsplit

import pytest
from harness.proxied import Proxied
from harness.wait import wait_for

MIB = 1 << 20
SIZE = 40 * MIB + 17
FIRST = 24 * MIB
DEADLINE_S = 20


@pytest.fixture(params=["s3", "azblob", "hdfs"], scope="module")
def rig(request, stores, tmp_path_factory):
    rig = Proxied(tmp_path_factory.mktemp("ahead"), stores[request.param])
    yield rig
    rig.stop()


def begun(rig, key: str, data: bytes) -> http.client.HTTPConnection:
    """A PUT of which the first part was sent, and whose content the store sees already."""
    url = urlsplit(rig.s3.generate_presigned_url("put_object", {"Bucket": "bucket", "Key": key}, ExpiresIn=3600))
    connection = http.client.HTTPConnection(url.netloc, timeout=60)
    rig.proxy.seen.clear()
    connection.putrequest("PUT", f"{url.path}?{url.query}")
    connection.putheader("Content-Length", str(len(data)))
    connection.endheaders(data[:FIRST])
    wait_for(
        lambda: any(of_content(rig, key, seen.path) for seen in list(rig.proxy.seen) if seen.method == "PUT"),
        DEADLINE_S,
        "a part sent",
    )
    return connection


def of_content(rig, key: str, path: str) -> bool:
    """HDFS gets its content under a temporary name, from a DataNode."""
    return ".forebay-tmp" in path and "namenoderpcaddress" in path if rig.store.kind == "hdfs" else key in path


def left(rig, key: str) -> list:
    """What the store has of a write that is not there."""
    if rig.store.kind == "hdfs":
        return rig.store.client().names(f"/{rig.bucket}/.forebay-tmp")
    if rig.store.kind == "s3":
        return rig.store.client.list_multipart_uploads(Bucket=rig.bucket, Prefix=key).get("Uploads", [])
    return []  # blocks that belong to nothing vanish by themselves


def test_content_is_sent_while_the_rest_arrives_and_visible_in_the_end(rig):
    key, data = rig.fresh(SIZE)
    connection = begun(rig, key, data)
    assert rig.try_s3(rig.s3.head_object, Key=key).status == 404
    connection.send(data[FIRST:])
    assert connection.getresponse().status == 200
    assert rig.store.get(rig.bucket, key) == data
    assert rig.get(key).data == data
    assert left(rig, key) == []


def test_a_client_that_goes_away_leaves_nothing(rig):
    key, data = rig.fresh(SIZE)
    begun(rig, key, data).close()
    wait_for(lambda: left(rig, key) == [], DEADLINE_S, "what was sent taken back")
    assert rig.try_s3(rig.s3.head_object, Key=key).status == 404
