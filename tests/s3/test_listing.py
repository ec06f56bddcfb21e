"""Listings: byte order, pages, delimiters, nested mounts, per store."""

import functools
import itertools
import operator

import pytest

NAMES = ["a", "a-b/1", "a/1", "a/2/x", "a/2/y", "a0", "b/", "obj+", "obj/k", "z", "é"]


@pytest.fixture
def filled(s3, place):
    # A local disk cannot hold the file `a` beside the directory `a/`; MinIO takes both and then lists one.
    names = [name for name in NAMES if name != "a" or place.store == "memory"]
    for name in names:
        s3.put_object(Bucket=place.bucket, Key=place.key(name), Body=b"" if name.endswith("/") else b"x")
    return names


def keys(s3, place, **query):
    page = s3.list_objects_v2(Bucket=place.bucket, **{"Prefix": place.key()} | query)
    names = [item["Key"] for item in page.get("Contents", [])]
    prefixes = [item["Prefix"] for item in page.get("CommonPrefixes", [])]
    return [name.removeprefix(place.key()) for name in names], [name.removeprefix(place.key()) for name in prefixes]


def by_bytes(names):
    return sorted(names, key=lambda name: name.encode())


def test_keys_come_in_byte_order_of_the_whole_key(s3, place, filled):
    assert keys(s3, place) == (by_bytes(filled), [])


def test_delimiter_groups_into_common_prefixes(s3, place, filled):
    names, prefixes = keys(s3, place, Delimiter="/")
    assert names == [name for name in by_bytes(filled) if "/" not in name]
    assert prefixes == ["a-b/", "a/", "b/", "obj/"]


@pytest.mark.parametrize("size, delimiter", itertools.product([1, 2, 3, 1000], ["", "/"]))
def test_pages_join_to_the_whole_listing(s3, place, filled, size, delimiter):
    whole = functools.reduce(operator.iadd, keys(s3, place, Delimiter=delimiter), [])
    seen, token = [], {}
    for _ in range(30):
        page = s3.list_objects_v2(Bucket=place.bucket, Prefix=place.key(), Delimiter=delimiter, MaxKeys=size, **token)
        found = [item["Key"] for item in page.get("Contents", [])] + [item["Prefix"] for item in page.get("CommonPrefixes", [])]
        assert len(found) == page["KeyCount"] <= size
        seen += [name.removeprefix(place.key()) for name in found]
        if not page["IsTruncated"]:
            break
        token = {"ContinuationToken": page["NextContinuationToken"]}
    assert sorted(seen) == sorted(whole)
    assert len(seen) == len(set(seen))


def test_version_one_pages_by_marker(s3, place, filled):
    seen, marker = [], ""
    for _ in range(30):
        page = s3.list_objects(Bucket=place.bucket, Prefix=place.key(), MaxKeys=2, Marker=marker)
        seen += [item["Key"].removeprefix(place.key()) for item in page["Contents"]]
        if not page["IsTruncated"]:
            break
        marker = page["Contents"][-1]["Key"]
    assert seen == by_bytes(filled)


def test_start_after_and_prefix_cut_inside_a_name(s3, place, filled):
    names, _ = keys(s3, place, StartAfter=place.key("a/2/x"))
    assert names == [name for name in by_bytes(filled) if name.encode() > b"a/2/x"]
    names, _ = keys(s3, place, Prefix=place.key("obj"))
    assert names == ["obj+", "obj/k"]


def test_max_keys_zero_is_empty_and_not_truncated(s3, place, filled):
    page = s3.list_objects_v2(Bucket=place.bucket, Prefix=place.key(), MaxKeys=0)
    assert (page["KeyCount"], page["IsTruncated"]) == (0, False)


def test_missing_prefix_is_an_empty_listing(s3, place):
    assert keys(s3, place) == ([], [])


def test_url_encoding_is_honoured(s3, place):
    s3.put_object(Bucket=place.bucket, Key=place.key("a b+c&é"), Body=b"x")
    page = s3.list_objects_v2(Bucket=place.bucket, Prefix=place.key(), EncodingType="url")
    assert page["Contents"][0]["Key"].lower() in (place.key("a%20b%2bc%26%c3%a9"), place.key("a+b%2bc%26%c3%a9"))


def test_a_thousand_and_one_keys_make_two_pages(gateway, s3, local):
    directory = gateway.directory / "local" / local.directory
    directory.mkdir()
    for number in range(1001):
        (directory / f"{number:04}").touch()
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=local.bucket, Prefix=local.key())
    assert [page["KeyCount"] for page in pages] == [1000, 1]


def test_a_nested_mount_shows_in_listings_and_shadows_what_lies_under_it(gateway, s3):
    below = gateway.directory / "local" / "nested"
    below.mkdir(exist_ok=True)
    (below / "shadowed").write_bytes(b"x")
    s3.put_object(Bucket="local", Key="nested/inside", Body=b"y")
    names = [item["Key"] for item in s3.list_objects_v2(Bucket="local", Prefix="nested/")["Contents"]]
    assert names == ["nested/inside"]
    page = s3.list_objects_v2(Bucket="local", Delimiter="/")
    assert "nested/" in [item["Prefix"] for item in page["CommonPrefixes"]]
    assert not (below / "inside").exists()
