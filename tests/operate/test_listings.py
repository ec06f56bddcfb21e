"""Listings out of the metadata store: what is seen of changes at the store, and what outlives a restart and a kill."""

import pytest
from harness.gateway import Gateway, settings
from harness.wait import wait_for

KEYS = ["d/a", "d/b/c", "e"]


@pytest.fixture
def listed(tmp_path, store):
    """A gateway that trusts listings of one mount for ever and of another for 5 s, and the bucket behind both."""
    bucket = store.bucket("listed")
    for key in KEYS:
        store.put(bucket, key, key.encode())
    mounts = {
        "/never": store.mount(bucket, cache={"revalidate": "never"}),
        "/soon": store.mount(bucket, cache={"revalidate": "5s"}),
    }
    gateway = Gateway(tmp_path, settings(tmp_path, mounts, fuse=False)).start()
    yield gateway, bucket
    gateway.stop()


def keys(gateway, mount: str) -> list[str]:
    return [item["Key"] for item in gateway.s3().list_objects_v2(Bucket=mount).get("Contents", [])]


def test_changes_behind_the_gateway_are_listed_when_the_mount_says_so(listed, store):
    gateway, bucket = listed
    assert keys(gateway, "never") == keys(gateway, "soon") == KEYS
    store.put(bucket, "new", b"new")
    store.delete(bucket, "e")
    wait_for(lambda: keys(gateway, "soon") == ["d/a", "d/b/c", "new"], 15, "the change is listed")
    assert keys(gateway, "never") == KEYS


def test_listings_are_answered_after_a_restart_while_the_store_is_gone(listed, store):
    gateway, _ = listed
    gateway.s3().put_object(Bucket="never", Key="d/new", Body=b"new")
    expected = ["d/a", "d/b/c", "d/new", "e"]
    assert keys(gateway, "never") == expected
    gateway.stop()
    gateway.start()
    store.stop()
    try:
        assert keys(gateway, "never") == expected
        page = gateway.s3().list_objects_v2(Bucket="never", Prefix="d/", Delimiter="/")
        assert [item["Key"] for item in page["Contents"]] == ["d/a", "d/new"]
        assert [group["Prefix"] for group in page["CommonPrefixes"]] == ["d/b/"]
        assert page["Contents"][0]["Size"] == 3
    finally:
        store.start()


def test_what_was_put_right_before_a_kill_is_listed_after_it(listed, store):
    gateway, _ = listed
    assert keys(gateway, "never") == KEYS
    gateway.stop()
    gateway.start()
    gateway.s3().put_object(Bucket="never", Key="d/last", Body=b"last")
    gateway.kill()
    gateway.start()
    assert keys(gateway, "never") == ["d/a", "d/b/c", "d/last", "e"]
