"""A disk whose faults a test switches while it runs: `with FaultDisk(directory) as disk: … disk.hang() … disk.ok()`.

A process of its own answers the kernel's FUSE requests, one after the other, from memory; nothing is cached in the
kernel, so each system call meets the fault. It keeps what is visible and what was fsynced apart: `lose` is the power
failure after a `kill -9`. While it hangs it takes no requests, so that whoever waits can be killed.
"""

import contextlib
import subprocess
import sys
from pathlib import Path

from harness.tool import has_fuse, machine


class FaultDisk:
    """Mounted below `directory`, at `path`; ends with the test, whatever mode it is in."""

    def __init__(self, directory: Path) -> None:
        machine(has_fuse(), "no /dev/fuse, or not root")
        self.path = directory
        directory.mkdir(parents=True, exist_ok=True)
        argv = [sys.executable, "-m", "harness.fault_disk_server", str(directory)]
        # A session of its own: what interrupts the tests leaves it to them to end it.
        self.child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        self._answered()

    def __enter__(self) -> "FaultDisk":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def ok(self) -> None:
        """Ends every fault; what waited goes on."""
        self._tell("ok")

    def fail(self) -> None:
        """EIO for everything."""
        self._tell("fail")

    def fail_reads(self) -> None:
        """EIO for what reads contents of files and directories."""
        self._tell("fail-reads")

    def fail_writes(self) -> None:
        """EIO for everything that changes anything."""
        self._tell("fail-writes")

    def full(self) -> None:
        """ENOSPC for what needs space; none is free."""
        self._tell("full")

    def read_only(self) -> None:
        """EROFS for everything that changes anything, through open descriptors too."""
        self._tell("ro")

    def hang(self) -> None:
        """No answers any more until the next mode."""
        self._tell("hang")

    def lose(self) -> None:
        """Drops all that was not fsynced: bytes of files, and names whose directory was not. Nobody may use it meanwhile."""
        self._tell("lose")

    def stop(self) -> None:
        """Unmounts. Who still waits for an answer gets an error."""
        subprocess.run(["umount", "-l", str(self.path)], check=False, capture_output=True)
        with contextlib.suppress(OSError):
            self.child.stdin.close()
        self.child.wait(20)
        self.child.stdout.close()

    def _tell(self, order: str) -> None:
        self.child.stdin.write(f"{order}\n".encode())
        self.child.stdin.flush()
        self._answered()

    def _answered(self) -> None:
        answer = self.child.stdout.readline()
        if answer != b"done\n":
            raise RuntimeError(f"the fault disk ended with {self.child.wait(20)}, answered {answer!r}")
