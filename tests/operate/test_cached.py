"""Rules of the cache, `free` and `explain`: what they say is what the gateway does, also after a restart."""

import json
import os

import pytest
import requests
from botocore.exceptions import ClientError
from harness.gateway import OWNER, READER, Gateway, settings
from harness.tool import has_fuse, machine
from harness.wait import wait_for

LARGE = os.urandom(2_500_000)


@pytest.fixture
def cached(tmp_path, store, proxy):
    bucket = store.bucket("cached")
    store.put(bucket, "d/large", LARGE)
    store.put(bucket, "d/small", b"small")
    store.put(bucket, "e/other", b"other")
    cache = {"revalidate": "1s", "ttl": "10m", "quota": "100MiB"}
    mounts = {
        "/data": store.mount(bucket, proxy.endpoint, cache=cache),
        "/local": {"store": "fs", "options": {"root": str(tmp_path / "local")}},
    }
    gateway = Gateway(tmp_path, settings(tmp_path, mounts, fuse=False)).start()
    yield gateway
    gateway.stop()


def told(gateway, *arguments: str):
    done = gateway.cli(*arguments, "--json")
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def treatments(gateway) -> dict[str, dict]:
    return {rule["path"]: rule["treatment"] for rule in told(gateway, "rules")}


def test_rules_are_made_shown_taken_back_and_survive_a_restart(cached):
    assert treatments(cached) == {
        "/data": {
            "pin": False,
            "epoch": False,
            "epoch_by": "nobody",
            "ttl": {"secs": 600, "nanos": 0},
            "quota_bytes": 100 << 20,
            "priority": "normal",
        }
    }
    told(cached, "pin", "/data/d")
    told(cached, "epoch", "/data/e", "on")
    told(cached, "ttl", "/data/e", "off")
    told(cached, "quota", "/data/e", "1GiB")
    told(cached, "priority", "/data/e", "high")
    cached.kill()
    cached.start()
    now = treatments(cached)
    assert now["/data/d"]["pin"]
    assert now["/data/d"]["ttl"] == {"secs": 600, "nanos": 0}
    assert now["/data/e"] == {
        "pin": False,
        "epoch": True,
        "epoch_by": "rule",
        "ttl": None,
        "quota_bytes": 1 << 30,
        "priority": "high",
    }
    assert told(cached, "explain", "/data/d/large")["rule"] == "/data/d"
    told(cached, "unpin", "/data/d")
    assert set(treatments(cached)) == {"/data", "/data/e"}
    assert "epoch, quota 1073741824 bytes, high priority" in cached.cli("rules").stdout.decode()
    told(cached, "epoch", "/data/d", "off")
    assert treatments(cached)["/data/d"]["epoch_by"] == "rule"
    told(cached, "epoch", "/data/d", "auto")
    assert set(treatments(cached)) == {"/data", "/data/e"}


def test_bad_rules_are_refused(cached):
    for arguments in (["ttl", "/data", "soon"], ["quota", "/data", "much"], ["epoch", "/data", "maybe"], ["pin", "no/path"]):
        assert cached.cli(*arguments).returncode != 0, arguments
    assert set(treatments(cached)) == {"/data"}


def test_free_drops_what_is_cached_and_says_how_much(cached):
    told(cached, "load", "--wait", "/data")
    assert told(cached, "free", "/data/d") == {"files": 2, "bytes": len(LARGE) + 5, "failed": 0}
    assert told(cached, "free", "/data/d") == {"files": 0, "bytes": 0, "failed": 0}
    assert told(cached, "explain", "/data/e/other")["missing_bytes"] == 0
    assert told(cached, "free", "/data/e/other")["bytes"] == 5
    assert cached.s3().get_object(Bucket="data", Key="d/large")["Body"].read() == LARGE


def test_a_response_says_where_its_bytes_were_found_if_asked(cached):
    s3, asked = cached.s3(), cached.s3()
    asked.meta.events.register(
        "before-sign.s3.GetObject", lambda request, **_: request.headers.add_header("x-forebay-explain", "1")
    )

    def found(client, **extra) -> str | None:
        answer = client.get_object(Bucket="data", Key="d/large", **extra)
        answer["Body"].read()
        return answer["ResponseMetadata"]["HTTPHeaders"].get("x-forebay-cache")

    assert found(s3) is None
    told(cached, "free", "/data")
    assert found(asked) == "miss"
    assert found(asked, Range="bytes=0-99").startswith("hit-")
    told(cached, "load", "--wait", "/data")
    assert found(asked).startswith("hit-")


