"""Third-party programs the parts need: each pinned, installed once, put in place by one atomic rename.

An interrupted install leaves only a `*.partial.*` directory behind, which is never taken for a good one.
Debian's packages are pinned by the release the machine runs. Nothing is downloaded but from the package
registries that the ordinary clients (go, cargo, pip, apt) use.
"""

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
ROOT = TESTS.parent
CACHE = Path(os.environ.get("FOREBAY_TESTS_CACHE") or Path.home() / ".cache" / "forebay-tests")
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")

MINIO = "v0.0.0-20260212201848-7aac2a2c5b7c"
VERSITYGW = "v1.7.0"
FAKE_GCS_SERVER = "v1.56.1"
AZURITE = "3.35.0"
CARGO_DENY = "0.20.2"
CARGO_MACHETE = "0.9.2"
PJDFSTEST = "0.2.2"
FSX = "0.3.2"
MAVEN_DEPENDENCY = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1"


class Unavailable(Exception):
    """This machine has no way to install the tool; the message is the reason printed with the skip."""


@dataclass(frozen=True)
class Tool:
    """How one program is found or installed; `locate` returns its path and is safe to repeat."""

    name: str
    locate: Callable[[], Path]


def _run(argv: list, **kwargs) -> None:
    """Runs an installer quietly; its output is shown only when it fails."""
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, **kwargs)
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise Unavailable(f"{argv[0]} {argv[1]} failed: {tail}")


def _once(directory: Path, install: Callable[[Path], None]) -> Path:
    """Calls `install` with a private directory and renames it to `directory` when all of it succeeded."""
    if directory.is_dir():
        return directory
    CACHE.mkdir(parents=True, exist_ok=True)
    partial = directory.with_name(f"{directory.name}.partial.{os.getpid()}")
    try:
        partial.mkdir()
        install(partial)
        try:
            partial.rename(directory)
        except OSError:
            if not directory.is_dir():  # otherwise another run was faster, with the same content
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return directory


def _require(command: str, what_for: str) -> str:
    found = shutil.which(command)
    if not found:
        raise Unavailable(f"{command} is not on this machine ({what_for})")
    return found


def _go(name: str, module: str, version: str) -> Tool:
    def install(partial: Path) -> None:
        go = _require("go", f"builds {name}")
        env = os.environ | {"GOBIN": str(partial / "bin"), "CGO_ENABLED": "0"}
        _run([go, "install", "-trimpath", "-ldflags=-s -w", f"{module}@{version}"], env=env)

    return Tool(name, lambda: _once(CACHE / f"{name}-{version}", install) / "bin" / name)


def _cargo(name: str, version: str, *extra: str) -> Tool:
    def install(partial: Path) -> None:
        cargo = _require("cargo", f"builds {name}")
        env = os.environ | {"CARGO_TARGET_DIR": str(partial / "target")}
        argv = [cargo, "install", "--quiet", "--locked", "--root", partial, "--version", version, *extra, name]
        _run(argv, env=env, cwd="/")
        shutil.rmtree(partial / "target", ignore_errors=True)

    return Tool(name, lambda: _once(CACHE / f"{name}-{version}", install) / "bin" / name)


def _npm(name: str, version: str, command: str) -> Tool:
    def install(partial: Path) -> None:
        npm = _require("npm", f"installs {name}")
        _require("node", f"runs {name}")
        _run([npm, "install", "--no-audit", "--no-fund", "--omit=dev", "--prefix", partial, f"{name}@{version}"])

    return Tool(name, lambda: _once(CACHE / f"{name}-{version}", install) / "node_modules" / ".bin" / command)


_apt_updated = False


def _apt(command: str, package: str) -> Tool:
    def locate() -> Path:
        global _apt_updated
        path = os.environ["PATH"] + ":/usr/sbin:/sbin"
        if not shutil.which(command, path=path):
            if os.geteuid() != 0 or not shutil.which("apt-get"):
                raise Unavailable(f"{command} is missing and only root on Debian can install it ({package})")
            env = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
            if not _apt_updated:
                _run(["apt-get", "update", "--quiet"], env=env)
                _apt_updated = True
            _run(["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", "--no-upgrade", package], env=env)
        return Path(_which(command, path))

    return Tool(command, locate)


def _which(command: str, path: str) -> str:
    found = shutil.which(command, path=path)
    if not found:
        raise Unavailable(f"the package that should bring {command} did not")
    return found


