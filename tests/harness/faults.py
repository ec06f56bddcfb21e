"""A proxy in front of a store whose faults a test puts in and takes out while it runs.

`FaultProxy.before(store)` listens on loopback and passes everything on: keep-alive, HEAD, chunked bodies and 100-continue
as they come, the Host header too (unless `keeps_host` is off), so that signatures made for the proxy's address hold at
the store. `add` puts in a fault for the requests it names; the first rule that matches decides. `latency_s` and `bandwidth` shape the whole link,
`refuse` and `freeze` act on connections. Where a store redirects to another of its ports (HDFS' DataNodes, resumable
uploads), `Location` is rewritten to a door of the same proxy, under the same rules.
"""

import contextlib
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from harness.exchange import Door, Exchange, Fault, Pieces, Seen, drop
from harness.http1 import Head
from harness.shaping import Pacer

ErrorBody = Callable[[int], tuple[dict[str, str], bytes]]


@dataclass(frozen=True)
class Latency(Fault):
    """The request waits, `jitter_s` longer at most."""

    seconds: float
    jitter_s: float = 0

    def on_request(self, exchange: Exchange) -> None:
        time.sleep(self.seconds + exchange.proxy.choose.uniform(0, self.jitter_s))


@dataclass(frozen=True)
class Status(Fault):
    """The store's own words for being busy (503), overrun (429) or broken (500); the store never sees the request."""

    code: int = 503
    retry_after_s: int | None = None

    def on_request(self, exchange: Exchange) -> None:
        exchange.answer(self.code, self.retry_after_s)


@dataclass(frozen=True)
class Hang(Fault):
    """The request goes no further until the rule is removed."""

    def on_request(self, exchange: Exchange) -> None:
        exchange.hold()


@dataclass(frozen=True)
class CutRequest(Fault):
    """Both connections end after this many bytes of the request's body."""

    after: int = 0

    def request_pieces(self, exchange: Exchange, pieces: Pieces) -> Pieces:
        return at(self.after, pieces, drop)


@dataclass(frozen=True)
class LoseResponse(Fault):
    """The store does what it was asked; the answer never arrives. `hang` keeps the client waiting for it."""

    hang: bool = False

    def on_response(self, exchange: Exchange) -> None:
        if self.hang:
            exchange.hold()
        drop()


@dataclass(frozen=True)
class CutResponse(Fault):
    """The connection ends after this many bytes of the response's body."""

    after: int = 0

    def response_pieces(self, exchange: Exchange, pieces: Pieces) -> Pieces:
        return at(self.after, pieces, drop)


@dataclass(frozen=True)
class Stall(Fault):
    """After this many bytes of the response's body nothing comes until the rule is removed."""

    after: int = 0

    def response_pieces(self, exchange: Exchange, pieces: Pieces) -> Pieces:
        return at(self.after, pieces, exchange.hold)


@dataclass(frozen=True)
class Trickle(Fault):
    """The response's body comes `size_bytes` at a time, with a pause after each."""

    size_bytes: int
    pause_s: float

    def response_pieces(self, exchange: Exchange, pieces: Pieces) -> Pieces:
        for piece in pieces:
            for start in range(0, len(piece), self.size_bytes):
                yield piece[start : start + self.size_bytes]
                exchange.pause(self.pause_s)


@dataclass(frozen=True)
class Corrupt(Fault):
    """One bit of one byte of the body is flipped on the way."""

    at: int = 0
    of_request: bool = False

    def request_pieces(self, exchange: Exchange, pieces: Pieces) -> Pieces:
        return self._flip(pieces) if self.of_request else pieces

    def response_pieces(self, exchange: Exchange, pieces: Pieces) -> Pieces:
        return pieces if self.of_request else self._flip(pieces)

    def _flip(self, pieces: Pieces) -> Pieces:
        passed = 0
        for piece in pieces:
            if passed <= self.at < passed + len(piece):
                piece[self.at - passed] ^= 0x01
            passed += len(piece)
            yield piece


@dataclass(frozen=True)
class Deaf(Fault):
    """The store never hears of these request headers and query parameters, as one that does not know them."""

    headers: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()

    def on_request(self, exchange: Exchange) -> None:
        head = exchange.head
        head.fields = [(name, value) for name, value in head.fields if name.lower() not in self.headers]
        for parameter in self.parameters:
            head.first = re.sub(rf"(?<=[?&]){parameter}=[^& ]*&?", "", head.first)


@dataclass(frozen=True)
class Shorten(Fault):
    """The store gets a body without its last bytes, and takes it for whole. For bodies of known length."""

    by: int = 1

    def on_request(self, exchange: Exchange) -> None:
        exchange.head.replace("content-length", str(max(0, (exchange.framing.length or 0) - self.by)))

    def request_pieces(self, exchange: Exchange, pieces: Pieces) -> Pieces:
        left = max(0, (exchange.framing.length or 0) - self.by)
        for piece in pieces:
            yield piece[:left]
            left = max(0, left - len(piece))


