"""Secrets come from the environment or files and never show: not in logs, metrics, errors or the CLI's output."""

import pytest
import requests
from harness.gateway import Gateway, settings
from harness.s3 import Credentials, refused

SECRETS = {
    "OWNER_SECRET": "hush-owner-3f9a", "ADMIN_TOKEN": "hush-admin-77c1", "HDFS_TOKEN": "hush-hdfs-a0b2",
    "STORE_SECRET": "hush-store-91d4",
}  # fmt: skip


@pytest.fixture
def own(tmp_path, store):
    bucket = store.bucket("secrets")
    (tmp_path / "disk").mkdir()
    (tmp_path / "store-secret").write_text(f"{SECRETS['STORE_SECRET']}\n")
    entry = store.mount(bucket)
    wrong = store.mount(bucket)
    wrong["options"]["secret_access_key"] = "${file:" + str(tmp_path / "store-secret") + "}"
    config = settings(
        tmp_path, {"/disk": {"store": "fs", "options": {"root": str(tmp_path / "disk")}}, "/good": entry, "/wrong": wrong},
        fuse=False,
    )  # fmt: skip
    config["gateway"]["access"] = [
        {
            "name": "owner", "s3": {"access_key": "owner", "secret_key": "${env:OWNER_SECRET}"},
            "webhdfs": {"users": ["spark"], "token": "${env:HDFS_TOKEN}"}, "admin": {"token": "${env:ADMIN_TOKEN}"},
            "grants": [{"prefix": "/", "access": "write"}],
        }
    ]  # fmt: skip
    gateway = Gateway(tmp_path, config, environment=SECRETS | {"FOREBAY_LOG": "trace"})
    yield gateway
    gateway.stop()


def test_secrets_resolve_and_never_show(own):
    own.start()
    s3 = own.s3(Credentials("owner", SECRETS["OWNER_SECRET"]))
    s3.put_object(Bucket="disk", Key="o", Body=b"x")
    assert refused(own.s3(Credentials("owner", "wrong")).get_object, Bucket="disk", Key="o")[1] == "SignatureDoesNotMatch"
    assert refused(s3.get_object, Bucket="wrong", Key="o")[0] >= 400
    requests.get(s3.generate_presigned_url("get_object", {"Bucket": "disk", "Key": "o"}), timeout=10)
    tokened = {"op": "GETFILESTATUS", "user.name": "spark", "delegation": SECRETS["HDFS_TOKEN"]}
    requests.get(f"{own.url('webhdfs')}/webhdfs/v1/disk/o", params=tokened, timeout=10)
    bearer = {"Authorization": f"Bearer {SECRETS['ADMIN_TOKEN']}"}
    shown = own.log.read_text(errors="replace")
    for path in ("metrics", "readyz", "api/v1/mounts", "api/v1/status"):
        shown += requests.get(f"{own.url('admin')}/{path}", headers=bearer, timeout=10).text
    for arguments in (("check",), ("mounts", "--json"), ("mounts",)):
        done = own.cli(*arguments)
        shown += (done.stdout + done.stderr).decode()
    for name, secret in SECRETS.items():
        assert secret not in shown, f"{name} shows"


def test_a_missing_secret_is_named_and_the_start_refused(own):
    del own.environment["OWNER_SECRET"]
    done = own.cli("check")
    assert done.returncode != 0
    assert b"OWNER_SECRET" in done.stderr + done.stdout


def test_the_wrong_token_is_refused(own):
    own.start()
    query = {"op": "LISTSTATUS", "user.name": "spark"}
    url = f"{own.url('webhdfs')}/webhdfs/v1/disk"
    assert requests.get(url, params=query, timeout=10).status_code in (401, 403)
    assert requests.get(url, params=query | {"delegation": "guess"}, timeout=10).status_code in (401, 403)