def _venv(name: str, requirements: Path) -> Tool:
    """A Python environment apart from the runner's own; used as `python -m`, so that renaming it is safe."""

    def install(partial: Path) -> None:
        _run([sys.executable, "-m", "venv", partial])
        _run([partial / "bin" / "python", "-m", "pip", "install", "--quiet", "-r", requirements])

    def locate() -> Path:
        version = requirements.read_text().split(f"{name}==")[1].splitlines()[0]
        return _once(CACHE / f"{name}-{version}", install) / "bin" / "python"

    return Tool(name, locate)


def _traces() -> Tool:
    """The traces in libcachesim's source distribution; a directory."""
    requirements = TESTS / "requirements-hitratio.txt"
    names = ("cloudPhysicsIO.oracleGeneral.bin", "twitter_cluster52.csv")

    def install(partial: Path) -> None:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "libcachesim"]
        _run([*pip, "--dest", partial, "--requirement", requirements])
        (archive,) = partial.glob("*.tar.gz")
        with tarfile.open(archive) as packed:
            for member in packed:
                if Path(member.name).name in names:
                    (partial / Path(member.name).name).write_bytes(packed.extractfile(member).read())
        archive.unlink()

    def locate() -> Path:
        version = requirements.read_text().split("libcachesim==")[1].split()[0]
        return _once(CACHE / f"traces-{version}", install)

    return Tool("traces", locate)


_MINIO = _go("minio", "github.com/minio/minio", MINIO)
_VERSITYGW = _go("versitygw", "github.com/versity/versitygw/cmd/versitygw", VERSITYGW)


def _hdfs() -> Tool:
    """The jars of a real HDFS from Maven Central, as tests/requirements-hdfs.xml names them; a directory."""
    project = TESTS / "requirements-hdfs.xml"

    def install(partial: Path) -> None:
        maven = _require("mvn", "fetches the jars of HDFS")
        scope = ["-DincludeScope=runtime", f"-DoutputDirectory={partial}"]
        _run([maven, "--batch-mode", "--quiet", "--file", project, f"{MAVEN_DEPENDENCY}:copy-dependencies", *scope])

    def locate() -> Path:
        version = project.read_text().split("<hadoop.version>")[1].split("<")[0]
        return _once(CACHE / f"hdfs-{version}", install)

    return Tool("hdfs", locate)


def _s3_server() -> Tool:
    """A real S3 store: MinIO, versitygw where that does not build, moto (in the runner's environment) without Go."""

    def locate() -> Path:
        for candidate in (_MINIO, _VERSITYGW):
            try:
                return candidate.locate()
            except Unavailable as reason:
                print(f"  {candidate.name}: {reason}", flush=True)
        return Path(sys.executable)

    return Tool("s3-server", locate)


def _present(command: str, what_for: str) -> Tool:
    return Tool(command, lambda: Path(_require(command, what_for)))


def _ours(name: str, built: str, *flags: str, cwd: Path = ROOT) -> Tool:
    """A program of ours. Built by cargo itself, which knows best when there is nothing to do."""

    def locate() -> Path:
        _run(["cargo", "build", "--quiet", "--locked", *flags], cwd=cwd)
        return TARGET / built

    return Tool(name, locate)


TOOLS = {
    tool.name: tool
    for tool in (
        _ours("forebay", "debug/forebay", "-p", "forebay"),
        _ours("forebay-release", "release/forebay", "-p", "forebay", "--release"),
        _ours("replay", "debug/examples/replay", "-p", "forebay-actors", "--example", "replay"),
        _ours(
            "cache-speed",
            "bench-cache/release/cache-speed",
            "--release",
            "--target-dir",
            str(TARGET / "bench-cache"),
            cwd=TESTS / "bench" / "cache",
        ),
        _s3_server(),
        _VERSITYGW,
        _npm("azurite", AZURITE, "azurite-blob"),
        _go("fake-gcs-server", "github.com/fsouza/fake-gcs-server", FAKE_GCS_SERVER),
        _hdfs(),
        _cargo("cargo-deny", CARGO_DENY, "--no-default-features"),
        _cargo("cargo-machete", CARGO_MACHETE),
        _cargo("pjdfstest", PJDFSTEST),
        _cargo("fsx", FSX),
        _apt("prometheus", "prometheus"),
        _apt("promtool", "prometheus"),
        _apt("nginx", "nginx-light"),
        _apt("rclone", "rclone"),
        _apt("wrk", "wrk"),
        _apt("fio", "fio"),
        _apt("getfattr", "attr"),
        _apt("curl", "curl"),
        _apt("openssl", "openssl"),
        _apt("git", "git"),
        _present("java", "Spark runs on it; a JRE 8, 11 or 17"),
        _venv("pyspark", TESTS / "requirements-spark.txt"),
        _venv("libcachesim", TESTS / "requirements-hitratio.txt"),
        _traces(),
    )
}
