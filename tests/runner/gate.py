"""The Rust gate: format, lints, tests, documentation, dependency policy. The same here and in CI."""

from runner.execute import Context, cargo_tests, step
from runner.outcome import Outcome


def lint(context: Context) -> Outcome:
    outcome = step(context, "cargo fmt --check", ["cargo", "fmt", "--all", "--check"])
    clippy = ["cargo", "clippy", "--quiet", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]
    outcome.add(step(context, "cargo clippy -D warnings", clippy))
    return outcome


def unit(context: Context) -> Outcome:
    return cargo_tests(context, ["cargo", "test", "--locked", "--workspace", "--no-fail-fast"])


def docs(context: Context) -> Outcome:
    argv = ["cargo", "doc", "--quiet", "--locked", "--workspace", "--no-deps", "--document-private-items"]
    return step(context, "cargo doc -D warnings", argv, RUSTDOCFLAGS="-Dwarnings")


def dependencies(context: Context) -> Outcome:
    print("  advisories are not checked: cargo-deny's database is not in a package registry", flush=True)
    deny = [str(context.tools["cargo-deny"]), "--offline", "check", "--config", ".config/deny.toml"]
    outcome = step(context, "cargo deny (licenses, bans, sources)", [*deny, "bans", "licenses", "sources"])
    outcome.add(step(context, "cargo machete", [str(context.tools["cargo-machete"]), "--with-metadata"]))
    return outcome