def test_webhdfs_says_where_its_bytes_were_found_if_asked(cached):
    def found(headers) -> str | None:
        query = {"op": "OPEN", "user.name": "root"}
        answer = requests.get(f"{cached.url('webhdfs')}/webhdfs/v1/data/d/large", params=query, headers=headers)
        assert answer.content == LARGE
        return answer.headers.get("x-forebay-cache")

    asked = {"x-forebay-explain": "1"}
    assert found({}) is None
    told(cached, "free", "/data")
    assert found(asked) == "miss"
    told(cached, "load", "--wait", "/data")
    assert found(asked).startswith("hit-")


def test_explain_says_why_a_read_would_miss(cached, store):
    def reasons(path: str) -> str:
        return " / ".join(told(cached, "explain", path)["reasons"])

    assert reasons("/data/d/large") == "nobody read it of late"
    told(cached, "load", "--wait", "/data")
    view = told(cached, "explain", "/data/d/large")
    assert view["reasons"] == []
    assert view["fetched_bytes"] == len(LARGE)
    assert view["fetched_requests"] >= 3
    assert [part["last_byte"] for part in view["parts"]][-1] == len(LARGE) - 1
    assert {part["place"] for part in view["parts"]} <= {"memory", "memory-and-disk", "disk"}
    told(cached, "free", "/data/d/large")
    assert "disk: freed, or replaced" in reasons("/data/d/large")
    text = cached.cli("explain", "/data/d/large").stdout.decode()
    assert "0-2499999 in the store only" in text
    assert "because  disk: freed, or replaced" in text
    store.put(cached.config["mounts"]["/data"]["options"]["bucket"], "e/other", b"another")
    wait_for(lambda: "another content" in reasons("/data/e/other"), 10, "the change to be seen")
    assert told(cached, "explain", "/data/e/other")["fetched_requests"] == 0


def test_an_xattr_says_where_a_file_is_found(tmp_path, store):
    machine(has_fuse(), "no /dev/fuse, or not root")
    bucket = store.bucket("xattr")
    store.put(bucket, "f", LARGE)
    gateway = Gateway(tmp_path, settings(tmp_path, {"/data": store.mount(bucket)})).start()
    file = gateway.mountpoint / "data" / "f"
    assert os.getxattr(file, "user.forebay.cache") == b"miss"
    told(gateway, "load", "--wait", "/data/f")
    assert os.getxattr(file, "user.forebay.cache").startswith(b"hit-")
    assert "user.forebay.cache" not in os.listxattr(file)
    with pytest.raises(PermissionError):
        os.setxattr(file, "user.forebay.cache", b"hit-memory")
    gateway.stop()


def test_xattrs_of_a_directory_say_how_it_is_cached(tmp_path, store):
    machine(has_fuse(), "no /dev/fuse, or not root")
    bucket = store.bucket("settings")
    store.put(bucket, "d/f", LARGE)
    mounts = {
        "/data": store.mount(bucket) | {"read_only": True},
        "/local": {"store": "fs", "options": {"root": str(tmp_path / "local")}},
    }
    gateway = Gateway(tmp_path, settings(tmp_path, mounts)).start()
    directory = gateway.mountpoint / "data" / "d"
    with pytest.raises(OSError, match="No data available"):
        os.getxattr(directory, "user.forebay.epoch")
    os.setxattr(directory, "user.forebay.epoch", b"1")
    os.setxattr(directory, "user.forebay.ttl", b"12h")
    assert os.getxattr(directory, "user.forebay.epoch") == b"1"
    assert os.getxattr(directory, "user.forebay.ttl") == b"12h"
    assert not any(name.startswith("user.forebay.") and name != "user.forebay.mount" for name in os.listxattr(directory))
    (rule,) = told(gateway, "rules")
    assert (rule["path"], rule["rule"]) == ("/data/d", {"epoch": True, "ttl_ms": 12 * 3600 * 1000})
    assert told(gateway, "explain", "/data/d/f")["rule"] == "/data/d"
    gateway.stop()
    gateway.start()
    assert os.getxattr(directory, "user.forebay.epoch") == b"1"
    for name in ("epoch", "ttl"):
        os.removexattr(directory, f"user.forebay.{name}")
    assert told(gateway, "rules") == []
    hdfs, name = gateway.webhdfs(), {"xattr.name": "user.forebay.priority"}
    assert hdfs.outcome("PUT", "/data/d", "SETXATTR", flag="CREATE", **name, **{"xattr.value": "high"}).status == 200
    assert os.getxattr(directory, "user.forebay.priority") == b"high"
    shown = hdfs.outcome("GET", "/data/d", "GETXATTRS", **name).value["XAttrs"]
    assert shown == [{"name": "user.forebay.priority", "value": '"high"'}]
    assert hdfs.outcome("PUT", "/data/d", "REMOVEXATTR", **name).status == 200
    assert told(gateway, "rules") == []
    with pytest.raises(OSError, match="No data available"):
        os.removexattr(directory, "user.forebay.epoch")
    for path, name, value in [
        (directory, "epoch", b"yes"),
        (directory, "colour", b"1"),
        (gateway.mountpoint / "local", "pin", b"1"),
    ]:
        with pytest.raises(OSError):
            os.setxattr(path, f"user.forebay.{name}", value)
    gateway.stop()


