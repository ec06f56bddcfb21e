"""Hadoop's semantics, as a NameNode of Hadoop 3.3.6 answered the same requests, per store."""

from collections.abc import Iterator

import pytest
from harness.webhdfs import WebHdfs

TRUE = (200, {"boolean": True})
FALSE = (200, {"boolean": False})
NOT_FOUND = (404, "FileNotFoundException")
EXISTS = (403, "FileAlreadyExistsException")
PARENT_IS_A_FILE = (403, "ParentNotDirectoryException")
ILLEGAL = (400, "IllegalArgumentException")


@pytest.fixture
def base(hdfs, place) -> Iterator[str]:
    """A directory with the file `f` ("hello world") and the empty directory `d`."""
    assert hdfs.mkdirs(place.path("d")) == TRUE
    assert hdfs.create(place.path("f"), b"hello world").status == 201
    yield place.path()
    assert hdfs.delete(place.path(), recursive=True) == TRUE


def test_mkdirs_makes_parents_and_repeats(hdfs, base):
    assert hdfs.mkdirs(f"{base}/x/y/z") == TRUE
    assert hdfs.mkdirs(f"{base}/x/y/z") == TRUE
    assert hdfs.status(f"{base}/x/y").value["type"] == "DIRECTORY"


def test_mkdirs_on_and_under_a_file_is_refused(hdfs, base):
    assert hdfs.mkdirs(f"{base}/f") == EXISTS
    assert hdfs.mkdirs(f"{base}/f/x") == PARENT_IS_A_FILE


def test_create_step_one_redirects_without_checking_existence(hdfs, base):
    for name in ("f", "d", "new"):
        answer = hdfs.step("PUT", f"{base}/{name}", "CREATE")
        assert answer.status_code == 307
        assert answer.headers["Location"].startswith(hdfs.base)
        assert answer.content == b""
    assert hdfs.status(f"{base}/new") == NOT_FOUND


def test_create_refuses_what_exists_unless_told_to_overwrite(hdfs, base):
    assert hdfs.create(f"{base}/f", b"x") == EXISTS
    assert hdfs.open(f"{base}/f").value == b"hello world"
    assert hdfs.create(f"{base}/f", b"new", overwrite="True").status == 201
    assert hdfs.open(f"{base}/f").value == b"new"
    assert hdfs.create(f"{base}/d", b"x", overwrite="true") == EXISTS


def test_create_answers_201_with_an_empty_body(hdfs, base):
    answer = hdfs.call("PUT", f"{base}/new", "CREATE", b"x")
    assert (answer.status_code, answer.content) == (201, b"")


def test_create_makes_parents_unless_told_not_to(hdfs, base):
    assert hdfs.create(f"{base}/a/b/c", b"x").status == 201
    assert hdfs.status(f"{base}/a").value["type"] == "DIRECTORY"
    assert hdfs.create(f"{base}/f/x", b"x") == PARENT_IS_A_FILE
    assert hdfs.create(f"{base}/zz/f", b"x", createparent="false") == NOT_FOUND


def test_file_status_has_every_field_hadoop_reads(hdfs, base):
    status = hdfs.status(f"{base}/f").value
    assert (status["type"], status["length"], status["pathSuffix"], status["childrenNum"]) == ("FILE", 11, "", 0)
    expected = {
        "accessTime", "blockSize", "childrenNum", "fileId", "group", "length", "modificationTime", "owner", "pathSuffix",
        "permission", "replication", "storagePolicy", "type",
    }  # fmt: skip
    assert expected <= set(status)
    assert isinstance(status["permission"], str)
    assert status["blockSize"] > 0
    directory = hdfs.status(f"{base}/d").value
    assert (directory["type"], directory["length"], directory["blockSize"]) == ("DIRECTORY", 0, 0)


def test_status_of_what_is_not_there(hdfs, base):
    assert hdfs.status(f"{base}/no") == NOT_FOUND
    assert hdfs.status(f"{base}/f/x") == NOT_FOUND
    assert hdfs.status(f"{base}/f/").value["type"] == "FILE"


def test_liststatus_of_directory_file_and_nothing(hdfs, base):
    assert hdfs.names(base) == ["d/", "f"]
    assert hdfs.names(f"{base}/") == ["d/", "f"]
    assert hdfs.names(f"{base}/f") == [""]
    assert hdfs.names(f"{base}/d") == []
    assert hdfs.outcome("GET", f"{base}/no", "LISTSTATUS") == NOT_FOUND


def test_liststatus_batch_continues_after_a_name(hdfs, base):
    def batch(**params):
        listing = hdfs.outcome("GET", base, "LISTSTATUS_BATCH", **params).value["DirectoryListing"]
        names = [entry["pathSuffix"] for entry in listing["partialListing"]["FileStatuses"]["FileStatus"]]
        return names, listing["remainingEntries"]

    assert batch() == (["d", "f"], 0)
    assert batch(startAfter="d") == (["f"], 0)


