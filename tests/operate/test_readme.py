"""The README's five-minute tour, run as printed against the sample configuration on other ports."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from harness.gateway import Gateway
from harness.tool import has_fuse
from harness.wait import free_port

ROOT = Path(__file__).resolve().parents[2]


def tour() -> str:
    section = (ROOT / "README.md").read_text().split("### Five minutes", 1)[1]
    return re.search(r"```sh\n(.*?)```", section, re.S)[1]


@pytest.mark.skipif(not has_fuse(), reason="machine: no usable /dev/fuse")
def test_the_five_minute_tour_works_as_printed(tmp_path):
    sample = yaml.safe_load((ROOT / "mounts.yaml").read_text())
    script = tour()
    for name, port in (("s3", 9000), ("webhdfs", 9870), ("admin", 9080)):
        address = f"127.0.0.1:{free_port()}"
        assert f"127.0.0.1:{port}" in script
        script = script.replace(f"127.0.0.1:{port}", address)
        sample["gateway"]["listeners"][name]["listen"] = address
    (tmp_path / "mnt").mkdir()
    sample["gateway"]["listeners"]["fuse"]["mountpoint"] = str(tmp_path / "mnt")
    gateway = Gateway(tmp_path, sample).start()
    try:
        binaries = tmp_path / "bin"
        binaries.mkdir()
        aws = binaries / "aws"
        aws.write_text(f'#!/bin/sh\nexec {sys.executable} -m awscli "$@"\n')
        aws.chmod(0o755)
        script = script.replace("target/release/forebay", str(gateway.binary))
        environment = os.environ | {
            "PATH": f"{binaries}:{os.environ['PATH']}", "FOREBAY_ADMIN": gateway.url("admin"),
        }  # fmt: skip
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
        )  # fmt: skip
    finally:
        gateway.stop()
    assert done.returncode == 0, done.stderr + done.stdout
    assert done.stdout.count("hello\n") == 3  # WebHDFS, the mount, S3 after the append
    assert "hello\nmore\n" in done.stdout
    assert "forebay_requests_total{" in done.stdout
    assert "hello.txt" in done.stdout.splitlines()[-1]