def at(offset: int, pieces: Pieces, act: Callable[[], None]) -> Pieces:
    """Passes `pieces` on and calls `act` once, after `offset` bytes or after all of a shorter body."""
    left = offset
    for piece in pieces:
        if left is not None and len(piece) >= left:
            yield piece[:left]
            act()
            piece, left = piece[left:], None
        elif left is not None:
            left -= len(piece)
        yield piece
    if left is not None:
        act()


@dataclass
class Rule:
    """A fault with the requests it is for: of those that match, `skip` pass, then `times` of them (or all) meet it."""

    fault: Fault
    matches: Callable[[Seen], bool]
    times: int | None
    skip: int
    probability: float
    hits: int = 0
    released: threading.Event = field(default_factory=threading.Event)

    def takes(self, seen: Seen, choose: random.Random) -> bool:
        if (self.times is not None and self.hits >= self.times) or not self.matches(seen):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        if choose.random() >= self.probability:
            return False
        self.hits += 1
        return True


class FaultProxy:
    """Listens on `endpoint`, knows what it has `seen`, and does to it what its rules say."""

    def __init__(self, store: str, error: ErrorBody | None = None, seed: int = 0, keeps_host: bool = True) -> None:
        self.error = error or plain_error
        self.keeps_host = keeps_host
        self.seen: list[Seen] = []
        self.rules: list[Rule] = []
        self.choose = random.Random(seed)
        self.latency_s = 0.0
        self.up: Pacer | None = None
        self.down: Pacer | None = None
        self.flowing = threading.Event()
        self.flowing.set()
        self.lock = threading.Lock()
        self.doors: dict[str, Door] = {}
        parts = urlsplit(store)
        self.front = self.door(parts.netloc)
        self.endpoint = f"http://{self.front.netloc}{parts.path}"

    @staticmethod
    def before(store, seed: int = 0) -> "FaultProxy":
        """In front of a store of the registry, with its words for errors."""
        return FaultProxy(store.endpoint, store.error, seed, store.signs_host)

    def door(self, upstream: str) -> Door:
        """The listener that leads to `upstream`, made when it is first asked for."""
        with self.lock:
            if upstream not in self.doors:
                self.doors[upstream] = Door(self, upstream)
            return self.doors[upstream]

    def add(
        self, fault: Fault, method: str | None = None, path: str | None = None, where: Callable[[Seen], bool] | None = None,
        times: int | None = None, skip: int = 0, probability: float = 1.0,
    ) -> Rule:  # fmt: skip
        """`method` and `path` are regular expressions (the whole method; anywhere in the decoded target, query included)."""

        def matches(seen: Seen) -> bool:
            is_named = re.fullmatch(method or ".*", seen.method) and re.search(path or "", unquote(seen.path))
            return bool(is_named) and (where is None or where(seen))

        rule = Rule(fault, matches, times, skip, probability)
        with self.lock:
            self.rules.append(rule)
        return rule

    def remove(self, rule: Rule) -> None:
        with self.lock:
            self.rules.remove(rule)
        rule.released.set()

    def clear(self) -> None:
        """Lifts every fault, those of the link too. What was seen stays."""
        for rule in list(self.rules):
            self.remove(rule)
        self.latency_s, self.up, self.down = 0.0, None, None
        self.thaw()
        self.accept()

    @contextlib.contextmanager
    def fault(self, fault: Fault, **which) -> Iterator[Rule]:
        """`add` for the length of a block."""
        rule = self.add(fault, **which)
        try:
            yield rule
        finally:
            self.remove(rule)

    def limit(self, bytes_per_s: float, latency_s: float = 0.0) -> None:
        """The link: a rate for all connections together, each direction its own, and a delay before each answer."""
        self.up, self.down, self.latency_s = Pacer(bytes_per_s), Pacer(bytes_per_s), latency_s

    def refuse(self) -> None:
        """Ends every connection and refuses new ones."""
        for door in self.doors.values():
            door.close()

    def accept(self) -> None:
        for door in self.doors.values():
            door.open()

    def freeze(self) -> None:
        """Connections are taken and nothing moves on any of them."""
        self.flowing.clear()

    def thaw(self) -> None:
        self.flowing.set()

    def note(self, head: Head) -> tuple[Seen, Rule | None]:
        seen = Seen.of(head)
        with self.lock:
            rule = next((rule for rule in self.rules if rule.takes(seen, self.choose)), None)
            seen.fault = type(rule.fault).__name__ if rule else ""
            self.seen.append(seen)
        return seen, rule

    def redirect(self, head: Head) -> None:
        """Leads a `Location` on another of the store's ports through a door of this proxy."""
        parts = urlsplit(head.value("location") or "")
        ours = {door.netloc for door in list(self.doors.values())}
        if parts.scheme == "http" and parts.netloc not in ours:
            head.replace("location", parts._replace(netloc=self.door(parts.netloc).netloc).geturl())

    def gets(self, key: str) -> list[Seen]:
        return [seen for seen in list(self.seen) if seen.method == "GET" and urlsplit(seen.path).path.endswith(f"/{key}")]

    def stop(self) -> None:
        self.clear()
        self.refuse()


def plain_error(status: int) -> tuple[dict[str, str], bytes]:
    return {"Content-Type": "text/plain"}, f"fault: {status}".encode()
