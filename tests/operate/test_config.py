"""mounts.yaml: the shipped sample runs as it is; a bad file shows all its problems at once, each with its line."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from harness.tool import tool
from harness.wait import free_port

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "mounts.yaml"

BAD = """\
gateway:
  listners:
    s3: { listen: 127.0.0.1:9000 }
  cache:
    memory: { size: lots }
  access:
    - name: owner
      s3: { access_key: k, secret_key: "${env:FOREBAY_NO_SUCH_SECRET}" }
      grants: [ { prefix: relative, access: write } ]
    - name: other
      grants: [ { prefix: /, access: everything } ]
mounts:
  /Bad_Bucket!: { store: memory }
  /disk: { store: fs, options: { rooot: ./x } }
  /tape: { store: tape }
  /file: { store: s3, options: { bucket: b, secret_access_key: "${file:/no/such/secret}" } }
"""
PROBLEMS = {
    2: ["listners", "listeners"],
    5: ["lots"],
    8: ["FOREBAY_NO_SUCH_SECRET"],
    9: ["relative"],
    11: ["everything", "write"],
    13: ["Bad_Bucket!"],
    14: ["rooot", "root"],
    15: ["tape", "memory"],
    16: ["/no/such/secret"],
}


def check(path: Path, **environment: str) -> subprocess.CompletedProcess:
    argv = [str(tool("forebay")), "check", "--config", str(path)]
    return subprocess.run(argv, capture_output=True, text=True, cwd=path.parent, env=os.environ | environment, timeout=60)


@pytest.fixture
def written(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "mounts.yaml"
        path.write_text(text)
        return path

    return write


def test_every_problem_is_shown_at_once_with_its_line_and_a_hint(written):
    done = check(written(BAD))
    shown = done.stdout + done.stderr
    assert done.returncode != 0
    for line, words in PROBLEMS.items():
        about = [text for text in shown.splitlines() if re.search(rf"mounts\.yaml:{line}\b", text)]
        assert about, f"nothing about line {line} in\n{shown}"
        block = shown[shown.index(about[0]) :]
        for word in words:
            assert word in block, f"line {line} does not say {word!r}\n{shown}"


def test_a_path_mounted_twice_is_refused(written):
    text = "mounts:\n  /a-bucket: { store: memory }\n  /a-bucket: { store: memory }\n"
    done = check(written(text))
    assert done.returncode != 0
    assert re.search(r"mounts\.yaml:3\b", done.stdout + done.stderr)


def test_a_file_that_is_no_yaml_says_where(written):
    done = check(written("mounts:\n  /a: [unclosed\n"))
    assert done.returncode != 0
    assert "mounts.yaml:" in done.stdout + done.stderr


def test_a_missing_file_is_named(tmp_path):
    done = check(tmp_path / "nowhere.yaml")
    assert done.returncode != 0
    assert "nowhere.yaml" in done.stderr


@pytest.mark.parametrize("listener", ["webhdfs", "admin"])
def test_a_listener_open_to_the_world_needs_a_token_or_tls(written, listener):
    text = (
        f"gateway:\n  listeners:\n    {listener}: {{ listen: 0.0.0.0:{free_port()} }}\n"
        "  access:\n    - name: all\n      webhdfs: { users: ['*'] }\n      grants: [ { prefix: /, access: write } ]\n"
        "mounts:\n  /scratch: { store: memory }\n"
    )
    done = check(written(text))
    assert done.returncode != 0
    assert re.search(r"mounts\.yaml:3\b", done.stdout + done.stderr), done.stdout + done.stderr


def test_the_shipped_sample_is_valid_and_shows_every_section():
    done = check(SAMPLE)
    assert done.returncode == 0, done.stdout + done.stderr
    text = SAMPLE.read_text()
    for word in ("listeners", "access", "cache", "limits", "mounts", "read_only", "revalidate", "${env:", "${file:", "tls"):
        assert word in text, f"the sample does not show {word}"


def test_every_commented_option_of_the_sample_is_known(written):
    """Options in comments must not rot: with all of them taken in, only values of this machine may be missing."""
    done = check(written(re.sub(r"(?m)^(\s*)# opt ", r"\1", SAMPLE.read_text())))
    problems = [line for line in (done.stdout + done.stderr).splitlines() if re.search(r"mounts\.yaml:\d", line)]
    assert problems
    missing = r"/etc/forebay/|FOREBAY_\w+|AWS_\w+|is not set"
    assert [line for line in problems if not re.search(missing, line)] == []
