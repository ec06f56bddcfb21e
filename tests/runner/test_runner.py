"""The runner's own promises: budgets add up, counts are honest, CI turns curable skips into failures."""

import contextlib
import subprocess
import time

from runner import tools
from runner.execute import Context, cargo_tests, command, pytest
from runner.outcome import Outcome
from runner.parts import CI, CI_LIMIT_S, INSTALL_BUDGET_S, PARTS, tier
from runner.tools import TOOLS


def context(seconds: float = 60) -> Context:
    return Context({}, time.monotonic() + seconds, ci=False)


def test_budgets_of_the_ci_tier_add_up_to_no_more_than_the_limit():
    assert INSTALL_BUDGET_S + sum(part.budget_s for part in tier(CI)) <= CI_LIMIT_S


def test_parts_have_unique_names_and_known_tools():
    assert len({part.name for part in PARTS}) == len(PARTS)
    assert {tool for part in PARTS for tool in part.tools} <= set(TOOLS)


def test_a_command_over_its_budget_is_ended_and_reported():
    started = time.monotonic()
    code, note = command(context(1), ["sleep", "60"])
    assert (code, note) == (124, "over the budget")
    assert time.monotonic() - started < 30


def test_cargo_output_is_counted_per_test():
    text = "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured\ntest a::b ... FAILED\ntest result: FAILED. 3 passed; 1 failed; 0 ignored;"
    outcome = cargo_tests(context(), ["printf", "%s", text])
    assert (outcome.passed, outcome.failed, len(outcome.skips)) == (15, 1, 1)
    assert outcome.failures == ["a::b"]


def test_a_cargo_run_that_does_not_compile_is_a_failure():
    assert cargo_tests(context(), ["false"]).failed == 1


def test_pytest_results_are_counted_from_its_report(tmp_path):
    source = (
        "import pytest\ndef test_a(): pass\ndef test_b(): assert 0\n@pytest.mark.skip(reason='machine: no')\ndef test_c(): pass\n"
    )
    (tmp_path / "test_sample.py").write_text(source)
    outcome = pytest(context(), str(tmp_path))
    assert (outcome.passed, outcome.failed, outcome.skips) == (1, 1, ["machine: no"])


def test_a_pytest_run_that_finds_nothing_is_a_failure(tmp_path):
    assert pytest(context(), str(tmp_path)).failed == 1


def test_ci_fails_a_skip_that_an_install_could_avoid_and_keeps_the_machine_s_own():
    outcome = Outcome(passed=2, skips=["deps needs cargo-deny: no network", "machine: no /dev/fuse"]).strict()
    assert (outcome.passed, outcome.failed, outcome.skips) == (2, 1, ["machine: no /dev/fuse"])


def test_an_interrupted_install_is_not_taken_for_a_good_one(tmp_path, monkeypatch):
    monkeypatch.setattr(tools, "CACHE", tmp_path)

    def interrupted(partial):
        (partial / "half").write_text("x")
        raise tools.Unavailable("network gone")

    with contextlib.suppress(tools.Unavailable):
        tools._once(tmp_path / "tool-1", interrupted)
    assert list(tmp_path.iterdir()) == []
    assert tools._once(tmp_path / "tool-1", lambda partial: (partial / "bin").mkdir()) == tmp_path / "tool-1"
    assert [entry.name for entry in tmp_path.iterdir()] == ["tool-1"]


def test_the_list_names_every_part():
    listed = subprocess.run([str(tools.TESTS / "run"), "--list"], capture_output=True, text=True, check=True).stdout
    assert [line.split()[0] for line in listed.splitlines()] == [part.name for part in PARTS]
