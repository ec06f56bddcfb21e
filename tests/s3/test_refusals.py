"""Bad input on the S3 listener: each is refused with S3's own code, and nothing of it becomes visible."""

import base64
import datetime
import hashlib
import socket

import pytest
import requests
from harness.checksum import ALGORITHMS, checksum
from harness.gateway import GUEST, OWNER, READER
from harness.s3 import STREAMING, STREAMING_TRAILER, UNSIGNED_TRAILER, Credentials, RawS3, client, refused, wire
from harness.wait import wait_for

DATA = b"forebay" * 20_000


@pytest.fixture
def raw(gateway):
    return RawS3(gateway.url("s3"), OWNER)


@pytest.fixture
def target(local):
    return f"/{local.bucket}/{wire(local.key('o'))}"


@pytest.fixture
def nothing_written(s3, local):
    yield
    assert s3.list_objects_v2(Bucket=local.bucket, Prefix=local.key())["KeyCount"] == 0


@pytest.mark.usefixtures("nothing_written")
class TestRefused:
    def test_wrong_secret(self, gateway, local):
        liar = gateway.s3(Credentials(OWNER.key, "not the secret"))
        assert refused(liar.put_object, Bucket=local.bucket, Key=local.key("o"), Body=b"x") == (403, "SignatureDoesNotMatch")

    def test_unknown_key(self, gateway, local):
        stranger = gateway.s3(Credentials("nobody", "x"))
        assert refused(stranger.put_object, Bucket=local.bucket, Key=local.key("o"), Body=b"x") == (403, "InvalidAccessKeyId")

    def test_no_signature_at_all(self, gateway, target):
        answer = requests.put(gateway.url("s3") + target, data=b"x", timeout=10)
        assert (answer.status_code, b"AccessDenied" in answer.content) == (403, True)

    @pytest.mark.parametrize("minutes", [-20, 20])
    def test_clock_skew(self, gateway, target, minutes):
        now = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=minutes)
        reply = RawS3(gateway.url("s3"), OWNER, now).request("PUT", target, body=b"x")
        assert (reply.status, reply.code) == (403, "RequestTimeTooSkewed")

    def test_header_changed_after_signing(self, raw, target):
        headers = raw.sign("PUT", target, "", {"x-amz-meta-colour": "red"}, hashlib.sha256(b"x").hexdigest())
        reply = raw.send("PUT", target, "", headers | {"x-amz-meta-colour": "blue"}, b"x")
        assert (reply.status, reply.code) == (403, "SignatureDoesNotMatch")

    def test_body_changed_after_signing(self, raw, target):
        headers = raw.sign("PUT", target, "", {}, hashlib.sha256(b"x").hexdigest())
        reply = raw.send("PUT", target, "", headers, b"y")
        assert (reply.status, reply.code) == (400, "XAmzContentSHA256Mismatch")

    def test_wrong_content_md5(self, raw, target):
        wrong = base64.b64encode(hashlib.md5(b"other").digest()).decode()
        reply = raw.request("PUT", target, body=DATA, content_md5=wrong)
        assert (reply.status, reply.code) == (400, "BadDigest")

    def test_malformed_content_md5(self, raw, target):
        reply = raw.request("PUT", target, body=DATA, content_md5="short")
        assert (reply.status, reply.code) == (400, "InvalidDigest")

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_wrong_checksum_header(self, raw, target, algorithm):
        wrong = {f"x_amz_checksum_{algorithm}": checksum(algorithm, b"other")}
        reply = raw.request("PUT", target, body=DATA, **wrong)
        assert (reply.status, reply.code) in ((400, "BadDigest"), (400, "XAmzContentChecksumMismatch"))

    @pytest.mark.parametrize("payload", [STREAMING_TRAILER, UNSIGNED_TRAILER])
    def test_wrong_checksum_trailer(self, raw, target, payload):
        reply = raw.streamed(target, DATA, payload, ("x-amz-checksum-crc32", checksum("crc32", b"other")))
        assert (reply.status, reply.code) in ((400, "BadDigest"), (400, "XAmzContentChecksumMismatch"))

    def test_chunk_changed_after_signing(self, raw, target):
        reply = raw.streamed(target, DATA, STREAMING, spoil=lambda framed: framed.replace(b"forebay", b"FOREBAY", 1))
        assert (reply.status, reply.code) == (403, "SignatureDoesNotMatch")

    def test_chunked_body_cut_short(self, raw, target):
        reply = raw.streamed(target, DATA, STREAMING, spoil=lambda framed: framed[: len(framed) // 2])
        assert reply.status in (400, 403)

    def test_body_cut_by_a_lost_connection(self, gateway, raw, target):
        headers = raw.sign("PUT", target, "", {}, "UNSIGNED-PAYLOAD") | {"content-length": "1000000"}
        head = f"PUT {target} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        host, port = raw.host.split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(head.encode() + b"\r\n" + b"x" * 1000)
            connection.shutdown(socket.SHUT_WR)
            assert b" 200 " not in connection.recv(100)
        wait_for(
            lambda: gateway.metrics().total("forebay_requests_in_flight", frontend="s3") == 0, 10, "the end of the cut request"
        )

    @pytest.mark.parametrize("key", ["a//b", "a/./b", "a/../b", "../b", "./b", "/b", "a/..", "nul%00"])
    def test_names_no_store_can_hold(self, raw, local, key):
        reply = raw.request("PUT", f"/{local.bucket}/{local.key(key)}", body=b"x")
        assert reply.status == 400, reply

    def test_a_key_longer_than_s3_allows(self, raw, local):
        reply = raw.request("PUT", f"/{local.bucket}/{local.key('x/' * 600)}x", body=b"x")
        assert (reply.status, reply.code) == (400, "KeyTooLongError")

    def test_a_segment_longer_than_the_disk_allows(self, raw, local):
        reply = raw.request("PUT", f"/{local.bucket}/{local.key('x' * 256)}", body=b"x")
        assert (reply.status, reply.code) == (400, "KeyTooLongError")

    def test_a_missing_length(self, raw, target):
        headers = raw.sign("PUT", target, "", {"content-encoding": "aws-chunked"}, STREAMING)
        reply = raw.send("PUT", target, "", headers, b"0\r\n\r\n")
        assert reply.status in (400, 411)

    @pytest.mark.parametrize(
        "header, value",
        [
            ("x_amz_server_side_encryption_customer_algorithm", "AES256"),
            ("x_amz_server_side_encryption", "aws:kms"),
            ("x_amz_acl", "public-read"),
        ],
    )
    def test_promises_that_cannot_be_kept(self, raw, target, header, value):
        reply = raw.request("PUT", target, body=b"x", **{header: value})
        assert (reply.status, reply.code) == (501, "NotImplemented")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_right_checksum_is_accepted(raw, target, s3, local, algorithm):
    reply = raw.request("PUT", target, body=DATA, **{f"x_amz_checksum_{algorithm}": checksum(algorithm, DATA)})
    assert reply.status == 200, reply
    assert s3.get_object(Bucket=local.bucket, Key=local.key("o"))["Body"].read() == DATA


@pytest.mark.parametrize("payload", [STREAMING_TRAILER, UNSIGNED_TRAILER])
def test_a_right_trailer_is_accepted_and_not_stored(raw, target, s3, local, payload):
    reply = raw.streamed(target, DATA, payload, ("x-amz-checksum-crc32", checksum("crc32", DATA)))
    assert reply.status == 200, reply
    answer = s3.get_object(Bucket=local.bucket, Key=local.key("o"))
    assert answer["Body"].read() == DATA
    assert "aws-chunked" not in answer.get("ContentEncoding", "")


def test_signed_chunks_without_a_trailer_are_accepted(raw, target, s3, local):
    assert raw.streamed(target, DATA, STREAMING).status == 200
    assert s3.get_object(Bucket=local.bucket, Key=local.key("o"))["Body"].read() == DATA


def test_an_expired_presigned_url_is_refused(gateway, local):
    url = gateway.s3().generate_presigned_url("get_object", {"Bucket": local.bucket, "Key": "o"}, ExpiresIn=1)
    wait_for(lambda: requests.get(url, timeout=10).status_code == 403, 10, "the URL to expire")
    assert b"AccessDenied" in requests.get(url, timeout=10).content


def test_a_presigned_url_may_not_live_longer_than_a_week(gateway, local):
    url = gateway.s3().generate_presigned_url("get_object", {"Bucket": local.bucket, "Key": "o"}, ExpiresIn=604801)
    assert requests.get(url, timeout=10).status_code in (400, 403)


def test_a_presigned_url_does_not_work_for_another_key(s3, local):
    s3.put_object(Bucket=local.bucket, Key=local.key("secret"), Body=b"x")
    url = s3.generate_presigned_url("get_object", {"Bucket": local.bucket, "Key": local.key("public")})
    answer = requests.get(url.replace("public", "secret"), timeout=10)
    assert (answer.status_code, b"SignatureDoesNotMatch" in answer.content) == (403, True)


@pytest.mark.parametrize("operation", ["put_object", "delete_object", "create_multipart_upload"])
def test_a_read_only_mount_takes_no_writes(s3, gateway, operation):
    assert refused(getattr(s3, operation), Bucket="frozen", Key="kept.txt")[0] == 403
    assert (gateway.directory / "frozen" / "kept.txt").read_bytes() == b"kept"
    assert s3.get_object(Bucket="frozen", Key="kept.txt")["Body"].read() == b"kept"


def test_a_reader_reads_and_cannot_write(gateway, s3, local):
    s3.put_object(Bucket=local.bucket, Key=local.key("o"), Body=b"x")
    reader, target = gateway.s3(READER), {"Bucket": local.bucket, "Key": local.key("o")}
    assert reader.get_object(**target)["Body"].read() == b"x"
    assert refused(reader.put_object, **target, Body=b"y") == (403, "AccessDenied")
    assert refused(reader.delete_object, **target) == (403, "AccessDenied")
    assert refused(reader.copy_object, Bucket=local.bucket, Key=local.key("p"), CopySource=target) == (403, "AccessDenied")
    denied = reader.delete_objects(Bucket=local.bucket, Delete={"Objects": [{"Key": local.key("o")}]})
    assert [error["Code"] for error in denied["Errors"]] == ["AccessDenied"]
    assert s3.get_object(**target)["Body"].read() == b"x"


def test_a_grant_ends_at_its_prefix(gateway, s3):
    guest = gateway.s3(GUEST)
    guest.put_object(Bucket="local", Key="guest/o", Body=b"x")
    assert guest.get_object(Bucket="local", Key="guest/o")["Body"].read() == b"x"
    s3.put_object(Bucket="local", Key="guests-not/o", Body=b"x")
    assert refused(guest.get_object, Bucket="local", Key="guests-not/o") == (403, "AccessDenied")
    assert refused(guest.put_object, Bucket="local", Key="o", Body=b"x") == (403, "AccessDenied")
    assert refused(guest.copy_object, Bucket="local", Key="guest/p", CopySource="local/guests-not/o") == (403, "AccessDenied")


def test_missing_buckets_and_keys_have_their_codes(s3, local):
    assert refused(s3.get_object, Bucket="missing", Key="o") == (404, "NoSuchBucket")
    assert refused(s3.put_object, Bucket="missing", Key="o", Body=b"x") == (404, "NoSuchBucket")
    assert refused(s3.list_objects_v2, Bucket="missing") == (404, "NoSuchBucket")
    assert refused(s3.get_object, Bucket=local.bucket, Key=local.key("o")) == (404, "NoSuchKey")
    assert refused(s3.get_object, Bucket=local.bucket, Key=local.key("o"), VersionId="abc")[0] in (400, 404)


def test_unsupported_operations_say_so(s3, local):
    assert refused(s3.put_bucket_versioning, Bucket=local.bucket, VersioningConfiguration={"Status": "Enabled"}) == (
        501,
        "NotImplemented",
    )
    assert refused(s3.get_bucket_policy, Bucket=local.bucket)[1] in ("NoSuchBucketPolicy", "NotImplemented")


def test_too_many_keys_in_one_delete_are_refused(gateway, local):
    quiet = client(gateway.url("s3"), OWNER, parameter_validation=False)
    keys = [{"Key": local.key(str(number))} for number in range(1001)]
    assert refused(quiet.delete_objects, Bucket=local.bucket, Delete={"Objects": keys}) == (400, "MalformedXML")


def test_an_unsigned_header_cannot_turn_a_presigned_put_into_a_copy(s3, local):
    s3.put_object(Bucket=local.bucket, Key=local.key("private"), Body=b"private")
    url = s3.generate_presigned_url("put_object", {"Bucket": local.bucket, "Key": local.key("inbox")}, ExpiresIn=60)
    source = {"x-amz-copy-source": f"/{local.bucket}/{local.key('private')}"}
    assert requests.put(url, headers=source, timeout=10).status_code == 403
    assert refused(s3.head_object, Bucket=local.bucket, Key=local.key("inbox"))[0] == 404
    assert requests.put(url, data=b"mine", timeout=10).status_code == 200


def test_a_copy_keeps_to_its_condition_on_the_destination(s3, local):
    source = {"Bucket": local.bucket, "Key": local.key("from")}
    s3.put_object(**source, Body=b"from")
    s3.put_object(Bucket=local.bucket, Key=local.key("to"), Body=b"to")

    def absent(request, **_):
        request.headers["If-None-Match"] = "*"

    s3.meta.events.register("before-sign.s3.CopyObject", absent)
    try:
        copy = {"Bucket": local.bucket, "Key": local.key("to"), "CopySource": source}
        assert refused(s3.copy_object, **copy)[0] == 412
    finally:
        s3.meta.events.unregister("before-sign.s3.CopyObject", absent)
    assert s3.get_object(Bucket=local.bucket, Key=local.key("to"))["Body"].read() == b"to"


def test_a_file_cannot_take_the_place_of_a_way_to_a_mount(s3, local):
    nested = {"Bucket": "local", "Key": "nested"}  # a mount lies at /local/nested
    assert refused(s3.put_object, **nested, Body=b"x")[0] in (400, 409)
    assert refused(s3.copy_object, **nested, CopySource=nested)[0] in (400, 403, 404, 409)