def test_open_honours_offset_and_length(hdfs, base):
    assert hdfs.open(f"{base}/f", offset=3, length=4) == (200, b"lo w")
    assert hdfs.open(f"{base}/f", offset=6, length=100) == (200, b"world")
    assert hdfs.open(f"{base}/f", length=0) == (200, b"")
    answer = hdfs.call("GET", f"{base}/f", "OPEN", offset=3, length=4)
    assert (answer.headers["Content-Length"], answer.headers["Content-Type"]) == ("4", "application/octet-stream")


def test_open_out_of_range_is_refused(hdfs, base):
    assert hdfs.open(f"{base}/f", offset=11) == (403, "IOException")
    assert hdfs.open(f"{base}/f", offset=99) == (403, "IOException")
    assert hdfs.open(f"{base}/f", offset=-1) == ILLEGAL
    assert hdfs.open(f"{base}/f", offset="abc") == ILLEGAL


def test_open_of_an_empty_file_is_empty(hdfs, base):
    assert hdfs.create(f"{base}/empty", b"").status == 201
    assert hdfs.open(f"{base}/empty") == (200, b"")


def test_open_of_what_is_no_file(hdfs, base):
    assert hdfs.open(f"{base}/no") == NOT_FOUND
    assert hdfs.open(f"{base}/d").status in (403, 404)


def test_open_ignores_a_range_header(hdfs, base):
    location = hdfs.step("GET", f"{base}/f", "OPEN").headers["Location"]
    answer = hdfs.session.get(location, headers={"Range": "bytes=2-4"}, timeout=10)
    assert (answer.status_code, answer.content) == (200, b"hello world")


def test_noredirect_answers_the_location_as_json(hdfs, base):
    for method, op in (("GET", "OPEN"), ("PUT", "CREATE"), ("POST", "APPEND")):
        answer = hdfs.step(method, f"{base}/f", op, noredirect="true")
        assert answer.status_code == 200
        assert answer.json()["Location"].startswith(hdfs.base)


def test_append_adds_at_the_end(hdfs, base):
    assert hdfs.append(f"{base}/f", b"MORE").status == 200
    assert hdfs.append(f"{base}/f", b"").status == 200
    assert hdfs.open(f"{base}/f").value == b"hello worldMORE"
    assert hdfs.append(f"{base}/no", b"x") == NOT_FOUND


def test_rename_plain_answers_booleans(hdfs, base):
    assert hdfs.rename(f"{base}/f", f"{base}/g") == TRUE
    assert hdfs.rename(f"{base}/f", f"{base}/h") == FALSE  # no source
    assert hdfs.rename(f"{base}/g", f"{base}/d") == TRUE  # into a directory
    assert hdfs.rename(f"{base}/d/g", f"{base}/qq/g") == FALSE  # no destination parent
    hdfs.create(f"{base}/k", b"k")
    assert hdfs.rename(f"{base}/k", f"{base}/d/g") == FALSE  # destination file exists
    assert hdfs.rename(f"{base}/d", f"{base}/d") == FALSE  # directory onto itself
    assert hdfs.rename(f"{base}/d", f"{base}/d/e") == FALSE  # into itself
    assert hdfs.rename("/", f"{base}/d/e") == FALSE
    assert hdfs.rename(f"{base}/d/g", f"{base}/d/g") == TRUE  # file onto itself
    assert hdfs.open(f"{base}/d/g").value == b"hello world"


def test_rename_with_options_answers_exceptions(hdfs, base):
    hdfs.create(f"{base}/k", b"k")
    assert hdfs.rename(f"{base}/k", f"{base}/f", renameoptions="NONE") == EXISTS
    assert hdfs.rename(f"{base}/k", f"{base}/f", renameoptions="OVERWRITE") == (200, b"")
    assert hdfs.open(f"{base}/f").value == b"k"
    assert hdfs.rename(f"{base}/k", f"{base}/x", renameoptions="NONE") == NOT_FOUND


def test_rename_of_a_directory_moves_all_of_it(hdfs, base):
    for name in ("a", "deep/b", "deep/er/c"):
        hdfs.create(f"{base}/from/{name}", name.encode())
    hdfs.mkdirs(f"{base}/from/empty")
    assert hdfs.rename(f"{base}/from", f"{base}/to") == TRUE
    assert hdfs.status(f"{base}/from") == NOT_FOUND
    assert hdfs.names(f"{base}/to") == ["a", "deep/", "empty/"]
    assert hdfs.open(f"{base}/to/deep/er/c").value == b"deep/er/c"


