"""TLS on each HTTP listener."""

import subprocess

import boto3
import pytest
import requests
import urllib3
from botocore.config import Config
from harness.gateway import OWNER, Gateway, settings
from harness.tool import tool
from harness.webhdfs import WebHdfs

urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tls")
    (directory / "disk").mkdir()
    argv = [
        tool("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
        "-subj", "/CN=forebay", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost",
        "-keyout", directory / "key.pem", "-out", directory / "cert.pem",
    ]  # fmt: skip
    subprocess.run(argv, check=True, capture_output=True)
    config = settings(directory, {"/disk": {"store": "fs", "options": {"root": str(directory / "disk")}}}, fuse=False)
    for listener in config["gateway"]["listeners"].values():
        listener["tls"] = {"cert": str(directory / "cert.pem"), "key": str(directory / "key.pem")}
    gateway = Gateway(directory, config).start()
    yield gateway
    gateway.stop()


def certificate(gateway) -> str:
    return str(gateway.directory / "cert.pem")


def test_s3_over_tls(own):
    client = boto3.client(
        "s3", endpoint_url=own.url("s3"), aws_access_key_id=OWNER.key, aws_secret_access_key=OWNER.secret,
        region_name="us-east-1", verify=certificate(own), config=Config(s3={"addressing_style": "path"}),
    )  # fmt: skip
    body = b"x" * 3_000_000
    client.put_object(Bucket="disk", Key="o", Body=body)  # over TLS boto3 sends an unsigned payload with a trailer
    assert client.get_object(Bucket="disk", Key="o")["Body"].read() == body


def test_webhdfs_over_tls_redirects_to_itself_over_tls(own):
    hdfs = WebHdfs(own.url("webhdfs"), verify=certificate(own))
    assert hdfs.step("PUT", "/disk/w", "CREATE").headers["Location"].startswith(own.url("webhdfs"))
    assert hdfs.create("/disk/w", b"x" * 100_000).status == 201
    assert hdfs.open("/disk/w").value == b"x" * 100_000


def test_admin_over_tls(own):
    assert requests.get(f"{own.url('admin')}/healthz", verify=certificate(own), timeout=5).status_code == 200


@pytest.mark.parametrize("listener", ["s3", "webhdfs", "admin"])
def test_plain_http_is_not_answered(own, listener):
    with pytest.raises(requests.RequestException):
        answer = requests.get(f"http://{own.address(listener)}/healthz", timeout=5)
        answer.raise_for_status()


@pytest.mark.parametrize("listener", ["s3", "webhdfs", "admin"])
def test_curl_verifies_the_certificate(own, listener):
    argv = [tool("curl"), "--silent", "--cacert", certificate(own), "--output", "/dev/null", "--write-out", "%{http_version}"]
    done = subprocess.run([*argv, f"{own.url(listener)}/"], capture_output=True, text=True)
    assert (done.returncode, done.stdout[:1] in "12") == (0, True), done.stderr
