"""Objects: one ETag everywhere, ranges, conditions, copies, deletes, per store."""

import hashlib

import pytest
import requests
from harness.s3 import refused

DATA = bytes(range(256)) * 40


def put(s3, place, name, data=DATA, **more):
    return s3.put_object(Bucket=place.bucket, Key=place.key(name), Body=data, **more)


def body(s3, place, name, **more):
    return s3.get_object(Bucket=place.bucket, Key=place.key(name), **more)["Body"].read()


@pytest.mark.parametrize("size", [0, 1, 5, 1 << 20, (1 << 20) + 1, 3_500_000])
def test_what_was_put_is_what_is_read(s3, place, size):
    data = hashlib.shake_128(str(size).encode()).digest(size)
    put(s3, place, "o", data)
    head = s3.head_object(Bucket=place.bucket, Key=place.key("o"))
    assert head["ContentLength"] == size
    assert body(s3, place, "o") == data
    assert body(s3, place, "o") == data  # now from the cache


def test_put_head_get_and_list_agree_on_the_etag(s3, place):
    tags = {put(s3, place, "o")["ETag"]}
    tags.add(s3.head_object(Bucket=place.bucket, Key=place.key("o"))["ETag"])
    tags.add(s3.get_object(Bucket=place.bucket, Key=place.key("o"))["ETag"])
    for listing in (s3.list_objects_v2, s3.list_objects):
        tags |= {item["ETag"] for item in listing(Bucket=place.bucket, Prefix=place.key())["Contents"]}
    assert len(tags) == 1
    assert tags.pop().startswith('"')


def test_overwrite_changes_etag_and_content_at_once(s3, place):
    first = put(s3, place, "o", b"one")["ETag"]
    assert body(s3, place, "o") == b"one"
    second = put(s3, place, "o", b"two")["ETag"]
    assert first != second
    answer = s3.get_object(Bucket=place.bucket, Key=place.key("o"))
    assert (answer["Body"].read(), answer["ETag"]) == (b"two", second)


@pytest.mark.parametrize(
    "asked, first, end",
    [("bytes=0-0", 0, 1), ("bytes=100-199", 100, 200), ("bytes=10000-", 10000, 10240), ("bytes=-5", 10235, 10240),
     ("bytes=10239-99999", 10239, 10240), ("bytes=-99999", 0, 10240)],
)  # fmt: skip
def test_range_returns_exactly_those_bytes(s3, place, asked, first, end):
    put(s3, place, "o")
    answer = s3.get_object(Bucket=place.bucket, Key=place.key("o"), Range=asked)
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 206
    assert answer["ContentRange"] == f"bytes {first}-{end - 1}/10240"
    assert answer["Body"].read() == DATA[first:end]


def test_range_past_the_end_is_416_with_the_length(s3, place):
    put(s3, place, "o")
    url = s3.generate_presigned_url("get_object", {"Bucket": place.bucket, "Key": place.key("o")})
    answer = requests.get(url, headers={"Range": "bytes=10240-"}, timeout=10)
    assert (answer.status_code, answer.headers["Content-Range"]) == (416, "bytes */10240")


def test_conditional_get_follows_the_rfc(s3, place):
    tag = put(s3, place, "o")["ETag"]
    target = {"Bucket": place.bucket, "Key": place.key("o")}
    modified = s3.head_object(**target)["LastModified"]
    assert refused(s3.get_object, **target, IfNoneMatch=tag)[0] == 304
    assert refused(s3.get_object, **target, IfModifiedSince=modified)[0] == 304
    assert refused(s3.get_object, **target, IfMatch='"other"') == (412, "PreconditionFailed")
    assert refused(s3.head_object, **target, IfMatch='"other"')[0] == 412
    assert body(s3, place, "o", IfMatch=tag, IfUnmodifiedSince=modified) == DATA
    assert body(s3, place, "o", IfNoneMatch='"other"', IfModifiedSince=modified) == DATA


def test_not_modified_answers_carry_the_etag(s3, place):
    tag = put(s3, place, "o")["ETag"]
    url = s3.generate_presigned_url("get_object", {"Bucket": place.bucket, "Key": place.key("o")})
    answer = requests.get(url, headers={"If-None-Match": tag}, timeout=10)
    assert (answer.status_code, answer.headers["ETag"], answer.content) == (304, tag, b"")


def test_conditional_put_decides_atomically(s3, place):
    target = {"Bucket": place.bucket, "Key": place.key("o")}
    tag = s3.put_object(**target, Body=b"first", IfNoneMatch="*")["ETag"]
    assert refused(s3.put_object, **target, Body=b"second", IfNoneMatch="*") == (412, "PreconditionFailed")
    assert refused(s3.put_object, **target, Body=b"second", IfMatch='"00"') == (412, "PreconditionFailed")
    s3.put_object(**target, Body=b"third", IfMatch=tag)
    assert body(s3, place, "o") == b"third"


