"""One child process with its output in a file."""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from harness.wait import wait_for


class Process:
    """Owns a child: whoever starts it stops it. Only its own pid is ever signalled."""

    def __init__(self, name: str, argv: list, log: Path, **kwargs) -> None:
        self.name = name
        self.log = log
        self.is_told = False
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self.child = subprocess.Popen(
                [str(word) for word in argv], stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, **kwargs
            )  # fmt: skip

    @property
    def pid(self) -> int:
        return self.child.pid

    def ready(self, condition: Callable[[], object], deadline_s: float) -> None:
        def alive_and_ready() -> object:
            if self.child.poll() is not None:
                raise RuntimeError(f"{self.name} ended with {self.child.returncode}:\n{self.tail()}")
            return condition()

        try:
            wait_for(alive_and_ready, deadline_s, f"{self.name} ready")
        except BaseException:
            self.kill()
            raise

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def pause(self) -> None:
        """SIGSTOP; returns when every thread has stopped."""
        self.child.send_signal(signal.SIGSTOP)
        wait_for(lambda: set(self._states()) == {"T"}, 5, f"{self.name} to stop")

    def resume(self) -> None:
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGCONT)

    def _states(self) -> list[str]:
        threads = Path(f"/proc/{self.pid}/task").iterdir()
        return [(thread / "stat").read_text().rpartition(")")[2].split()[0] for thread in threads]

    def terminate(self) -> None:
        """SIGTERM, once: a second one may mean "at once"."""
        if not self.is_told and self.child.poll() is None:
            self.is_told = True
            self.child.send_signal(signal.SIGTERM)

    def stop(self, deadline_s: float = 20) -> int:
        """SIGTERM, then the exit code; SIGKILL and an error when it does not end in time."""
        self.terminate()
        try:
            return self.child.wait(deadline_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.name} did not end within {deadline_s} s of SIGTERM:\n{self.tail()}") from None

    def kill(self) -> None:
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait(20)

    def cpu_seconds(self) -> float:
        """User and system time of all threads so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_kib(self) -> dict[str, int]:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        pairs = (line.split(":") for line in lines if line.startswith(("VmRSS", "RssAnon")))
        return {name: int(value.split()[0]) for name, value in pairs}
