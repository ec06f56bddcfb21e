"""HTTP/1.1 as far as a proxy needs it: heads as text, bodies as pieces of one buffer, nothing changed that can be passed on."""

import select
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

BUFFER_BYTES = 1 << 18
GONE = select.POLLRDHUP | select.POLLHUP | select.POLLERR


class Closed(Exception):
    """The connection ended where more was due."""


@dataclass
class Head:
    """A request or status line and the fields below it, in order and in their own spelling."""

    first: str
    fields: list[tuple[str, str]]

    def value(self, name: str) -> str | None:
        return next((value for found, value in self.fields if found.lower() == name), None)

    def says(self, name: str, token: str) -> bool:
        return token in (self.value(name) or "").lower()

    def replace(self, name: str, value: str) -> None:
        self.fields = [(found, value if found.lower() == name else old) for found, old in self.fields]

    def encode(self) -> bytes:
        lines = [self.first, *(f"{name}: {value}" for name, value in self.fields)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    @property
    def status(self) -> int:
        """Of a status line."""
        return int(self.first.split(" ", 2)[1])


@dataclass(frozen=True)
class Framing:
    """How a body ends: after `length` bytes, with its last chunk, or (neither) with the connection."""

    length: int | None = None
    is_chunked: bool = False

    @property
    def is_until_close(self) -> bool:
        return self.length is None and not self.is_chunked

    @staticmethod
    def of_request(head: Head) -> "Framing":
        if head.says("transfer-encoding", "chunked"):
            return Framing(is_chunked=True)
        return Framing(length=int(head.value("content-length") or 0))

    @staticmethod
    def of_response(head: Head, method: str) -> "Framing":
        if method == "HEAD" or head.status in (204, 304) or head.status < 200:
            return Framing(length=0)
        if head.says("transfer-encoding", "chunked"):
            return Framing(is_chunked=True)
        length = head.value("content-length")
        return Framing(length=None if length is None else int(length))


class Wire:
    """One end of a TCP connection with what was received and not yet taken."""

    def __init__(self, peer: socket.socket) -> None:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.peer = peer
        self.buffer = bytearray(BUFFER_BYTES)
        self.view = memoryview(self.buffer)
        self.start = self.end = 0
        self.trailers: list[bytes] = []

    def head(self, meanwhile: "Meanwhile | None" = None) -> Head:
        """The next head; `Closed` when the peer ended the connection instead."""
        first = self._line(meanwhile)
        fields = []
        while line := self._line():
            name, _, value = line.decode("latin-1").partition(":")
            fields.append((name, value.strip()))
        return Head(first.decode("latin-1"), fields)

    def pieces(self, framing: Framing, meanwhile: "Meanwhile | None" = None) -> Iterator[memoryview]:
        """The payload; each piece may be changed, and is valid until the next is asked for."""
        if framing.is_chunked:
            while size := int(self._line(meanwhile).split(b";")[0], 16):
                yield from self._counted(size, meanwhile)
                self._line(meanwhile)
            while line := self._line(meanwhile):
                self.trailers.append(line)
        elif framing.length is not None:
            yield from self._counted(framing.length, meanwhile)
        else:
            try:
                while True:
                    if self.start == self.end:
                        self._fill(meanwhile)
                    yield from self._counted(self.end - self.start, meanwhile)
            except Closed:
                return

    def send(self, data: bytes | memoryview) -> None:
        self.peer.sendall(data)

    def send_piece(self, framing: Framing, piece: memoryview) -> None:
        if framing.is_chunked:
            self.peer.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
        else:
            self.peer.sendall(piece)

    def send_end(self, framing: Framing, trailers: list[bytes]) -> None:
        if framing.is_chunked:
            self.peer.sendall(b"0\r\n" + b"".join(line + b"\r\n" for line in trailers) + b"\r\n")

    def is_gone(self) -> bool:
        """Whether the peer has ended its side; looks without waiting."""
        poll = select.poll()
        poll.register(self.peer, GONE)
        return bool(poll.poll(0))

    def finish(self) -> None:
        """Ends our side and takes what still comes for a moment: a close with unread bytes would tear up the answer."""
        self.peer.shutdown(socket.SHUT_WR)
        self.peer.settimeout(1)
        while self.peer.recv_into(self.view):
            continue

    def wake(self) -> None:
        """Ends the connection under the thread that waits for it."""
        try:
            self.peer.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    def _line(self, meanwhile: "Meanwhile | None" = None) -> bytes:
        while (at := self.buffer.find(b"\r\n", self.start, self.end)) < 0:
            self._fill(meanwhile)
        line = bytes(self.view[self.start : at])
        self.start = at + 2
        return line

    def _counted(self, left: int, meanwhile: "Meanwhile | None") -> Iterator[memoryview]:
        while left:
            if self.start == self.end:
                self._fill(meanwhile)
            size = min(left, self.end - self.start)
            piece = self.view[self.start : self.start + size]
            self.start += size
            left -= size
            yield piece

    def _fill(self, meanwhile: "Meanwhile | None") -> None:
        if self.start == self.end:
            self.start = self.end = 0
        elif self.end == len(self.buffer):
            if self.start == 0:
                raise ValueError(f"a line of more than {BUFFER_BYTES} bytes")
            kept = self.end - self.start
            self.buffer[:kept] = self.buffer[self.start : self.end]
            self.start, self.end = 0, kept
        if meanwhile:
            meanwhile.until_readable(self)
        count = self.peer.recv_into(self.view[self.end :])
        if count == 0:
            raise Closed
        self.end += count


@dataclass(frozen=True)
class Meanwhile:
    """What to do when the other wire has something to say while one waits; `False` from `handle`: look no more."""

    other: Wire
    handle: Callable[[], bool]

    def until_readable(self, wire: Wire) -> None:
        poll = select.poll()
        poll.register(wire.peer, select.POLLIN)
        poll.register(self.other.peer, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if wire.peer.fileno() in ready:
                return
            if not self.handle():
                poll.unregister(self.other.peer)
