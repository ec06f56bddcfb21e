"""Mounts come, go and change at run time: by the file, by SIGHUP, by commands; what is open does not notice."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import requests
import yaml
from botocore.exceptions import ClientError
from harness.gateway import Gateway, settings
from harness.load import mixed_load
from harness.s3 import refused
from harness.stores.s3 import SECRET_KEY
from harness.tool import has_fuse, machine
from harness.wait import wait_for

DATA = os.urandom(3 << 20)
MANY = 1000


@pytest.fixture
def own(tmp_path, store):
    """Not started yet: a local, a memory and an S3 mount."""
    (tmp_path / "disk").mkdir()
    mounts = {
        "/disk": {"store": "fs", "options": {"root": str(tmp_path / "disk")}},
        "/scratch": {"store": "memory"},
        "/bucket": store.mount(store.bucket("reload")),
    }
    gateway = Gateway(tmp_path, settings(tmp_path, mounts))
    yield gateway
    gateway.stop()
    gateway.clear_mount()


def mounts(gateway) -> dict[str, dict]:
    return {mount["path"]: mount for mount in requests.get(f"{gateway.url('admin')}/api/v1/mounts", timeout=10).json()}


def buckets(gateway) -> set[str]:
    return {bucket["Name"] for bucket in gateway.s3().list_buckets()["Buckets"]}


def reloads(gateway, outcome: str) -> float:
    return gateway.metrics().total("forebay_config_reloads_total", outcome=outcome)


def reload(gateway) -> requests.Response:
    return requests.post(f"{gateway.url('admin')}/api/v1/reload", timeout=60)


def told(done) -> str:
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def problem(done) -> str:
    assert done.returncode == 1, done.stdout.decode()
    return done.stderr.decode()


def test_a_changed_file_is_noticed_and_only_what_changed_changes(own):
    own.start()
    own.s3().put_object(Bucket="scratch", Key="f", Body=DATA)
    del own.config["mounts"]["/bucket"]
    own.config["mounts"]["/more"] = {"store": "memory"}
    own.rewrite()
    wait_for(lambda: buckets(own) == {"disk", "scratch", "more"}, 10, "the new table")
    assert own.s3().get_object(Bucket="scratch", Key="f")["Body"].read() == DATA
    assert sorted(mounts(own)) == ["/disk", "/more", "/scratch"]
    wait_for(lambda: 'mount="/bucket"' not in own.metrics().text, 10, "the series of the removed mount to go")
    assert "Mount:/bucket" not in {actor["name"] for actor in own.actors()}
    if own.mountpoint:
        assert sorted(path.name for path in own.mountpoint.iterdir()) == ["disk", "more", "scratch"]


def test_a_bad_file_is_refused_whole_and_says_every_problem(own):
    own.start()
    own.config_path.write_text("gateway:\n  listners: {}\nmounts:\n  /new: {store: memory}\n  /disk: {store: tape}\n")
    wait_for(lambda: reloads(own, "refused") >= 1, 10, "the refusal")
    log = own.log.read_text()
    answer = reload(own)
    assert answer.status_code == 400
    for place, word in (("mounts.yaml:2:", "listners"), ("mounts.yaml:5:", "tape")):
        assert any(place in line and word in line for line in answer.json()["problems"])
        assert any(place in line and word in line for line in log.splitlines())
    assert "mounts.yaml:5:" in problem(own.cli("reload"))
    assert buckets(own) == {"disk", "scratch", "bucket"}
    assert own.metrics().total("forebay_config_outdated", cause="refused") == 1
    own.rewrite()
    wait_for(lambda: own.metrics().total("forebay_config_outdated", cause="refused") == 0, 10, "the file to be taken again")


def test_a_mount_that_cannot_be_opened_refuses_the_whole_reload(own, tmp_path):
    own.start()
    (tmp_path / "file").write_bytes(b"")
    own.config["mounts"] |= {"/new": {"store": "memory"}, "/broken": {"store": "fs", "options": {"root": str(tmp_path / "file")}}}
    own.rewrite()
    answer = reload(own)
    assert (answer.status_code, "/broken" in answer.json()["problems"][0]) == (400, True)
    assert buckets(own) == {"disk", "scratch", "bucket"}


def test_a_store_that_does_not_answer_is_added_degraded_and_holds_nothing_up(own):
    own.start()
    dead = {"bucket": "b", "region": "r", "endpoint": "http://127.0.0.1:1", "skip_signature": "true"}
    own.config["mounts"] |= {"/dead": {"store": "s3", "options": dead}, "/alive": {"store": "memory"}}
    own.rewrite()
    begun = time.monotonic()
    assert sorted(reload(own).json()["added"]) in ([], ["/alive", "/dead"])
    assert time.monotonic() - begun < 5
    wait_for(lambda: mounts(own)["/dead"]["state"] == "degraded", 10, "the dead store to show")
    assert mounts(own)["/dead"]["reason"]
    assert mounts(own)["/alive"]["state"] == "ready"


def test_sighup_reloads(own):
    own.start()
    before = reloads(own, "ok")
    os.kill(own.process.pid, signal.SIGHUP)
    wait_for(lambda: reloads(own, "ok") > before, 10, "the reload")
    assert buckets(own) == {"disk", "scratch", "bucket"}


def test_a_swapped_link_is_noticed(own, tmp_path):
    """As a ConfigMap is updated: the file is a link through a link to a directory, and that link is renamed over."""
    for version, extra in (("v1", {}), ("v2", {"/linked": {"store": "memory"}})):
        (tmp_path / version).mkdir()
        config = own.config | {"mounts": own.config["mounts"] | extra}
        (tmp_path / version / "mounts.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "data").symlink_to("v1")
    own.config_path.unlink()
    own.config_path.symlink_to("data/mounts.yaml")
    own.start()
    (tmp_path / "next").symlink_to("v2")
    (tmp_path / "next").rename(tmp_path / "data")
    wait_for(lambda: "linked" in buckets(own), 4, "the swap to be noticed by its event")


def test_an_open_file_and_the_cache_of_an_unchanged_mount_stay(own):
    machine(has_fuse(), "no /dev/fuse, or not root")
    own.start()
    own.s3().put_object(Bucket="bucket", Key="f", Body=DATA)
    own.s3().get_object(Bucket="bucket", Key="f")["Body"].read()
    fetches = own.metrics().total("forebay_cache_fetches_total", mount="/bucket")
    with (own.mountpoint / "bucket" / "f").open("rb") as file, (own.mountpoint / "bucket" / "new").open("wb") as written:
        assert file.read(4096) == DATA[:4096]
        written.write(b"begun ")
        own.config["mounts"]["/other"] = {"store": "memory"}
        own.config["mounts"]["/bucket"] |= {"limits": {"operations": 8}, "cache": {"revalidate": "2s"}}
        own.rewrite()
        wait_for(lambda: "other" in buckets(own), 10, "the reload")
        assert file.read() == DATA[4096:]
        written.write(b"and ended")
    assert own.s3().get_object(Bucket="bucket", Key="f")["Body"].read() == DATA
    assert own.metrics().total("forebay_cache_fetches_total", mount="/bucket") == fetches
    assert own.s3().get_object(Bucket="bucket", Key="new")["Body"].read() == b"begun and ended"


def test_rotated_credentials_work_without_a_restart(own, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("expired\n")
    own.config["mounts"]["/bucket"]["options"]["secret_access_key"] = "${file:" + str(secret) + "}"
    own.rewrite().start()
    assert refused(own.s3().put_object, Bucket="bucket", Key="f", Body=DATA)[0] == 403
    wait_for(lambda: mounts(own)["/bucket"]["state"] == "degraded", 10, "the wrong secret to show")
    fresh = tmp_path / "fresh"
    fresh.write_text(f"{SECRET_KEY}\n")
    fresh.rename(secret)
    wait_for(lambda: mounts(own)["/bucket"]["state"] == "ready", 4, "the rotated secret to be used")
    own.s3().put_object(Bucket="bucket", Key="f", Body=DATA)
    assert own.s3().get_object(Bucket="bucket", Key="f")["Body"].read() == DATA


def test_read_only_and_access_are_exchanged_live_and_the_rest_waits_for_a_restart(own):
    own.start()
    own.config["mounts"]["/disk"]["read_only"] = True
    own.config["gateway"]["access"][0]["s3"]["secret_key"] = "another-secret"
    own.config["gateway"]["cache"]["memory"]["size"] = "65MiB"
    view = reload(own.rewrite()).json()
    warnings = "\n".join(view["warnings"])
    assert "gateway.cache.memory.size" in warnings
    assert "restart" in warnings
    assert refused(own.s3().list_buckets)[1] == "SignatureDoesNotMatch"
    assert own.webhdfs().create("/disk/f", b"x").status == 403
    assert own.metrics().total("forebay_config_outdated", cause="restart") == 1


def test_access_that_would_open_a_listener_to_the_world_waits(tmp_path):
    config = settings(tmp_path, {"/scratch": {"store": "memory"}}, fuse=False)
    config["gateway"]["access"] = [
        {
            "name": "a", "webhdfs": {"users": ["spark"], "token": "t"}, "admin": {"token": "t"},
            "grants": [{"prefix": "/", "access": "write"}],
        }
    ]  # fmt: skip
    listeners = config["gateway"]["listeners"]
    for name in ("webhdfs", "admin"):
        listeners[name]["listen"] = listeners[name]["listen"].replace("127.0.0.1", "0.0.0.0")
    gateway = Gateway(tmp_path, config)
    try:
        gateway.start()
        del config["gateway"]["access"][0]["webhdfs"]["token"]
        del config["gateway"]["access"][0]["admin"]
        for name in ("webhdfs", "admin"):
            listeners[name]["listen"] = listeners[name]["listen"].replace("0.0.0.0", "127.0.0.1")
        gateway.rewrite()
        wait_for(lambda: "listener would be open to all" in gateway.log.read_text(), 10, "the refusal")
        assert requests.get(f"{gateway.url('admin')}/api/v1/mounts", timeout=5).status_code == 401
    finally:
        gateway.stop()


def test_a_mount_with_an_upload_in_progress_is_removed_by_force_only(own):
    own.start()
    s3 = own.s3()
    upload = s3.create_multipart_upload(Bucket="bucket", Key="big")["UploadId"]
    s3.upload_part(Bucket="bucket", Key="big", UploadId=upload, PartNumber=1, Body=DATA)
    message = problem(own.cli("mount", "remove", "/bucket"))
    for word in ("1 multipart upload", str(len(DATA)), "since", "--force"):
        assert word in message
    assert "/bucket" in yaml.safe_load(own.config_path.read_text())["mounts"]
    assert "removed   /bucket" in told(own.cli("mount", "remove", "/bucket", "--force"))
    assert buckets(own) == {"disk", "scratch"}
    wait_for(lambda: 'mount="/bucket"' not in own.metrics().text, 10, "its series to go")


def test_a_removed_mount_drains_until_its_upload_is_done(own, store):
    own.start()
    s3 = own.s3()
    upload = s3.create_multipart_upload(Bucket="bucket", Key="big")["UploadId"]
    entry = own.config["mounts"].pop("/bucket")
    own.rewrite()
    wait_for(lambda: mounts(own)["/bucket"]["state"] == "draining", 10, "it to drain")
    assert "1 multipart upload" in mounts(own)["/bucket"]["reason"]
    assert refused(s3.put_object, Bucket="bucket", Key="new", Body=b"x")[0] == 403
    part = s3.upload_part(Bucket="bucket", Key="big", UploadId=upload, PartNumber=1, Body=DATA)
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    s3.complete_multipart_upload(Bucket="bucket", Key="big", UploadId=upload, MultipartUpload=parts)
    assert store.client.get_object(Bucket=entry["options"]["bucket"], Key="big")["Body"].read() == DATA
    wait_for(lambda: "/bucket" not in mounts(own), 10, "it to be gone")
    assert buckets(own) == {"disk", "scratch"}
    own.config["mounts"]["/bucket"] = entry
    assert reload(own.rewrite()).status_code == 200
    assert own.s3().get_object(Bucket="bucket", Key="big")["Body"].read() == DATA


def test_another_store_at_the_same_path_takes_over_and_open_files_keep_theirs(own, tmp_path):
    machine(has_fuse(), "no /dev/fuse, or not root")
    own.start()
    own.s3().put_object(Bucket="disk", Key="f", Body=DATA)
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "f").write_bytes(b"second")
    path = own.mountpoint / "disk" / "f"
    with path.open("rb") as file, (own.mountpoint / "disk" / "late").open("wb") as late:
        late.write(b"late")
        own.config["mounts"]["/disk"]["options"]["root"] = str(tmp_path / "second")
        assert reload(own.rewrite()).status_code == 200
        assert own.s3().get_object(Bucket="disk", Key="f")["Body"].read() == b"second"
        assert path.read_bytes() == b"second"
        assert file.read() == DATA
    assert (tmp_path / "disk" / "late").read_bytes() == b"late"
    assert not (tmp_path / "second" / "late").exists()
    wait_for(lambda: [mount["state"] for mount in mounts(own).values()] == ["ready"] * 3, 10, "the old one to be gone")


def test_mounts_added_and_removed_by_command_survive_a_restart_with_comments_kept(own, tmp_path):
    text = "# kept at the head\n" + own.config_path.read_text().replace("  /scratch:", "  # about scratch\n  /scratch:")
    own.config_path.write_text(text)
    own.start()
    (tmp_path / "more data").mkdir()
    assert "added     /more" in told(own.cli("mount", "add", "/more", f"file://{tmp_path}/more data", "--read-only"))
    told(own.cli("mount", "add", "/mem", "memory:", "--option", "size=10MiB"))
    listed = {mount["path"]: mount for mount in json.loads(told(own.cli("mount", "list", "--json")))}
    assert (listed["/more"]["read_only"], listed["/mem"]["store"]) == (True, "memory")
    assert own.config_path.read_text().startswith(text)
    told(own.cli("mount", "remove", "/mem"))
    told(own.cli("mount", "remove", "/disk"))
    own.stop()
    own.start()
    assert sorted(mounts(own)) == ["/bucket", "/more", "/scratch"]
    for comment in ("# kept at the head", "# about scratch"):
        assert comment in own.config_path.read_text()


def test_a_mount_comes_back_at_once_at_the_same_path(own):
    own.start()
    for number in range(5):
        told(own.cli("mount", "remove", "/bucket"))
        assert refused(own.s3().get_object, Bucket="bucket", Key="f")[0] == 404
        entry = own.config["mounts"]["/bucket"]["options"]
        options = [word for key, value in entry.items() if key != "bucket" for word in ("--option", f"{key}={value}")]
        told(own.cli("mount", "add", "/bucket", f"s3://{entry['bucket']}", *options))
        own.s3().put_object(Bucket="bucket", Key="f", Body=str(number).encode())
        assert own.s3().get_object(Bucket="bucket", Key="f")["Body"].read() == str(number).encode()


def test_mounts_come_go_and_change_under_load_and_the_others_do_not_notice(own):
    own.start()
    load = mixed_load(own, ("disk", "scratch", "bucket"))
    try:
        for number in range(10):
            load.goes_on(rounds=1)
            own.config["mounts"][f"/new-{number}"] = {"store": "memory"}
            own.config["mounts"].pop(f"/new-{number - 2}", None)
            own.config["mounts"]["/bucket"]["limits"] = {"operations": 8 + number}
            view = reload(own.rewrite()).json()
            assert view["failed"] == view["warnings"] == []
    finally:
        load.stop()
    assert load.failures == []
    assert sum(load.done.values()) > 100


def test_commands_refuse_what_they_cannot_do_and_change_nothing(own):
    own.start()
    text = own.config_path.read_text()
    for arguments, words in (
        (("add", "/disk", "memory:"), ["mounted already", "mounts.yaml:"]),
        (("add", "/new", "ftp://x"), ["unknown kind"]),
        (("add", "/new", "s3://b", "--option", "regoin=r"), ["regoin", "region"]),
        (("add", "/BAD", "memory:"), ["bucket name"]),
        (("remove", "/nothing"), ["/nothing"]),
    ):
        message = problem(own.cli("mount", *arguments))
        for word in words:
            assert word in message, message
        assert own.config_path.read_text() == text
    own.config_path.chmod(0o444)
    assert "read-only" in problem(own.cli("mount", "add", "/new", "memory:"))
    own.config_path.chmod(0o644)
    own.config_path.write_text("mounts: {/a-mount: {store: memory}}\n" + text[: text.index("mounts:")])
    assert "by hand" in problem(own.cli("mount", "add", "/new", "memory:"))


def test_the_api_to_change_mounts_needs_the_token(tmp_path):
    config = settings(tmp_path, {"/scratch": {"store": "memory"}}, fuse=False)
    config["gateway"]["access"][0]["admin"] = {"token": "open-sesame"}
    gateway = Gateway(tmp_path, config).start()
    try:
        url = f"{gateway.url('admin')}/api/v1"
        for answer in (
            requests.post(f"{url}/reload", timeout=5),
            requests.post(f"{url}/mounts", json={"path": "/new", "url": "memory:"}, timeout=5),
            requests.delete(f"{url}/mounts", params={"path": "/scratch"}, timeout=5),
        ):
            assert answer.status_code == 401
        bearer = {"Authorization": "Bearer open-sesame"}
        assert (
            requests.post(f"{url}/mounts", json={"path": "/new", "url": "memory:"}, headers=bearer, timeout=5).status_code == 200
        )
    finally:
        gateway.stop()


def test_the_config_actor_loses_nothing_when_it_panics(own):
    own.start()
    for number in range(3):
        own.panic_actor("Config")
        own.wait_for_metric("forebay_actor_restarts_total", number + 1, actor="Config", cause="panic")
        own.config["mounts"][f"/new-{number}"] = {"store": "memory"}
        own.rewrite()
        wait_for(lambda number=number: f"new-{number}" in buckets(own), 10, "the reload after the panic")


def many(directory: Path, store, bucket: str, count: int) -> dict:
    """A third each of local, memory and S3 mounts."""
    kinds = (
        lambda number: {"store": "fs", "options": {"root": str(directory / "many" / str(number))}},
        lambda number: {"store": "memory"},
        lambda number: store.mount(bucket) | {"options": store.mount(bucket)["options"] | {"prefix": f"{number}/"}},
    )
    return {f"/m-{number}": kinds[number % 3](number) for number in range(count)}


def test_a_thousand_mounts_start_and_reload_in_seconds(tmp_path, store):
    """The bounds are generous: the figures that count are printed."""
    directory = tmp_path / "gateway"
    entries = many(tmp_path, store, store.bucket("many"), MANY)
    gateway = Gateway(directory, settings(directory, entries, fuse=False))
    begun = time.monotonic()
    gateway.start()
    started = time.monotonic() - begun
    try:
        begun = time.monotonic()
        assert reload(gateway).json()["unchanged"] == MANY
        same = time.monotonic() - begun
        for number in range(0, MANY, 10):
            del gateway.config["mounts"][f"/m-{number}"]
            gateway.config["mounts"][f"/n-{number}"] = {"store": "memory"}
        gateway.rewrite()
        begun = time.monotonic()
        view = reload(gateway).json()
        tenth = time.monotonic() - begun
        assert len(buckets(gateway)) == MANY
        wait_for(lambda: {mount["state"] for mount in mounts(gateway).values()} == {"ready"}, 60, "all to be ready")
        print(
            f"\n{MANY} mounts: start {started:.2f} s, reload unchanged {same:.2f} s, reload with a tenth exchanged {tenth:.2f} s"
        )
        assert max(started / 2, same, tenth) < 15, view
    finally:
        gateway.stop()


def test_a_directory_may_move_to_another_path(own):
    own.start()
    own.s3().put_object(Bucket="disk", Key="f", Body=DATA)
    own.config["mounts"]["/moved"] = own.config["mounts"].pop("/disk")
    assert reload(own.rewrite()).status_code == 200
    assert own.s3().get_object(Bucket="moved", Key="f")["Body"].read() == DATA
    with pytest.raises(ClientError):
        own.s3().get_object(Bucket="disk", Key="f")
