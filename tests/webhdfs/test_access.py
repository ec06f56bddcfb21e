"""Who may do what over WebHDFS."""

from harness.place import STORES


def test_a_reader_reads_and_cannot_write(gateway, hdfs, local):
    hdfs.create(local.path("f"), b"x")
    reader = gateway.webhdfs("reader")
    assert reader.open(local.path("f")) == (200, b"x")
    refusal = (403, "AccessControlException")
    assert reader.create(local.path("g"), b"y") == refusal
    assert reader.mkdirs(local.path("d")) == refusal
    assert reader.append(local.path("f"), b"y") == refusal
    assert reader.rename(local.path("f"), local.path("g"), renameoptions="NONE") == refusal
    assert reader.delete(local.path("f")) == refusal
    assert hdfs.names(local.path()) == ["f"]


def test_a_grant_ends_at_its_prefix(gateway, hdfs):
    guest = gateway.webhdfs("guest")
    assert guest.create("/local/guest/w", b"x", overwrite="true").status == 201
    hdfs.create("/local/guests/w", b"x", overwrite="true")
    assert guest.open("/local/guests/w") == (403, "AccessControlException")
    assert guest.mkdirs("/local/other").status == 403


def test_a_read_only_mount_takes_no_writes(gateway, hdfs):
    assert hdfs.create("/frozen/new", b"x").status == 403
    assert hdfs.append("/frozen/kept.txt", b"x").status == 403
    assert hdfs.mkdirs("/frozen/d").status == 403
    assert hdfs.delete("/frozen/kept.txt").status == 403
    assert hdfs.open("/frozen/kept.txt") == (200, b"kept")


def test_the_data_step_checks_access_again(gateway, hdfs, local):
    """A redirect is no ticket: the second step is refused to who may not write."""
    location = hdfs.step("PUT", local.path("f"), "CREATE").headers["Location"]
    answer = hdfs.session.put(location.replace("user.name=root", "user.name=reader"), data=b"x", timeout=10)
    assert answer.status_code == 403
    assert hdfs.status(local.path("f")).status == 404


def test_root_lists_the_mounts(hdfs):
    assert hdfs.names("/") == sorted(f"{name}/" for name in {"frozen", *STORES.values()})


def test_mount_points_cannot_be_removed_or_moved(hdfs):
    hdfs.delete("/scratch", recursive=True)
    hdfs.rename("/scratch", "/elsewhere")
    assert hdfs.status("/scratch").value["type"] == "DIRECTORY"
    assert hdfs.status("/elsewhere").status == 404
