"""The Rust gate: format, lints, tests, documentation, dependency policy. The same here and in CI."""

import sys

from runner.execute import Context, cargo_tests, step
from runner.outcome import Outcome


def lint(context: Context) -> Outcome:
    outcome = step(context, "cargo fmt --check", ["cargo", "fmt", "--all", "--check"])
    clippy = ["cargo", "clippy", "--quiet", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]
    outcome.add(step(context, "cargo clippy -D warnings", clippy))
    ruff = [sys.executable, "-m", "ruff"]
    outcome.add(step(context, "ruff check", [*ruff, "check", "--quiet", "--config", ".config/ruff.toml", "tests"]))
    outcome.add(step(context, "ruff format --check", [*ruff, "format", "--check", "--config", ".config/ruff.toml", "tests"]))
    return outcome


def unit(context: Context) -> Outcome:
    return cargo_tests(context, ["cargo", "test", "--locked", "--workspace", "--no-fail-fast"])


def interleavings(context: Context) -> Outcome:
    crates = ["-p", "forebay-actors", "-p", "forebay-core"]
    return cargo_tests(context, ["cargo", "test", "--locked", *crates, "--features", "shuttle", "--lib", "model::"])


def docs(context: Context) -> Outcome:
    argv = ["cargo", "doc", "--quiet", "--locked", "--workspace", "--no-deps", "--document-private-items"]
    return step(context, "cargo doc -D warnings", argv, RUSTDOCFLAGS="-Dwarnings")


def dependencies(context: Context) -> Outcome:
    print("  advisories are not checked: cargo-deny's database is not in a package registry", flush=True)
    deny = [str(context.tools["cargo-deny"]), "--workspace", "--config", ".config/deny.toml", "check"]
    outcome = step(context, "cargo deny (licenses, bans, sources)", [*deny, "bans", "licenses", "sources"])
    outcome.add(step(context, "cargo machete", [str(context.tools["cargo-machete"]), "--with-metadata"]))
    return outcome
