"""Buckets are the namespace's top-level entries."""

from harness.gateway import GUEST
from harness.s3 import refused


def test_list_buckets_names_the_mounts(s3):
    assert [item["Name"] for item in s3.list_buckets()["Buckets"]] == ["bucket", "frozen", "local", "scratch"]


def test_list_buckets_hides_what_the_caller_may_not_see(gateway):
    assert [item["Name"] for item in gateway.s3(GUEST).list_buckets()["Buckets"]] == ["local"]


def test_head_bucket_tells_apart_present_missing_and_forbidden(gateway, s3):
    s3.head_bucket(Bucket="local")
    assert refused(s3.head_bucket, Bucket="missing")[0] == 404
    assert refused(gateway.s3(GUEST).head_bucket, Bucket="scratch")[0] == 403


def test_bucket_location_is_answered(s3):
    s3.get_bucket_location(Bucket="local")
    assert refused(s3.get_bucket_location, Bucket="missing") == (404, "NoSuchBucket")


def test_create_bucket_never_makes_a_mount(s3):
    assert refused(s3.create_bucket, Bucket="local") == (409, "BucketAlreadyOwnedByYou")
    assert refused(s3.create_bucket, Bucket="brand-new")[0] == 403
    assert refused(s3.head_bucket, Bucket="brand-new")[0] == 404


def test_delete_bucket_never_unmounts(s3, local):
    s3.put_object(Bucket=local.bucket, Key=local.key("o"), Body=b"x")
    assert refused(s3.delete_bucket, Bucket=local.bucket) == (409, "BucketNotEmpty")
    assert refused(s3.delete_bucket, Bucket="missing") == (404, "NoSuchBucket")
    s3.head_bucket(Bucket=local.bucket)


def test_versioning_is_off_and_versions_are_null(s3, local):
    assert "Status" not in s3.get_bucket_versioning(Bucket=local.bucket)
    s3.put_object(Bucket=local.bucket, Key=local.key("o"), Body=b"x")
    versions = s3.list_object_versions(Bucket=local.bucket, Prefix=local.key())["Versions"]
    assert [(item["Key"], item["VersionId"], item["IsLatest"]) for item in versions] == [(local.key("o"), "null", True)]
