"""What only HDFS has: real directories, renames in one request, names it refuses, a standby, other clients of the cluster."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from harness.faults import FaultProxy, Status
from harness.gateway import Gateway, settings
from harness.s3 import refused
from harness.tool import machine
from harness.wait import wait_for
from operate.test_write_modes import CACHES, check_column

AWKWARD = ["a b", " a", "a ", "a%20b", "a+b", "ä☃", "a?b=c&d", "a#b;c", "~'()*!\"<>&\\|", "[x]{y}^`@$,", "'", "\t"]
STANDBY = (
    b'{"RemoteException":{"exception":"StandbyException","javaClassName":"org.apache.hadoop.ipc.StandbyException",'
    b'"message":"Operation category READ is not supported in state standby"}}'
)


@pytest.fixture
def start(hadoop, tmp_path):
    """Starts a gateway over a root of its own; `endpoints` when something stands between."""
    running = []

    def start(*endpoints: str, root: str | None = None):
        root = root or hadoop.root("own")
        mounts = {"/lake": hadoop.mount(root, list(endpoints) or None, cache={"revalidate": "always"})}
        running.append(Gateway(tmp_path / "gateway", settings(tmp_path / "gateway", mounts)).start())
        return running[-1], root

    yield start
    for gateway in running:
        gateway.stop()


@pytest.fixture
def raw(hadoop):
    """HDFS itself, past the gateway."""
    return hadoop.client()


def test_names_are_exact_both_ways(start, raw):
    gateway, root = start()
    s3 = gateway.s3()
    for name in AWKWARD:
        s3.put_object(Bucket="lake", Key=f"in/{name}", Body=name.encode())
        assert raw.create(f"{root}/out/{name}", name.encode()).status == 201
    assert sorted(raw.names(f"{root}/in")) == sorted(AWKWARD)
    for name in AWKWARD:
        assert raw.open(f"{root}/in/{name}").value == name.encode()
        assert s3.get_object(Bucket="lake", Key=f"out/{name}")["Body"].read() == name.encode()
    listed = s3.list_objects_v2(Bucket="lake", Prefix="out/")["Contents"]
    assert [item["Key"].removeprefix("out/") for item in listed] == sorted(AWKWARD, key=str.encode)


def test_names_that_hdfs_cannot_hold_are_refused(start):
    gateway, _ = start()
    for key in ("12:00", ".forebay-tmp/x", "x" * 256):
        assert refused(gateway.s3().put_object, Bucket="lake", Key=key, Body=b"x")[0] == 400


def test_one_of_sixteen_conditional_writers_wins(start):
    gateway, _ = start()

    def write(number: int) -> int:
        try:
            gateway.s3().put_object(Bucket="lake", Key="d/once", Body=str(number).encode(), IfNoneMatch="*")
        except Exception as error:
            return error.response["ResponseMetadata"]["HTTPStatusCode"]
        return 200

    with ThreadPoolExecutor(16) as pool:
        answers = sorted(pool.map(write, range(16)))
    assert answers == [200] + [412] * 15


def test_headers_survive_a_restart_and_a_rename(start, raw):
    gateway, root = start()
    s3 = gateway.s3()
    s3.put_object(Bucket="lake", Key="a", Body=b"x", ContentType="text/x-test", Metadata={"colour": "blau ☃".encode().hex()})
    gateway.stop()
    gateway.start()
    assert raw.rename(f"{root}/a", f"{root}/b").value == {"boolean": True}
    head = s3.head_object(Bucket="lake", Key="b")
    assert (head["ContentType"], head["Metadata"]) == ("text/x-test", {"colour": "blau ☃".encode().hex()})


def test_renames_and_removals_of_trees_are_one_request(start, hadoop, raw):
    proxy = FaultProxy.before(hadoop)
    gateway, root = start(proxy.endpoint)
    client = gateway.webhdfs()
    for number in range(30):
        assert raw.create(f"{root}/t/{number % 3}/{number}", b"x").status == 201
    proxy.seen.clear()
    assert client.rename("/lake/t", "/lake/u").value == {"boolean": True}
    assert client.delete("/lake/u", recursive=True).value == {"boolean": True}
    changes = [seen.path.split("op=")[1].split("&")[0] for seen in proxy.seen if seen.method != "GET"]
    assert changes == ["RENAME", "DELETE"]
    assert raw.status(f"{root}/u").status == 404
    gateway.stop()
    proxy.stop()


def test_files_and_directories_keep_their_inode_through_renames(start):
    gateway, _ = start()
    machine(gateway.mountpoint, "no /dev/fuse, or not root")
    base = gateway.mountpoint / "lake"
    (base / "d" / "e").mkdir(parents=True)
    (base / "d" / "e" / "f").write_bytes(b"content")
    before = [(base / "d" / name).stat().st_ino for name in ("e", "e/f")]
    with (base / "d" / "e" / "f").open("rb") as opened:
        (base / "d").rename(base / "g")
        assert opened.read() == b"content"
    assert [(base / "g" / name).stat().st_ino for name in ("e", "e/f")] == before


def test_an_open_file_is_read_on_where_another_client_moved_it_and_not_once_it_is_replaced(start, raw):
    gateway, root = start()
    machine(gateway.mountpoint, "no /dev/fuse, or not root")
    content = bytes(range(256)) * 16_384
    assert raw.create(f"{root}/a", content).status == 201
    with (gateway.mountpoint / "lake" / "a").open("rb") as opened:
        assert opened.read(4096) == content[:4096]
        assert raw.rename(f"{root}/a", f"{root}/b").value == {"boolean": True}
        opened.seek(3 << 20)
        assert opened.read(4096) == content[:4096]
    with (gateway.mountpoint / "lake" / "b").open("rb", buffering=0) as opened:
        assert raw.create(f"{root}/b", b"y" * len(content), overwrite="true").status == 201
        opened.seek(2 << 20)
        with pytest.raises(OSError):
            opened.read(4096)


def test_listings_are_in_order_and_complete_beyond_a_batch_of_the_namenode(start, raw):
    gateway, root = start()
    names = [f"{number:04}" for number in range(1200)] + [f"{number:04}-x/y" for number in range(40)]
    names += [f"{number:04}é" for number in range(1, 1200, 40)] + [f"é{number}" for number in range(5)]
    with ThreadPoolExecutor(8) as pool:
        made = pool.map(lambda name: raw_create(raw, f"{root}/many/{name}"), names)
    assert set(made) == {201}
    pages = gateway.s3().get_paginator("list_objects_v2")
    keys = [f"many/{name}" for name in sorted(names, key=str.encode)]
    for size in (97, 1000):
        listed = pages.paginate(Bucket="lake", Prefix="many/", PaginationConfig={"PageSize": size})
        assert [item["Key"] for page in listed for item in page["Contents"]] == keys
    shallow = pages.paginate(Bucket="lake", Prefix="many/", Delimiter="/", PaginationConfig={"PageSize": 97})
    groups = [group["Prefix"] for page in shallow for group in page.get("CommonPrefixes", [])]
    assert groups == [f"many/{number:04}-x/" for number in range(40)]


def raw_create(raw, path: str) -> int:
    return type(raw)(raw.base, raw.user).create(path, b"").status


def test_what_crashed_writes_left_is_reaped_by_age(start, raw):
    root = "/reaped"
    for name in ("old", "young"):
        assert raw.create(f"{root}/.forebay-tmp/{name}", b"x").status == 201
    old = int((time.time() - 7 * 86_400) * 1000)
    assert raw.outcome("PUT", f"{root}/.forebay-tmp/old", "SETTIMES", modificationtime=old).status == 200
    gateway, _ = start(root=root)
    gateway.s3().put_object(Bucket="lake", Key="a", Body=b"x")
    wait_for(lambda: raw.names(f"{root}/.forebay-tmp") == ["young"], 20, "the old temporary file gone")
    assert [item["Key"] for item in gateway.s3().list_objects_v2(Bucket="lake")["Contents"]] == ["a"]


class Standby:
    """A NameNode that stands by: refuses everything, as a real one does."""

    def __init__(self) -> None:
        self.asked = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def refuse(self) -> None:
                outer.asked += 1
                self.send_response(403)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(STANDBY)))
                self.end_headers()
                self.wfile.write(STANDBY)

            do_GET = do_PUT = do_DELETE = refuse

            def log_message(self, *arguments) -> None:
                """Quiet: `asked` is the log."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def test_a_standby_and_a_dead_namenode_cost_nothing_but_a_look(start, hadoop):
    standby = Standby()
    gateway, root = start(standby.endpoint, hadoop.endpoint)
    gateway.s3().put_object(Bucket="lake", Key="a", Body=b"x")
    assert standby.asked >= 1
    gateway.stop()
    standby.stop()
    gateway, _ = start(standby.endpoint, hadoop.endpoint, root=root)
    assert gateway.s3().get_object(Bucket="lake", Key="a")["Body"].read() == b"x"


