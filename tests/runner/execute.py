"""Runs one command of a part in its own process group, inside what is left of the part's budget."""

import os
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as xml
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from runner.outcome import Outcome
from runner.tools import ROOT, TARGET, TESTS

CARGO_RESULT = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored", re.M)
CARGO_FAILED = re.compile(r"^test (\S+) \.\.\. FAILED$", re.M)


@dataclass(frozen=True)
class Context:
    """What a part may use: located tools by name, and the moment its budget ends (monotonic seconds)."""

    tools: dict[str, Path]
    deadline: float
    ci: bool

    def environment(self) -> dict[str, str]:
        """Tool paths travel to pytest as FOREBAY_TOOL_<NAME>."""
        names = {f"FOREBAY_TOOL_{name.upper().replace('-', '_')}": str(path) for name, path in self.tools.items()}
        return os.environ | names | {"CARGO_TERM_COLOR": "never", "FOREBAY_TARGET": str(TARGET)}


def command(context: Context, argv: list[str], keep: bool = False, **env: str) -> tuple[int, str]:
    """Runs `argv` and returns (exit code, output if `keep`); past the deadline the whole group is ended."""
    output = subprocess.PIPE if keep else None
    child = subprocess.Popen(
        argv, cwd=ROOT, env=context.environment() | env, text=True, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT if keep else None,
    )  # fmt: skip
    try:
        text, _ = child.communicate(timeout=max(1.0, context.deadline - time.monotonic()))
        return child.returncode, text or ""
    except subprocess.TimeoutExpired:
        return _end(child), "over the budget"
    except KeyboardInterrupt:
        _end(child)
        raise


def _end(child: subprocess.Popen) -> int:
    """SIGTERM lets pytest's fixtures stop their servers; SIGKILL follows when that takes too long."""
    for signum, patience_s in ((signal.SIGTERM, 20), (signal.SIGKILL, 10)):
        try:
            os.killpg(child.pid, signum)
            child.communicate(timeout=patience_s)
            break
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    return 124


def step(context: Context, label: str, argv: list[str], **env: str) -> Outcome:
    """One gate step: it passes or fails as a whole, and shows its output when it fails."""
    started = time.monotonic()
    code, output = command(context, argv, keep=True, **env)
    print(f"  {label}: {'ok' if code == 0 else 'FAILED'} ({time.monotonic() - started:.0f} s)", flush=True)
    if code == 0:
        return Outcome(passed=1)
    print("\n".join(output.splitlines()[-60:]), flush=True)
    return Outcome.failure(f"{label} (exit {code})")


def cargo_tests(context: Context, argv: list[str]) -> Outcome:
    """`cargo test`, each Rust test counted."""
    code, output = command(context, argv, keep=True)
    outcome = Outcome()
    for passed, failed, ignored in CARGO_RESULT.findall(output):
        outcome.passed += int(passed)
        outcome.failed += int(failed)
        outcome.skips += ["an #[ignore]d Rust test"] * int(ignored)
    outcome.failures += CARGO_FAILED.findall(output)
    if code != 0:
        print("\n".join(output.splitlines()[-120:]), flush=True)
        if outcome.failed == 0:
            outcome.add(Outcome.failure(f"cargo test (exit {code})"))
    return outcome


def pytest(context: Context, *paths: str, options: tuple[str, ...] = ()) -> Outcome:
    """Runs pytest on files under tests/ and counts from its JUnit report, so that a crash cannot look like a pass."""
    with TemporaryDirectory() as directory:
        report = Path(directory) / "report.xml"
        argv = [sys.executable, "-m", "pytest", "-q", "-c", str(TESTS / "pytest.ini"), "--rootdir", str(TESTS)]
        argv += [f"--junitxml={report}", *options, *(str(TESTS / path) for path in paths)]
        code, note = command(context, argv)
        if not report.exists():
            return Outcome.failure(f"pytest {' '.join(paths)}: {note or 'no report'} (exit {code})")
        outcome = _junit(report)
    if code not in (0, 1) or outcome.passed + outcome.failed + len(outcome.skips) == 0:
        outcome.add(Outcome.failure(f"pytest {' '.join(paths)}: {note or 'ended early or found no test'} (exit {code})"))
    return outcome


def _junit(report: Path) -> Outcome:
    outcome = Outcome()
    for case in xml.parse(report).getroot().iter("testcase"):
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            outcome.failed += 1
            outcome.failures.append(f"{case.get('classname')}::{case.get('name')}")
        elif skipped is not None:
            outcome.skips.append((skipped.get("message") or "").removeprefix("Skipped: "))
        else:
            outcome.passed += 1
    return outcome
