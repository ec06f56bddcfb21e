"""Names over WebHDFS: byte-exact or refused."""

import http.client
from urllib.parse import urlsplit

import pytest

NAMES = ["a%b c+d=e;f&g", "é", "日本", "%20", "a?b#c", "part=%3D", "~'\"<>", " lead", "trail ", "x" * 200]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_byte_exact_through_redirects_and_listings(hdfs, place, name):
    assert hdfs.create(place.path(name), b"x").status == 201
    assert hdfs.names(place.path()) == [name]
    assert hdfs.open(place.path(name)).value == b"x"
    assert hdfs.rename(place.path(name), place.path(f"{name}2")).value == {"boolean": True}
    assert hdfs.names(place.path()) == [f"{name}2"]


def test_raw_utf8_in_the_request_line_is_understood_and_never_echoed(hdfs, local):
    """Hadoop's Java client sends undecoded UTF-8 and would encode a raw Location a second time."""
    host = urlsplit(hdfs.base).netloc
    connection = http.client.HTTPConnection(host, timeout=10)
    target = f"/webhdfs/v1{local.path('é')}?op=CREATE&user.name=root"
    connection._encode_request = lambda request: request.encode()
    connection.request("PUT", target)
    location = connection.getresponse().getheader("Location")
    assert location.isascii()
    assert "%C3%A9" in location
    assert hdfs.session.put(location, data=b"x", timeout=10).status_code == 201
    assert hdfs.names(local.path()) == ["é"]


def test_location_follows_the_host_header(hdfs, local):
    hdfs.create(local.path("f"), b"x")
    answer = hdfs.session.get(
        hdfs.url(local.path("f")), params={"op": "OPEN", "user.name": "root", "noredirect": "true"},
        headers={"Host": "gateway.example:1234"}, timeout=10,
    )  # fmt: skip
    assert answer.json()["Location"].startswith("http://gateway.example:1234/webhdfs/v1/")


@pytest.mark.parametrize("path", ["/local/a/../b", "/local/./a", "/local/%2e%2e/a", "/local/nul%00"])
def test_names_that_two_readers_could_take_differently_are_refused(gateway, path):
    connection = http.client.HTTPConnection(gateway.address("webhdfs"), timeout=10)
    connection.request("PUT", f"/webhdfs/v1{path}?op=MKDIRS&user.name=root")
    assert connection.getresponse().status == 400


def test_a_colon_cannot_be_made_because_hadoop_could_not_list_it(hdfs, place):
    assert hdfs.mkdirs(place.path("a:b")) == (400, "InvalidPathException")


def test_overlong_names_and_paths_are_refused(hdfs, local):
    assert hdfs.mkdirs(local.path("x" * 256)).status in (400, 403)
    assert hdfs.mkdirs(local.path("x/" * 2500 + "x")).status in (400, 403, 414)