def test_rename_with_a_bad_destination_is_refused(hdfs, base):
    assert hdfs.rename(f"{base}/f", "relative/x") == ILLEGAL
    assert hdfs.outcome("PUT", f"{base}/f", "RENAME") == ILLEGAL


def test_rename_between_mounts_does_not_happen(hdfs, base, place):
    other = "/scratch" if place.bucket != "scratch" else "/local"
    answer = hdfs.rename(f"{base}/f", f"{other}/moved-{place.directory}")
    assert answer == FALSE or answer.status == 403
    assert hdfs.open(f"{base}/f").value == b"hello world"


def test_delete_answers_booleans_and_guards_full_directories(hdfs, base):
    hdfs.create(f"{base}/full/x", b"x")
    assert hdfs.delete(f"{base}/full") == (403, "PathIsNotEmptyDirectoryException")
    assert hdfs.delete(f"{base}/full", recursive=True) == TRUE
    assert hdfs.delete(f"{base}/no") == FALSE
    assert hdfs.delete("/", recursive=True) == FALSE
    assert hdfs.delete(f"{base}/d") == TRUE
    assert hdfs.delete(f"{base}/f") == TRUE
    assert hdfs.names(base) == []


def test_a_directory_outlives_its_last_child(hdfs, base):
    hdfs.create(f"{base}/lasting/only", b"x")
    assert hdfs.delete(f"{base}/lasting/only") == TRUE
    assert hdfs.status(f"{base}/lasting").value["type"] == "DIRECTORY"


def test_summaries_count_what_is_below(hdfs, base):
    summary = hdfs.outcome("GET", base, "GETCONTENTSUMMARY").value["ContentSummary"]
    assert (summary["directoryCount"], summary["fileCount"], summary["length"]) == (2, 1, 11)
    quota = hdfs.outcome("GET", base, "GETQUOTAUSAGE").value["QuotaUsage"]
    assert (quota["fileAndDirectoryCount"], quota["quota"]) == (3, -1)


def test_attribute_calls_succeed_and_show(hdfs, base):
    path = f"{base}/f"
    assert hdfs.outcome("PUT", path, "SETPERMISSION", permission="600") == (200, b"")
    assert hdfs.outcome("PUT", path, "SETTIMES", modificationtime="1000") == (200, b"")
    assert hdfs.outcome("PUT", path, "SETOWNER", owner="root", group="root") == (200, b"")
    assert hdfs.outcome("PUT", path, "SETREPLICATION", replication="2") == TRUE
    assert hdfs.outcome("PUT", f"{base}/d", "SETREPLICATION", replication="2") == FALSE
    assert hdfs.outcome("PUT", f"{base}/no", "SETPERMISSION", permission="600") == NOT_FOUND
    status = hdfs.status(path).value
    assert (status["permission"], status["modificationTime"], status["length"]) == ("600", 1000, 11)


def test_constant_answers_have_the_shape_clients_parse(hdfs, base):
    assert hdfs.outcome("GET", "/", "GETHOMEDIRECTORY") == (200, {"Path": "/user/root"})
    assert hdfs.outcome("GET", base, "GETTRASHROOT").value["Path"].endswith("/.Trash")
    assert hdfs.outcome("GET", "/", "GETSERVERDEFAULTS").value["FsServerDefaults"]["encryptDataTransfer"] is False
    assert hdfs.outcome("GET", "/", "GETDELEGATIONTOKEN").value == {"Token": None}
    assert hdfs.outcome("GET", base, "GETACLSTATUS").value["AclStatus"]["entries"] == []
    assert hdfs.outcome("GET", f"{base}/f", "CHECKACCESS", fsaction="r--").status == 200
    assert hdfs.outcome("GET", f"{base}/f", "GETFILECHECKSUM").status >= 400
    for op in ("GETFILEBLOCKLOCATIONS", "GET_BLOCK_LOCATIONS"):
        assert hdfs.outcome("GET", f"{base}/f", op).status == 200


def test_operations_nobody_offers_are_refused_by_name(hdfs, base):
    answer = hdfs.step("GET", base, "NOSUCHOP")
    assert answer.status_code == 400
    assert answer.json()["RemoteException"]["message"].startswith('Invalid value for webhdfs parameter "op"')
    assert hdfs.outcome("POST", "/", "MKDIRS") == ILLEGAL
    assert hdfs.outcome("PUT", base, "CREATESNAPSHOT").status == 400
    answer = hdfs.session.get(hdfs.url(base), timeout=10)
    assert (answer.status_code, answer.json()["RemoteException"]["exception"]) == (400, "UnsupportedOperationException")


def test_case_duplicates_and_unknown_parameters_are_tolerated(hdfs: WebHdfs, base):
    url = f"{hdfs.url(base)}?op=liststatus&user.name=root&user.name=root&nonsense=1"
    assert hdfs.session.get(url, timeout=10).status_code == 200
