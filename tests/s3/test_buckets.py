"""Buckets are the namespace's top-level entries."""

from harness.gateway import GUEST, Gateway, settings
from harness.place import STORES
from harness.s3 import refused


def test_list_buckets_names_the_mounts(s3):
    assert [item["Name"] for item in s3.list_buckets()["Buckets"]] == sorted({"frozen", *STORES.values()})


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
    assert refused(s3.delete_bucket, Bucket=local.bucket) == (403, "AccessDenied")
    assert refused(s3.delete_bucket, Bucket="missing") == (404, "NoSuchBucket")
    s3.head_bucket(Bucket=local.bucket)


def test_a_mount_at_the_root_takes_new_buckets(tmp_path):
    (tmp_path / "buckets").mkdir()
    mounts = {"/": {"store": "fs", "options": {"root": str(tmp_path / "buckets")}}, "/scratch": {"store": "memory"}}
    gateway = Gateway(tmp_path, settings(tmp_path, mounts, fuse=False)).start()
    try:
        s3 = gateway.s3()
        s3.create_bucket(Bucket="brand-new")
        assert refused(s3.create_bucket, Bucket="brand-new") == (409, "BucketAlreadyOwnedByYou")
        assert refused(s3.create_bucket, Bucket="Not_Legal")[1] == "InvalidBucketName"
        s3.put_object(Bucket="brand-new", Key="o", Body=b"x")
        assert (tmp_path / "buckets" / "brand-new" / "o").read_bytes() == b"x"
        assert [item["Name"] for item in s3.list_buckets()["Buckets"]] == ["brand-new", "scratch"]
        assert refused(s3.delete_bucket, Bucket="brand-new") == (409, "BucketNotEmpty")
        s3.delete_object(Bucket="brand-new", Key="o")
        s3.delete_bucket(Bucket="brand-new")
        assert refused(s3.head_bucket, Bucket="brand-new")[0] == 404
    finally:
        gateway.stop()


def test_versioning_is_off_and_versions_are_null(s3, local):
    assert "Status" not in s3.get_bucket_versioning(Bucket=local.bucket)
    s3.put_object(Bucket=local.bucket, Key=local.key("o"), Body=b"x")
    versions = s3.list_object_versions(Bucket=local.bucket, Prefix=local.key())["Versions"]
    assert [(item["Key"], item["VersionId"], item["IsLatest"]) for item in versions] == [(local.key("o"), "null", True)]
