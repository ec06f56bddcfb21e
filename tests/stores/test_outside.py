"""Every store of the registry, seen from outside: what was put is there, through the fault proxy and after a restart too."""

import pytest
import requests
from harness.faults import FaultProxy, Status
from harness.stores import STORES

SERVERS = [name for name in STORES if name not in ("fs", "memory")]
KEYS = ["a b/é+%20", "a/b", "z"]


@pytest.fixture(params=[name for name in STORES if name != "memory"])
def any_store(request, stores):
    return stores[request.param]


@pytest.fixture(params=SERVERS)
def server(request, stores):
    return stores[request.param]


def test_objects_are_put_read_listed_and_deleted(any_store):
    bucket = any_store.bucket("outside")
    for key in KEYS:
        any_store.put(bucket, key, key.encode())
    assert any_store.keys(bucket) == sorted(KEYS)
    assert any_store.get(bucket, "a b/é+%20") == "a b/é+%20".encode()
    any_store.delete(bucket, "a/b")
    assert any_store.get(bucket, "a/b") is None


def test_a_server_that_restarts_or_pauses_keeps_what_it_had(server):
    bucket = server.bucket("restart")
    server.put(bucket, "kept", b"kept")
    server.stop()
    server.start()
    assert server.forgets or server.get(bucket, "kept") == b"kept"
    server.pause()
    with pytest.raises(requests.exceptions.Timeout):
        requests.get(server.endpoint + server.health, timeout=0.3)
    server.resume()
    assert server.forgets or server.get(bucket, "kept") == b"kept"


def test_the_proxy_answers_in_the_store_s_own_words(server):
    proxy = FaultProxy.before(server)
    for status in (429, 500, 503):
        with proxy.fault(Status(status)):
            answer = requests.get(proxy.endpoint, timeout=5)
        assert answer.status_code == status
        assert answer.content == server.error(status)[1]
    assert requests.get(proxy.endpoint + server.health, timeout=5).status_code < 500
    proxy.stop()
