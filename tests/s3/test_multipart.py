"""Multipart uploads: order, hiding, abort, parts that were never sent, survival of a restart."""

import pytest
from harness.gateway import Gateway, settings
from harness.s3 import refused

MIB = 1 << 20
PARTS = [b"a" * (5 * MIB), b"b" * (5 * MIB), b"tail"]


class Upload:
    """One upload in progress."""

    def __init__(self, s3, bucket, key):
        self.s3 = s3
        self.target = {"Bucket": bucket, "Key": key}
        self.target["UploadId"] = s3.create_multipart_upload(**self.target)["UploadId"]

    def part(self, number, data):
        return self.s3.upload_part(**self.target, PartNumber=number, Body=data)["ETag"]

    def complete_arguments(self, parts):
        listed = [{"PartNumber": number, "ETag": tag} for number, tag in parts]
        return self.target | {"MultipartUpload": {"Parts": listed}}

    def complete(self, parts):
        return self.s3.complete_multipart_upload(**self.complete_arguments(parts))


@pytest.fixture
def upload(s3, place):
    return Upload(s3, place.bucket, place.key("big"))


def test_parts_sent_out_of_order_make_one_object(s3, place, upload):
    tags = {number: upload.part(number, PARTS[number - 1]) for number in (3, 1, 2)}
    answer = upload.complete(sorted(tags.items()))
    got = s3.get_object(Bucket=place.bucket, Key=place.key("big"))
    assert got["Body"].read() == b"".join(PARTS)
    listed = s3.list_objects_v2(Bucket=place.bucket, Prefix=place.key())["Contents"]
    assert {answer["ETag"], got["ETag"]} == {item["ETag"] for item in listed}


def test_part_numbers_may_have_gaps_and_be_sent_again(s3, place, upload):
    upload.part(7, b"old" * MIB * 2)
    tags = [(7, upload.part(7, PARTS[0])), (40, upload.part(40, b"end"))]
    upload.complete(tags)
    assert s3.get_object(Bucket=place.bucket, Key=place.key("big"))["Body"].read() == PARTS[0] + b"end"


def test_list_parts_and_list_uploads_show_what_is_there(s3, place, upload):
    tags = [upload.part(number, b"x" * number) for number in (1, 2)]
    parts = s3.list_parts(**upload.target)["Parts"]
    assert [(part["PartNumber"], part["Size"], part["ETag"]) for part in parts] == [(1, 1, tags[0]), (2, 2, tags[1])]
    uploads = s3.list_multipart_uploads(Bucket=place.bucket, Prefix=place.key())["Uploads"]
    assert [(item["Key"], item["UploadId"]) for item in uploads] == [(place.key("big"), upload.target["UploadId"])]


def test_uploads_in_progress_are_hidden_in_every_frontend(gateway, s3, hdfs, place, upload):
    upload.part(1, PARTS[0])
    assert s3.list_objects_v2(Bucket=place.bucket, Prefix=place.key())["KeyCount"] == 0
    assert refused(s3.head_object, Bucket=place.bucket, Key=place.key("big"))[0] == 404
    assert hdfs.status(place.path("big")).status == 404
    if gateway.mountpoint:
        assert not place.file("big").exists()
    s3.abort_multipart_upload(**upload.target)


def test_an_aborted_upload_is_gone(s3, upload):
    upload.part(1, b"x")
    s3.abort_multipart_upload(**upload.target)
    assert refused(s3.upload_part, **upload.target, PartNumber=2, Body=b"x") == (404, "NoSuchUpload")
    assert refused(s3.list_parts, **upload.target) == (404, "NoSuchUpload")


def test_a_completed_upload_is_gone(s3, upload):
    tag = upload.part(1, b"only")
    upload.complete([(1, tag)])
    assert refused(s3.upload_part, **upload.target, PartNumber=2, Body=b"x") == (404, "NoSuchUpload")


def test_missing_reordered_wrong_and_small_parts_are_refused(s3, place, upload):
    first, second = upload.part(1, PARTS[0]), upload.part(2, b"small")
    third, fourth = upload.part(3, b"end"), upload.part(4, PARTS[1])

    def refusal(parts):
        return refused(s3.complete_multipart_upload, **upload.complete_arguments(parts))

    assert refusal([(1, first), (9, first)]) == (400, "InvalidPart")
    assert refusal([(4, fourth), (1, first)]) == (400, "InvalidPartOrder")
    assert refusal([(1, second)]) == (400, "InvalidPart")
    assert refusal([(1, first), (2, second), (3, third)]) == (400, "EntityTooSmall")
    assert refusal([])[0] == 400
    assert refused(s3.head_object, Bucket=place.bucket, Key=place.key("big"))[0] == 404
    upload.complete([(1, first), (2, second)])


def test_part_numbers_out_of_range_are_refused(s3, upload):
    for number in (0, 10001):
        assert refused(s3.upload_part, **upload.target, PartNumber=number, Body=b"x") == (400, "InvalidArgument")


def test_an_upload_id_belongs_to_its_key(s3, place, upload):
    other = upload.target | {"Key": place.key("other")}
    assert refused(s3.upload_part, **other, PartNumber=1, Body=b"x") == (404, "NoSuchUpload")
    invented = upload.target | {"UploadId": "../../etc"}
    assert refused(s3.list_parts, **invented) == (404, "NoSuchUpload")


def test_upload_part_copy_takes_a_range(s3, place, upload):
    s3.put_object(Bucket=place.bucket, Key=place.key("from"), Body=b"0123456789")
    source = {"Bucket": place.bucket, "Key": place.key("from")}
    copied = s3.upload_part_copy(**upload.target, PartNumber=1, CopySource=source, CopySourceRange="bytes=2-5")
    upload.complete([(1, copied["CopyPartResult"]["ETag"])])
    assert s3.get_object(Bucket=place.bucket, Key=place.key("big"))["Body"].read() == b"2345"


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_an_upload_survives_a_restart(tmp_path, end):
    (tmp_path / "store").mkdir()
    mounts = {"/disk": {"store": "fs", "options": {"root": str(tmp_path / "store")}}}
    gateway = Gateway(tmp_path, settings(tmp_path, mounts, fuse=False)).start()
    try:
        upload = Upload(gateway.s3(), "disk", "dir/big")
        first = upload.part(1, PARTS[0])
        getattr(gateway, end)()
        gateway.start()
        upload.s3 = gateway.s3()
        second = upload.part(2, b"after the restart")
        upload.complete([(1, first), (2, second)])
        assert (tmp_path / "store" / "dir" / "big").read_bytes() == PARTS[0] + b"after the restart"
    finally:
        gateway.stop()
