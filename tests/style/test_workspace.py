"""The workspace keeps every rule of `rules`."""

import json
import subprocess
from pathlib import Path

import pytest
from style import rules
from style.rust_source import load

ROOT = Path(__file__).resolve().parents[2]
SOURCES = load(ROOT, ("gateway", "actors", "frontends"))


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_sources_keep_the_rule(rule):
    assert SOURCES
    problems = [problem for source in SOURCES for problem in rule(source)]
    assert not problems, "\n" + "\n".join(problems)


def test_crates_form_the_documented_graph():
    argv = ["cargo", "metadata", "--no-deps", "--offline", "--format-version", "1"]
    metadata = json.loads(subprocess.run(argv, cwd=ROOT, capture_output=True, check=True).stdout)
    assert {package["name"] for package in metadata["packages"]} == rules.OURS
    assert not list(rules.crates(metadata))


def test_the_visible_root_is_exactly_the_documented_one():
    argv = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    present = [path for path in listed if (ROOT / path).exists()]
    assert not list(rules.visible_root(present))


def test_tests_do_not_outgrow_the_same_file_limit():
    own = [path for path in (ROOT / "tests").rglob("*.py") if path.read_text().count("\n") > rules.MAX_FILE_LINES]
    assert not own
