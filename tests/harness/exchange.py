"""One request and its response through a fault proxy, and the connections that carry them."""

import contextlib
import select
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.http1 import GONE, Closed, Framing, Head, Meanwhile, Wire
from harness.shaping import Pacer

if TYPE_CHECKING:
    from harness.faults import FaultProxy, Rule

Pieces = Iterator[memoryview]
HOLD_POLL_MS = 20


class Dropped(Exception):
    """The connection is to end here."""


def drop() -> None:
    raise Dropped


class EarlyAnswer(Exception):
    """The store answered before it had the whole request."""


@dataclass
class Seen:
    """One request that came by. `status` is what the client was sent, None when it was sent no head."""

    method: str
    path: str
    headers: dict[str, str] = field(repr=False)
    fault: str = ""
    status: int | None = None

    @property
    def range(self) -> str | None:
        return self.headers.get("range")

    @staticmethod
    def of(head: Head) -> "Seen":
        method, target, _ = head.first.split(" ", 2)
        return Seen(method, target, {name.lower(): value for name, value in head.fields})


class Fault:
    """What happens to one request. Each hook passes on unless a fault says otherwise."""

    def on_request(self, exchange: "Exchange") -> None:
        """After the request's head, before the store hears of it."""

    def request_pieces(self, exchange: "Exchange", pieces: Pieces) -> Pieces:
        return pieces

    def on_response(self, exchange: "Exchange") -> None:
        """After the store's answer began, before the client hears of it."""

    def response_pieces(self, exchange: "Exchange", pieces: Pieces) -> Pieces:
        return pieces


class Exchange:
    """One request on its way: who asks, which rule holds, and what a fault may do to it."""

    def __init__(self, proxy: "FaultProxy", client: Wire, head: Head, rule: "Rule | None", seen: Seen) -> None:
        self.proxy, self.client, self.head, self.rule, self.seen = proxy, client, head, rule, seen
        self.fault = rule.fault if rule else Fault()
        self.framing = Framing.of_request(head)
        self.is_answered = False

    def answer(self, status: int, retry_after_s: int | None) -> None:
        """Answers in the store's place, once the request's body has been read as the store would read it."""
        if not self.head.says("expect", "100-continue"):
            for _ in self.client.pieces(self.framing):
                self.proxy.flowing.wait()
        headers, body = self.proxy.error(status)
        fields = [*headers.items(), ("Content-Length", str(len(body)))]
        if retry_after_s is not None:
            fields.append(("Retry-After", str(retry_after_s)))
        self.client.send(Head(f"HTTP/1.1 {status} Fault", fields).encode())
        if self.seen.method != "HEAD":
            self.client.send(body)
        self.seen.status = status
        self.is_answered = True
        if self.head.says("expect", "100-continue"):
            drop()

    def hold(self) -> None:
        """Waits for the rule's removal; drops the exchange when the client leaves first."""
        poll = select.poll()
        poll.register(self.client.peer, GONE)
        while not self.rule.released.is_set():
            if poll.poll(HOLD_POLL_MS):
                drop()

    def pause(self, seconds: float) -> None:
        self.rule.released.wait(seconds)


class Connection:
    """A client's connection and its own one to the store, for as many requests as both keep it."""

    def __init__(self, proxy: "FaultProxy", client: Wire, store: Wire, upstream: str) -> None:
        self.proxy, self.client, self.store, self.upstream = proxy, client, store, upstream
        self.early: Head | None = None

    def exchange(self) -> bool:
        """One request and its response; whether another may follow."""
        head = self.client.head(Meanwhile(self.store, self._store_left))
        self.proxy.flowing.wait()
        seen, rule = self.proxy.note(head)
        exchange = Exchange(self.proxy, self.client, head, rule, seen)
        if self.proxy.latency_s:
            time.sleep(self.proxy.latency_s)
        exchange.fault.on_request(exchange)
        if exchange.is_answered:
            return True
        if self.client.is_gone():
            return False
        self.early = None
        if not self.proxy.keeps_host:
            head.replace("host", self.upstream)
        self.store.send(head.encode())
        self._send_request_body(exchange)
        answer = self.early or self._answer()
        exchange.fault.on_response(exchange)
        self.proxy.redirect(answer)
        framing = Framing.of_response(answer, seen.method)
        self.proxy.flowing.wait()
        self.client.send(answer.encode())
        seen.status = answer.status
        pieces = exchange.fault.response_pieces(exchange, self.store.pieces(framing))
        self._pass(pieces, framing, self.store, self.client, self.proxy.down)
        if self.early:
            self.client.finish()
        is_kept = not any(side.says("connection", "close") for side in (head, answer))
        return is_kept and not framing.is_until_close and self.early is None and head.first.endswith("HTTP/1.1")

    def _send_request_body(self, exchange: Exchange) -> None:
        meanwhile = Meanwhile(self.store, self._store_spoke)
        pieces = exchange.fault.request_pieces(exchange, self.client.pieces(exchange.framing, meanwhile))
        with contextlib.suppress(EarlyAnswer):
            self._pass(pieces, exchange.framing, self.client, self.store, self.proxy.up)

    def _pass(self, pieces: Pieces, framing: Framing, source: Wire, target: Wire, pacer: Pacer | None) -> None:
        for piece in pieces:
            step = pacer.slice_bytes if pacer else max(1, len(piece))
            for start in range(0, len(piece), step):
                part = piece[start : start + step]
                self.proxy.flowing.wait()
                if pacer:
                    pacer.take(len(part))
                target.send_piece(framing, part)
        target.send_end(framing, source.trailers)
        source.trailers = []

    def _answer(self) -> Head:
        """The store's final head, with interim ones passed on; ends when the client leaves before it."""
        while True:
            head = self.store.head(Meanwhile(self.client, self._client_left))
            if head.status >= 200:
                return head
            self.client.send(head.encode())

    def _store_spoke(self) -> bool:
        """During the request's body: 100 Continue is passed on, anything else ends the body."""
        head = self.store.head()
        if head.status < 200:
            self.client.send(head.encode())
            return True
        self.early = head
        raise EarlyAnswer

    def _store_left(self) -> bool:
        raise Closed

    def _client_left(self) -> bool:
        """Readable and not gone is only its next request, early."""
        if self.client.is_gone():
            raise Closed
        return False


class Door:
    """One listener, the upstream it leads to, and the connections between them."""

    def __init__(self, proxy: "FaultProxy", upstream: str) -> None:
        self.proxy = proxy
        self.upstream = upstream
        self.connections: set[Connection] = set()
        self.port = 0
        self.listener: socket.socket | None = None
        self.open()

    @property
    def netloc(self) -> str:
        return f"127.0.0.1:{self.port}"

    def open(self) -> None:
        """Also after `close`: on the same port."""
        if self.listener:
            return
        self.listener = socket.create_server(("127.0.0.1", self.port), backlog=1024)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    def close(self) -> None:
        listener, self.listener = self.listener, None
        if listener:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for connection in list(self.connections):
            connection.client.wake()
            connection.store.wake()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        host, _, port = self.upstream.rpartition(":")
        with peer, contextlib.suppress(OSError, Closed, Dropped), socket.create_connection((host, int(port))) as store:
            connection = Connection(self.proxy, Wire(peer), Wire(store), self.upstream)
            try:
                self.connections.add(connection)
                while self.listener and connection.exchange():
                    continue
            finally:
                self.connections.discard(connection)
