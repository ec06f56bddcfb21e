"""A slow link to a store, or several, in a process of its own: what shaping costs is nobody's under measurement."""

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

from harness.faults import FaultProxy

DEADLINE_S = 20


class Links:
    """`count` proxies before one store; `endpoints` in order, each to be frozen and thawed by its number."""

    def __init__(self, upstream: str, count: int = 1, bytes_per_s: float | None = None, latency_s: float = 0) -> None:
        context = multiprocessing.get_context("spawn")
        self.control, theirs = context.Pipe()
        arguments = (theirs, upstream, count, bytes_per_s, latency_s)
        self.process = context.Process(target=serve, args=arguments, daemon=True)
        self.process.start()
        self.endpoints: list[str] = self._answer()

    @contextmanager
    def frozen(self, number: int) -> Iterator[None]:
        """Connections of one link are taken and nothing moves on any of them."""
        self._ask("freeze", number)
        try:
            yield
        finally:
            self._ask("thaw", number)

    def _ask(self, what: str, number: int) -> None:
        self.control.send((what, number))
        self._answer()

    def _answer(self):
        assert self.control.poll(DEADLINE_S), "the link does not answer"
        return self.control.recv()

    def stop(self) -> None:
        self.process.terminate()
        self.process.join(DEADLINE_S)


def serve(control: Connection, upstream: str, count: int, bytes_per_s: float | None, latency_s: float) -> None:
    proxies = [FaultProxy(upstream) for _ in range(count)]
    for proxy in proxies:
        proxy.latency_s = latency_s
        if bytes_per_s:
            proxy.limit(bytes_per_s, latency_s)
    control.send([proxy.endpoint for proxy in proxies])
    while True:
        what, number = control.recv()
        getattr(proxies[number], what)()
        control.send(None)