def test_who_may_not_write_there_says_nothing_of_the_cache(tmp_path, store):
    machine(has_fuse(), "no /dev/fuse, or not root")
    bucket = store.bucket("readers")
    store.put(bucket, "d/f", LARGE)
    config = settings(tmp_path, {"/data": store.mount(bucket)})
    config["gateway"]["access"][0]["grants"] = [{"prefix": "/data", "access": "read"}]
    gateway = Gateway(tmp_path, config).start()
    with pytest.raises(PermissionError):
        os.setxattr(gateway.mountpoint / "data" / "d", "user.forebay.pin", b"1")
    assert told(gateway, "rules") == []
    gateway.stop()


def test_a_request_says_that_it_reads_a_data_set(tmp_path, store):
    bucket, mib = store.bucket("epoch"), 1 << 20
    for number in range(12):
        store.put(bucket, f"d/{number}", os.urandom(mib))
    small = {"memory": {"size": "4MiB"}, "nvme": {"size": "6MiB", "directory": str(tmp_path / "cache")}}
    gateway = Gateway(tmp_path, settings(tmp_path, {"/data": store.mount(bucket)}, fuse=False, cache=small)).start()

    def refused() -> float:
        return gateway.metrics().total("forebay_cache_refusals_total", mount="/data", cause="epoch")

    def by_s3(number: int, credentials=OWNER) -> None:
        s3 = gateway.s3(credentials)
        s3.meta.events.register(
            "before-sign.s3.GetObject", lambda request, **_: request.headers.add_header("x-forebay-epoch", "1")
        )
        s3.get_object(Bucket="data", Key=f"d/{number}")["Body"].read()

    def by_webhdfs(number: int, user: str = "root") -> int:
        query = {"op": "OPEN", "user.name": user}
        url = f"{gateway.url('webhdfs')}/webhdfs/v1/data/d/{number}"
        return requests.get(url, params=query, headers={"x-forebay-epoch": "1"}).status_code

    for number in range(12):
        gateway.s3().get_object(Bucket="data", Key=f"d/{number}")["Body"].read()
    assert refused() == 0
    for number in range(12):
        by_s3(number)
    assert refused() > 0
    before = refused()
    for number in range(12):
        assert by_webhdfs(number) == 200
    assert refused() > before
    with pytest.raises(ClientError, match="AccessDenied"):
        by_s3(0, READER)
    assert by_webhdfs(0, "reader") == 403
    gateway.stop()


def test_free_takes_nothing_from_a_reader(cached):
    told(cached, "load", "--wait", "/data/d/large")
    body = cached.s3().get_object(Bucket="data", Key="d/large")["Body"]
    first = body.read(1000)
    told(cached, "free", "/data")
    assert first + body.read() == LARGE


def test_explain_says_what_is_cached_and_what_a_read_would_do(cached):
    before = told(cached, "explain", "/data/d/large")
    assert (before["mount"], before["store"], before["version"], before["rule"]) == ("/data", "s3", "strong", "/data")
    assert (before["missing_bytes"], before["is_lent_whole"]) == (len(LARGE), False)
    assert "nothing of it is cached" in before["read"]
    told(cached, "load", "--wait", "/data/d/large")
    after = told(cached, "explain", "/data/d/large")
    assert (after["missing_bytes"], after["disk_bytes"]) == (0, len(LARGE))
    assert "of it" in after["read"]
    cached.s3().put_object(Bucket="local", Key="f", Body=b"x")
    assert "local file" in told(cached, "explain", "/local/f")["read"]
    assert "/data/nothing" in cached.cli("explain", "/data/nothing").stderr.decode()
    assert "rule     /data: ttl 10m" in cached.cli("explain", "/data/d/large").stdout.decode()


def test_bytes_given_to_readers_count_for_their_mount_local_ones_too(cached):
    s3 = cached.s3()
    s3.put_object(Bucket="local", Key="f", Body=LARGE)
    for bucket, name in (("local", "f"), ("data", "d/large"), ("data", "d/large")):
        assert s3.get_object(Bucket=bucket, Key=name)["Body"].read() == LARGE
    metrics = cached.metrics()
    assert metrics.total("forebay_cache_served_bytes_total", mount="/local", tier="local") == len(LARGE)
    assert metrics.total("forebay_cache_served_bytes_total", mount="/data") == 2 * len(LARGE)
    assert metrics.total("forebay_cache_opens_total", mount="/data", tier="store") == 1
    assert metrics.total("forebay_cache_opens_total", mount="/data") == 2
