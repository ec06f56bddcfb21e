"""`forebay check --thorough` against every store: nothing is broken, nothing is left, and README's matrix is what was seen."""

import json
import os
import subprocess
import time

import pytest
from harness.gateway import Gateway, settings
from harness.stores import STORES
from stores import matrix

LARGE_DEADLINE_S = 1500
DEADLINE_S = 400
SIGNATURE = "refuses the signature of names with `!` or `'`, which OpenDAL does not escape"
# Azurite, one thread over one file, stops answering under 10,000 names, and with these HDFS, moto and fake-gcs-server
# take minutes: 1,100 for them.
DEPTHS = dict.fromkeys(("azblob", "hdfs", "moto", "gcs"), "--write")
OBJECTS = {"own/a b": b"spaces", "own/deep/er": b"x" * 100_000, "own/z": b""}

# Store → check → why it is known to fail. A check that holds after all fails the test, too.
KNOWN: dict[str, dict[str, str]] = {
    "versitygw": {
        "order": SIGNATURE,
        "start-after": SIGNATURE,
        "names": SIGNATURE,
        "rename-tree": "refuses to copy a directory's marker (DirectoryObjectContainsData)",
    },
}

# The same for what depends on who comes first: either outcome passes, and the matrix says broken.
RACE = "now and then more than one writer wins: conditions are not checked atomically"
RACY: dict[str, dict[str, str]] = {"versitygw": {"race-create": RACE, "race-replace": RACE}}

measured: matrix.Facts = {}
order: list[str] = []


def check(gateway: Gateway, *options: str) -> subprocess.CompletedProcess:
    argv = [str(gateway.binary), "check", "--json", "--config", str(gateway.config_path), *options]
    deadline = LARGE_DEADLINE_S if "--large" in options else DEADLINE_S
    return subprocess.run(argv, capture_output=True, text=True, env=os.environ, cwd=gateway.directory, timeout=deadline)


def configured(directory, mounts: dict) -> Gateway:
    gateway = Gateway(directory, settings(directory, mounts, fuse=False))
    done = check(gateway)
    if "must be one of" in done.stderr:
        pytest.skip("this gateway does not mount such a store")
    return gateway


@pytest.mark.parametrize("name", STORES)
def test_store_keeps_what_the_gateway_promises(name, stores, tmp_path, request):
    store = stores[name]
    bucket = store.bucket("conformance")
    gateway = configured(tmp_path, {"/checked": store.mount(bucket)})
    objects = {} if name == "memory" else OBJECTS
    for key, data in objects.items():
        store.put(bucket, key, data)
    began = time.monotonic()
    done = check(gateway, "--large" if request.config.getoption("--large", default=False) else DEPTHS.get(name, "--thorough"))
    assert done.stdout, done.stderr
    [finding] = json.loads(done.stdout)
    outcomes = [result["outcome"] for result in finding["checks"]]
    counts = ", ".join(f"{outcomes.count(word)} {word}" for word in dict.fromkeys(outcomes))
    print(f"{name}: {time.monotonic() - began:.1f} s: {finding['message']}; {counts}")
    broken = {result["name"]: result["seen"] for result in finding["checks"] if result["outcome"] == "broken"}
    known, racy = KNOWN.get(name, {}), RACY.get(name, {})
    assert broken.keys() - racy.keys() == known.keys(), json.dumps(broken, indent=1, ensure_ascii=False)
    assert (done.returncode, finding["ok"]) == ((1, False) if broken else (0, True)), finding["message"]
    assert len(outcomes) > 30
    assert store.is_read_only or outcomes.count("holds") > 15
    if objects:
        # The gateway's own directory and trial objects: hidden in every listing, removed by age.
        keys = [key for key in store.keys(bucket) if not key.startswith((".forebay/", ".forebay-probe-"))]
        assert {key: store.get(bucket, key) for key in keys} == objects
    for result in finding["checks"]:
        result["outcome"] = "broken" if result["name"] in racy else result["outcome"]
    # What a race showed once, README keeps.
    checks = [result for result in finding["checks"] if result["name"] not in racy or result["outcome"] == "broken"]
    measured.update(matrix.facts(name, checks, known | racy))
    # A read-only store has no promise about what a check leaves, so the longest list is the whole one.
    order[:] = max(order, [result["promise"] for result in finding["checks"]], key=len)


def test_readme_shows_what_was_measured(request):
    """Runs last; `./tests/run matrix` writes."""
    if not measured:
        pytest.skip("machine: no store was measured in this run")
    if request.config.getoption("--write-matrix", default=False):
        matrix.write(measured, order, list(STORES))
    documented = matrix.documented()
    assert {fact: documented.get(fact) for fact in measured} == measured


def test_a_plain_check_writes_nothing_and_a_read_only_mount_is_never_written_to(stores, tmp_path):
    store = stores["fs"]
    bucket = store.bucket("untouched")
    store.put(bucket, "f", b"content")
    mounts = {"/plain": store.mount(bucket), "/frozen": store.mount(bucket, read_only=True)}
    gateway = configured(tmp_path, mounts)
    before = sorted((path, path.stat().st_ctime_ns) for path in (store.data / bucket).rglob("*"))
    assert check(gateway).returncode == 0
    assert check(gateway, "--write", "/frozen").returncode == 0
    assert sorted((path, path.stat().st_ctime_ns) for path in (store.data / bucket).rglob("*")) == before


def test_a_check_beside_a_running_gateway_disturbs_nobody(stores, tmp_path):
    store = stores["fs"]
    gateway = configured(tmp_path, {"/shared": store.mount(store.bucket("shared"))}).start()
    try:
        assert check(gateway).returncode == 0
        refused = check(gateway, "--write")
        [finding] = json.loads(refused.stdout)
        assert (refused.returncode, finding["ok"]) == (1, False)
        assert gateway.s3().list_objects_v2(Bucket="shared")["KeyCount"] == 0
    finally:
        gateway.stop()


def test_paths_choose_mounts_and_unknown_ones_are_named(stores, tmp_path):
    store = stores["fs"]
    gateway = configured(tmp_path, {path: store.mount(store.bucket("chosen")) for path in ("/one", "/two")})
    assert [finding["path"] for finding in json.loads(check(gateway, "/two").stdout)] == ["/two"]
    unknown = check(gateway, "/three")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "/three" in unknown.stderr
    assert "/one, /two" in unknown.stderr


def test_the_matrix_reads_back_as_it_was_written():
    known = {
        ("names are kept", "s3"): ("no", 'refused: "\\u{1}" "a¦b"'), ("names are kept", "fs"): ("yes", ""),
        ("renames", "s3"): ("no", "copies: many"), ("renames", "gcs"): ("no", "copies: many"),
    }  # fmt: skip
    assert matrix.parse(matrix.render(known, ["names are kept", "renames"], ["s3", "fs", "gcs"])) == (
        known,
        ["names are kept", "renames"],
    )