@pytest.mark.parametrize(("column", "cache"), CACHES)
def test_write_modes_promise_what_their_table_says(tmp_path, hadoop, column, cache):
    check_column(tmp_path, hadoop, column, cache)


def test_write_back_outlives_a_kill_and_keeps_both_sides_of_a_conflict(tmp_path, hadoop, raw):
    root, proxy = hadoop.root("back"), FaultProxy.before(hadoop)
    mount = hadoop.mount(root, [proxy.endpoint], cache={"revalidate": "always", "write": "back"})
    gateway = Gateway(tmp_path, settings(tmp_path, {"/lake": mount})).start()
    try:
        s3, hdfs = gateway.s3(), gateway.webhdfs()
        assert hdfs.create("/lake/log", b"base").status == 201
        assert gateway.cli("flush").returncode == 0
        with proxy.fault(Status(503), method="PUT"):
            etag = s3.put_object(Bucket="lake", Key="new/part", Body=b"part" * 20_000)["ETag"]
            assert hdfs.append("/lake/log", b", and ours").status == 200
            assert raw.open(f"{root}/new/part").status == 404
            gateway.kill()
            gateway.clear_mount()
            assert raw.create(f"{root}/log", b"theirs", overwrite="true").status == 201
            gateway.start()
            assert hdfs.open("/lake/new/part").value == b"part" * 20_000
            assert hdfs.names("/lake") == ["log", "new/"]
            if gateway.mountpoint:
                assert (gateway.mountpoint / "lake/log").read_bytes() == b"base, and ours"
        assert gateway.cli("flush").returncode == 0
        assert raw.open(f"{root}/new/part").value == b"part" * 20_000
        assert hdfs.rename("/lake/new", "/lake/moved").value == {"boolean": True}
        assert s3.head_object(Bucket="lake", Key="moved/part")["ETag"] == etag
        (conflict,) = json.loads(gateway.cli("status", "--json").stdout)["conflicts"]
        assert conflict["path"] == "/lake/log"
        assert raw.open(f"{root}/log").value == b"theirs"
        beside = conflict["beside"].removeprefix("/lake")
        assert raw.open(f"{root}{beside}").value == b"base, and ours"
    finally:
        gateway.stop()
        proxy.stop()