def test_user_metadata_and_content_headers_come_back(s3, place):
    put(s3, place, "o", b"x", Metadata={"colour": "green"}, ContentType="text/x-test", CacheControl="no-cache")
    head = s3.head_object(Bucket=place.bucket, Key=place.key("o"))
    assert (head["Metadata"], head["ContentType"], head["CacheControl"]) == ({"colour": "green"}, "text/x-test", "no-cache")


def test_delete_is_idempotent_and_final(s3, place):
    put(s3, place, "o")
    for _ in range(2):
        answer = s3.delete_object(Bucket=place.bucket, Key=place.key("o"))
        assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert refused(s3.get_object, Bucket=place.bucket, Key=place.key("o")) == (404, "NoSuchKey")
    assert refused(s3.head_object, Bucket=place.bucket, Key=place.key("o"))[0] == 404


def test_delete_objects_answers_per_key(s3, place):
    put(s3, place, "a")
    put(s3, place, "deep/b")
    keys = [{"Key": place.key(name)} for name in ("a", "deep/b", "missing")]
    answer = s3.delete_objects(Bucket=place.bucket, Delete={"Objects": keys})
    assert {item["Key"] for item in answer["Deleted"]} == {item["Key"] for item in keys}
    assert "Errors" not in answer
    left = [item["Key"] for item in s3.list_objects_v2(Bucket=place.bucket, Prefix=place.key()).get("Contents", [])]
    # HDFS does not tell directories that a PUT made from others, so they stay, and empty ones are shown.
    assert left == ([place.key("deep/")] if place.store == "hdfs" else [])


def test_copy_within_a_store(s3, place):
    put(s3, place, "from")
    source = {"Bucket": place.bucket, "Key": place.key("from")}
    copied = s3.copy_object(Bucket=place.bucket, Key=place.key("to"), CopySource=source)
    assert copied["CopyObjectResult"]["ETag"] == s3.head_object(Bucket=place.bucket, Key=place.key("to"))["ETag"]
    assert body(s3, place, "to") == DATA


def test_copy_between_stores_streams_through(s3, place, local):
    s3.put_object(Bucket=local.bucket, Key=local.key("from"), Body=DATA)
    source = {"Bucket": local.bucket, "Key": local.key("from")}
    s3.copy_object(Bucket=place.bucket, Key=place.key("to"), CopySource=source)
    assert body(s3, place, "to") == DATA


def test_copy_onto_itself_needs_replace(s3, place):
    put(s3, place, "o")
    source = {"Bucket": place.bucket, "Key": place.key("o")}
    assert refused(s3.copy_object, **source, CopySource=source) == (400, "InvalidRequest")


def test_copy_of_a_changed_source_is_refused(s3, place):
    put(s3, place, "o")
    source = {"Bucket": place.bucket, "Key": place.key("o")}
    target = {"Bucket": place.bucket, "Key": place.key("to")}
    assert refused(s3.copy_object, **target, CopySource=source, CopySourceIfMatch='"other"')[0] == 412
    assert refused(s3.head_object, **target)[0] == 404


def test_presigned_urls_put_and_get(s3, place):
    target = {"Bucket": place.bucket, "Key": place.key("o")}
    assert requests.put(s3.generate_presigned_url("put_object", target), data=DATA, timeout=10).status_code == 200
    answer = requests.get(s3.generate_presigned_url("get_object", target), timeout=10)
    assert (answer.content, "x-amz-request-id" in answer.headers) == (DATA, True)


@pytest.mark.parametrize(
    "name", ["a b", "a+b", "a%20b", "a&b=c;d", "a?b#c", "é-日本", "a'\"<>", "~tilde-_.", " lead", "trail ", "a:b", "x" * 200]
)
def test_names_are_byte_exact(s3, place, name):
    if place.store == "hdfs" and ":" in name:
        assert refused(s3.put_object, Bucket=place.bucket, Key=place.key(name), Body=b"x")[0] == 400
        return
    put(s3, place, name, b"x")
    listed = [item["Key"] for item in s3.list_objects_v2(Bucket=place.bucket, Prefix=place.key())["Contents"]]
    assert listed == [place.key(name)]
    assert body(s3, place, name) == b"x"


def test_many_small_objects_keep_their_own_content(s3, place):
    for number in range(40):
        put(s3, place, f"d{number % 5}/{number}", f"content {number}".encode())
    for number in range(40):
        assert body(s3, place, f"d{number % 5}/{number}") == f"content {number}".encode()
