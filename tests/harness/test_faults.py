"""The fault proxy itself: it changes nothing unasked, and each fault does what its name says."""

import http.client
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from harness.faults import (
    Corrupt,
    CutRequest,
    CutResponse,
    Deaf,
    FaultProxy,
    Hang,
    Latency,
    LoseResponse,
    Shorten,
    Stall,
    Status,
    Trickle,
)
from harness.wait import wait_for

BODY = bytes(range(256)) * 4000
LOST = (http.client.HTTPException, OSError)


class Upstream(BaseHTTPRequestHandler):
    """Keeps what it was sent and answers with it, in the framing that the path asks for."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def read_chunked(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def serve(self) -> None:
        if self.path == "/early":
            self.send_response(413)
            self.send_header("Content-Length", "0")
            self.end_headers()
            self.close_connection = True
            return
        is_chunked = self.headers.get("Transfer-Encoding") == "chunked"
        body = self.read_chunked() if is_chunked else self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.kept.append((self.command, self.path, self.headers["Host"], body))
        if len(body) != int(self.headers.get("Content-Length") or len(body)):
            return
        self.send_response(307 if self.path == "/elsewhere" else 200)
        if self.path == "/elsewhere":
            self.send_header("Location", f"http://{self.server.other}/there?a=b")
        answer = body or BODY
        if self.path == "/chunked":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for piece in (answer[:10], answer[10:]):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
            return
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = serve

    def log_message(self, *arguments) -> None:
        """Quiet."""


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Upstream)
        self.kept = []

    def handle_error(self, *arguments) -> None:
        """Cut connections are what the tests are about."""


@pytest.fixture
def upstream():
    servers = [Server() for _ in range(2)]
    for server in servers:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    servers[0].other = f"127.0.0.1:{servers[1].server_address[1]}"
    servers[0].second = servers[1]
    yield servers[0]
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def proxy(upstream):
    proxy = FaultProxy(f"http://127.0.0.1:{upstream.server_address[1]}")
    yield proxy
    proxy.stop()


@pytest.fixture
def client(proxy):
    connection = connect(proxy)
    yield connection
    connection.close()


def connect(proxy, timeout=10):
    return http.client.HTTPConnection(urlsplit(proxy.endpoint).netloc, timeout=timeout)


def ask(client, method="GET", path="/o", body=None, **options):
    client.request(method, path, body=body, **options)
    answer = client.getresponse()
    return answer.status, answer.read()


def test_bodies_heads_and_the_host_pass_unchanged_on_one_connection(client, proxy, upstream):
    assert ask(client) == (200, BODY)
    assert ask(client, "HEAD") == (200, b"")
    assert ask(client, "PUT", body=b"x" * 700_001) == (200, b"x" * 700_001)
    assert ask(client, "GET", "/chunked") == (200, BODY)
    assert ask(client, "PUT", "/chunked", iter([b"ab", b"c" * 100_000]), encode_chunked=True) == (200, b"ab" + b"c" * 100_000)
    assert {host for _, _, host, _ in upstream.kept} == {urlsplit(proxy.endpoint).netloc}
    assert [(seen.method, seen.status, seen.fault) for seen in proxy.seen][:2] == [("GET", 200, ""), ("HEAD", 200, "")]
    assert len(proxy.front.connections) == 1


def test_an_interim_continue_comes_before_the_body_is_sent(proxy, upstream):
    with socket.create_connection((proxy.front.netloc.split(":")[0], proxy.front.port), timeout=10) as peer:
        peer.sendall(b"PUT /o HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        assert peer.recv(1000).startswith(b"HTTP/1.1 100")
        peer.sendall(b"four")
        assert peer.recv(1000).startswith(b"HTTP/1.1 200")
    assert upstream.kept[0][3] == b"four"


def test_an_answer_before_the_end_of_the_request_is_passed_on(proxy):
    with socket.create_connection(("127.0.0.1", proxy.front.port), timeout=10) as peer:
        peer.sendall(b"PUT /early HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 10_000)
        assert peer.recv(1000).startswith(b"HTTP/1.1 413")


def test_a_redirect_to_another_port_goes_through_another_door_under_the_same_rules(client, proxy, upstream):
    client.request("GET", "/elsewhere")
    answer = client.getresponse()
    answer.read()
    location = urlsplit(answer.headers["Location"])
    assert location.netloc not in (upstream.other, urlsplit(proxy.endpoint).netloc)
    second = http.client.HTTPConnection(location.netloc, timeout=10)
    assert ask(second, "GET", f"{location.path}?{location.query}") == (200, BODY)
    with proxy.fault(Status(503), path="there"):
        assert ask(second, "GET", "/there")[0] == 503
    second.close()
    assert [path for _, path, _, _ in upstream.second.kept] == ["/there?a=b"]


def test_a_rule_chooses_by_method_path_count_and_order(client, proxy):
    rule = proxy.add(Status(503, retry_after_s=7), method="GET|HEAD", path="^/a b", times=2, skip=1)
    paths = ["/a%20b", "/a%20b", "/other", "/a%20b", "/a%20b"]
    assert [ask(client, "GET", path)[0] for path in paths] == [200, 503, 200, 503, 200]
    assert ask(client, "PUT", "/a%20b", b"x")[0] == 200
    assert rule.hits == 2
    assert [seen.fault for seen in proxy.seen] == ["", "Status", "", "Status", "", ""]
    proxy.add(Status(429), where=lambda seen: "if-match" in seen.headers)
    assert ask(client, headers={"If-Match": "x"})[0] == 429


def test_a_probability_is_repeated_with_its_seed(client, proxy):
    def run():
        proxy.choose.seed(5)
        with proxy.fault(Status(503), probability=0.5):
            return [ask(client)[0] for _ in range(20)]

    outcomes = run()
    assert set(outcomes) == {200, 503}
    assert run() == outcomes


def test_a_refused_write_never_reaches_the_store_and_keeps_the_connection(client, proxy, upstream):
    with proxy.fault(Status(503)):
        assert ask(client, "PUT", body=BODY)[0] == 503
    assert ask(client, "PUT", body=b"second") == (200, b"second")
    assert [body for *_, body in upstream.kept] == [b"second"]


def test_latency_delays_the_request(client, proxy):
    ask(client)
    with proxy.fault(Latency(0.2)):
        started = time.monotonic()
        assert ask(client) == (200, BODY)
        assert 0.2 <= time.monotonic() - started < 1


@pytest.mark.parametrize("path", ["/o", "/chunked"])
@pytest.mark.parametrize("after", [0, 1, 100_000])
def test_a_cut_response_ends_after_exactly_its_bytes(client, proxy, path, after):
    with proxy.fault(CutResponse(after)):
        client.request("GET", path)
        with pytest.raises(http.client.IncompleteRead) as cut:
            client.getresponse().read()
    assert len(cut.value.partial) == after or path == "/chunked"


def test_a_cut_request_gives_the_store_exactly_its_bytes_and_the_client_nothing(client, proxy, upstream):
    with proxy.fault(CutRequest(1000)), pytest.raises(LOST):
        ask(client, "PUT", body=BODY)
    wait_for(lambda: upstream.kept, 5, "the store to see the end")
    assert upstream.kept[0][3] == BODY[:1000]


@pytest.mark.parametrize("hang", [False, True])
def test_a_lost_response_was_a_request_that_arrived(proxy, upstream, hang):
    client = connect(proxy, timeout=1)
    with proxy.fault(LoseResponse(hang)), pytest.raises(LOST):
        ask(client, "PUT", body=b"arrived")
    assert upstream.kept[0][3] == b"arrived"
    client.close()


@pytest.mark.parametrize("path", ["/o", "/chunked"])
def test_one_bit_of_one_byte_is_flipped(client, proxy, upstream, path):
    with proxy.fault(Corrupt(at=300_000)):
        status, body = ask(client, "GET", path)
    different = [at for at, (is_, was) in enumerate(zip(body, BODY, strict=True)) if is_ != was]
    assert (status, different) == (200, [300_000])
    with proxy.fault(Corrupt(at=1, of_request=True)):
        ask(client, "PUT", body=b"aaaa")
    assert upstream.kept[-1][3] == b"a`aa"


def test_a_shortened_request_is_whole_to_the_store_without_its_end(client, proxy, upstream):
    with proxy.fault(Shorten(by=3)):
        assert ask(client, "PUT", body=BODY) == (200, BODY[:-3])
    assert upstream.kept[-1][3] == BODY[:-3]


def test_a_deaf_store_hears_neither_header_nor_parameter(client, proxy, upstream):
    rule = proxy.add(Deaf(headers=("expect-nothing",), parameters=("if",)))
    assert ask(client, "GET", "/o?if=1&b=2", headers={"Expect-Nothing": "x"}) == (200, BODY)
    assert ask(client, "GET", "/o?b=2&if=1") == (200, BODY)
    assert [path for _, path, _, _ in upstream.kept] == ["/o?b=2", "/o?b=2&"]
    assert rule.hits == 2


def test_a_stalled_response_goes_on_when_the_rule_is_removed(client, proxy):
    rule = proxy.add(Stall(after=5000))
    client.request("GET", "/o")
    answer = client.getresponse()
    start = answer.read(5000)
    client.sock.settimeout(0.2)
    with pytest.raises(TimeoutError):
        answer.fp.raw._sock.recv(1)
    client.sock.settimeout(10)
    proxy.remove(rule)
    rest = b""
    while len(rest) < len(BODY) - 5000:
        rest += answer.fp.raw._sock.recv(1 << 20)
    assert start + rest == BODY


def test_a_hung_request_is_let_go_when_its_client_leaves(proxy, upstream):
    client = connect(proxy, timeout=0.3)
    with proxy.fault(Hang()):
        with pytest.raises(TimeoutError):
            ask(client)
        client.close()
        wait_for(lambda: not proxy.front.connections, 5, "the proxy to let go")
    assert upstream.kept == []


def test_a_trickle_is_slow_and_whole(client, proxy):
    with proxy.fault(Trickle(size_bytes=100_000, pause_s=0.05)):
        started = time.monotonic()
        assert ask(client) == (200, BODY)
        assert time.monotonic() - started >= 0.5


def test_refused_connections_and_frozen_ones(proxy):
    client = connect(proxy)
    assert ask(client) == (200, BODY)
    proxy.refuse()
    with pytest.raises(LOST):
        ask(client)
    with pytest.raises(ConnectionRefusedError):
        ask(connect(proxy))
    proxy.accept()
    client = connect(proxy, timeout=0.3)
    assert ask(client) == (200, BODY)
    proxy.freeze()
    with pytest.raises(TimeoutError):
        ask(client)
    fresh = connect(proxy, timeout=0.3)
    with pytest.raises(TimeoutError):
        ask(fresh)
    proxy.thaw()
    assert ask(connect(proxy)) == (200, BODY)


class Source:
    """Answers every request with as many zeros as its path says, as fast as the kernel takes them."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.endpoint = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(peer,), daemon=True).start()

    def serve(self, peer: socket.socket) -> None:
        zeros = bytes(1 << 20)
        with peer:
            while head := peer.recv(65536):
                left = int(head.split(b" ")[1][1:])
                peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % left)
                while left:
                    left -= peer.send(zeros[: min(left, len(zeros))])


@pytest.mark.parametrize("connections", [1, 8])
def test_a_cap_holds_for_all_connections_together(connections):
    source = Source()
    proxy = FaultProxy(source.endpoint)
    rate, each = 200_000_000, 160_000_000 // connections
    proxy.limit(rate)

    def drain(_) -> int:
        client, target, total = connect(proxy), bytearray(1 << 20), 0
        client.request("GET", f"/{each}")
        answer = client.getresponse()
        while count := answer.readinto(target):
            total += count
        client.close()
        return total

    cpu, started = time.process_time(), time.monotonic()
    with ThreadPoolExecutor(connections) as pool:
        assert list(pool.map(drain, range(connections))) == [each] * connections
    took, cpu = time.monotonic() - started, time.process_time() - cpu
    proxy.stop()
    source.listener.close()
    achieved = each * connections / took
    print(f"\ncap of 200 MB/s over {connections} connections: {achieved / 1e6:.1f} MB/s, {cpu / took:.2f} cores with both ends")
    assert 0.9 * rate < achieved < 1.03 * rate
