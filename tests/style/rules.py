"""What STYLE and the architecture forbid, one function per rule. A rule yields `path:line: what is wrong`."""

import re
from collections.abc import Iterator
from pathlib import Path

from style.rust_source import RustSource

MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 80
MAX_MAIN_LINES = 40
JUNK_DRAWERS = {"util", "utils", "helper", "helpers", "common", "misc", "manager", "data", "info", "shared", "stuff"}
VISIBLE_ROOT = {
    "Cargo.toml", "Cargo.lock", "gateway", "actors", "frontends", "mounts.yaml", "dashboards", "tests", "README.md",
}  # fmt: skip

NARRATION = re.compile(
    r"^(now,? (we|let)|first,|next,|then,? we|finally,|let's|here we|we (now|then|first)\b|loop (over|through)|iterate"
    r"|increment|initiali[sz]e the|step \d|create (a|the) new|return the result|call the)",
    re.I,
)
BANNER = re.compile(r"^[=\-*#~─━/]{4,}")
UNTRACKED_WORK = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
DEAD_CODE = re.compile(r"^(let|if|for|while|return|pub|fn|use|match|self\.)\b.*[;{}]$")

# Name → the paths that may say it. The binary's command line talks to a running gateway through reqwest.
CONFINED = {
    r"\bopendal\b": ("actors/src/backend",),
    r"\breqwest\b": ("actors/src/backend", "gateway/server/src"),
    r"\benv::vars?(_os)?\b": ("gateway/server/src/config",),
    r"\bSystemTime::now\b": ("gateway/core/src/clock",),
}
OURS = {"forebay-core", "forebay-actors", "forebay-s3", "forebay-webhdfs", "forebay-fuse", "forebay"}
CORE_ONLY = {"forebay-actors", "forebay-s3", "forebay-webhdfs", "forebay-fuse"}
CRATES_WITH = {"opendal": {"forebay-actors"}, "reqwest": {"forebay-actors", "forebay"}}


def size(source: RustSource) -> Iterator[str]:
    lines = source.text.count("\n")
    if lines > MAX_FILE_LINES:
        yield f"{source.path}: {lines} lines, more than {MAX_FILE_LINES}"
    if source.path.name == "main.rs" and lines > MAX_MAIN_LINES:
        yield f"{source.path}: {lines} lines in main.rs, more than {MAX_MAIN_LINES}"
    for name, line, length in source.functions():
        if length > MAX_FUNCTION_LINES:
            yield f"{source.path}:{line}: {name} has {length} lines, more than {MAX_FUNCTION_LINES}"


def names(source: RustSource) -> Iterator[str]:
    if source.path.name == "mod.rs":
        yield f"{source.path}: write foo.rs beside foo/, not mod.rs"
    if source.path.stem in JUNK_DRAWERS:
        yield f"{source.path}: a junk-drawer name; name what it holds"
    for match in re.finditer(r"\bmod\s+(\w+)\s*\{", source.code):
        if match[1] in JUNK_DRAWERS:
            yield f"{source.path}:{source.line_of(match.start())}: module {match[1]} is a junk-drawer name"


def comments(source: RustSource) -> Iterator[str]:
    previous = -1
    for comment in source.comments:
        starts_a_comment = comment.line != previous + 1
        previous = comment.line
        where = f"{source.path}:{comment.line}"
        if starts_a_comment and NARRATION.search(comment.text):
            yield f"{where}: narrates the next line: {comment.text}"
        if BANNER.search(comment.text):
            yield f"{where}: a banner"
        if UNTRACKED_WORK.search(comment.text):
            yield f"{where}: unfinished work belongs in the issue tracker: {comment.text}"
        if DEAD_CODE.search(comment.text):
            yield f"{where}: commented-out code: {comment.text}"


def panics(source: RustSource) -> Iterator[str]:
    code = source.production()
    for match in re.finditer(r"\.unwrap\(", code):
        yield f"{source.path}:{source.line_of(match.start())}: unwrap outside tests; an expect states the invariant"


def confinement(source: RustSource) -> Iterator[str]:
    code = source.production()
    for pattern, allowed in CONFINED.items():
        if str(source.path).startswith(allowed):
            continue
        for match in re.finditer(pattern, code):
            where = f"{source.path}:{source.line_of(match.start())}"
            yield f"{where}: {match[0]} is allowed only under {', '.join(allowed)}"


def shape(source: RustSource) -> Iterator[str]:
    if not source.is_test and not source.text.lstrip().startswith("//!"):
        yield f"{source.path}: no module documentation (//!) at the top"
    if source.path.name == "lib.rs":
        for match in re.finditer(
            r"^(?:pub(?:\([a-z]+\))? )?(?:async )?(fn|struct|enum|impl|trait|static)\b", source.production(), re.M
        ):
            yield f"{source.path}:{source.line_of(match.start())}: lib.rs holds docs, modules and re-exports only"


RULES = (size, names, comments, panics, confinement, shape)


def crates(metadata: dict) -> Iterator[str]:
    """The crate DAG, from `cargo metadata --no-deps`: frontends and actors see core only, core sees none of ours."""
    for package in metadata["packages"]:
        name = package["name"]
        used = {dependency["name"] for dependency in package["dependencies"]}
        if name not in OURS:
            yield f"{name}: an unknown crate; the design has {', '.join(sorted(OURS))}"
        allowed = OURS if name == "forebay" else {"forebay-core"} if name in CORE_ONLY else set()
        for other in sorted((used & OURS) - allowed):
            yield f"{name} depends on {other}"
        for library, owners in CRATES_WITH.items():
            if library in used and name not in owners:
                yield f"{name} depends on {library}, which only {', '.join(sorted(owners))} may"


def visible_root(paths: list[str]) -> Iterator[str]:
    """`paths`: every file of the checkout that git does not ignore."""
    seen = {Path(path).parts[0] for path in paths}
    visible = {name for name in seen if not name.startswith(".")}
    for name in sorted(visible - VISIBLE_ROOT):
        yield f"{name} does not belong in the root"
    for name in sorted(VISIBLE_ROOT - visible):
        yield f"{name} is missing from the root"
