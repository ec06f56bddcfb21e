"""Bodies over WebHDFS: large, chunked, cut short, read in pieces, per store."""

import hashlib
import socket
from urllib.parse import urlsplit

from harness.wait import wait_for

DATA = hashlib.shake_128(b"transfer").digest(5 * (1 << 20) + 123)


def test_a_large_file_comes_back_whole_and_in_pieces(hdfs, place):
    assert hdfs.create(place.path("big"), DATA).status == 201
    assert hdfs.open(place.path("big")).value == DATA
    for offset, length in ((0, 1), (1 << 20, 10), ((1 << 20) - 5, 10), (len(DATA) - 8, 8), (3_000_000, 1_500_000)):
        assert hdfs.open(place.path("big"), offset=offset, length=length).value == DATA[offset : offset + length]


def test_a_chunked_body_is_accepted(hdfs, place):
    pieces = (DATA[at : at + 32768] for at in range(0, len(DATA), 32768))
    location = hdfs.step("PUT", place.path("chunked"), "CREATE").headers["Location"]
    answer = hdfs.session.put(location, data=pieces, headers={"Content-Type": "application/octet-stream"}, timeout=60)
    assert answer.status_code == 201
    assert hdfs.open(place.path("chunked")).value == DATA


def test_an_append_series_through_one_location_grows_the_file(hdfs, place):
    """What fsspec does with every file: an empty CREATE, then many POSTs to one Location, the last one empty."""
    hdfs.create(place.path("log"), b"")
    location = hdfs.step("POST", place.path("log"), "APPEND").headers["Location"]
    for piece in (DATA[:1000], DATA[1000:70_000], DATA[70_000:], b""):
        assert hdfs.session.post(location, data=piece, timeout=60).status_code == 200
    assert hdfs.open(place.path("log")).value == DATA


def send_half(location: str) -> None:
    parts = urlsplit(location)
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        head = f"PUT {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: {len(DATA)}\r\n\r\n"
        connection.sendall(head.encode() + DATA[: len(DATA) // 2])


def test_a_body_cut_short_leaves_nothing_and_keeps_what_was_there(gateway, hdfs, place):
    hdfs.create(place.path("kept"), b"before")
    for name in ("cut", "kept"):
        send_half(hdfs.step("PUT", place.path(name), "CREATE", overwrite="true").headers["Location"])
    wait_for(lambda: gateway.metrics().total("forebay_requests_in_flight", frontend="webhdfs") == 0, 15, "the cut requests' end")
    assert hdfs.names(place.path()) == ["kept"]
    assert hdfs.open(place.path("kept")).value == b"before"


def test_abandoned_reads_do_not_disturb_the_next(hdfs, place):
    hdfs.create(place.path("big"), DATA)
    for _ in range(10):
        location = hdfs.step("GET", place.path("big"), "OPEN").headers["Location"]
        with hdfs.session.get(location, stream=True, timeout=10) as answer:
            assert next(answer.iter_content(1000)) == DATA[:1000]
    assert hdfs.open(place.path("big")).value == DATA
