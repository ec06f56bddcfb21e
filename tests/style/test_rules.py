"""Each rule catches the bad snippet it is for, and lets the good one beside it pass."""

from pathlib import Path

import pytest
from style import rules
from style.rust_source import RustSource

DOC = "//! Says what the module keeps true.\n"


def problems(rule, text, path="actors/src/mount.rs", is_test=False):
    return list(rule(RustSource(Path(path), text, is_test)))


LONG = "fn long() {\n" + "    step();\n" * 80 + "}\n"

BAD = [
    (rules.size, "x\n" * 601, "actors/src/a.rs"),
    (rules.size, LONG, "actors/src/a.rs"),
    (rules.size, "fn main() {}\n" * 41, "gateway/server/src/main.rs"),
    (rules.names, "", "actors/src/cache/mod.rs"),
    (rules.names, "", "actors/src/utils.rs"),
    (rules.names, "mod helpers { }", "actors/src/a.rs"),
    (rules.comments, "// Loop over the pages\nfor p in pages {}", "actors/src/a.rs"),
    (rules.comments, "// ------------------ reading\n", "actors/src/a.rs"),
    (rules.comments, "// TODO: retry\n", "actors/src/a.rs"),
    (rules.comments, "// let old = read();\n", "actors/src/a.rs"),
    (rules.panics, "fn f() { x.unwrap(); }", "actors/src/a.rs"),
    (rules.panics, "#[cfg(test)]\nmod tests { fn g() { y.unwrap() } }\nfn f() { x.unwrap(); }", "actors/src/a.rs"),
    (rules.confinement, "use opendal::Operator;", "frontends/s3/src/ops.rs"),
    (rules.confinement, "use opendal::Operator;", "actors/src/mount.rs"),
    (rules.confinement, "reqwest::get(u)", "frontends/webhdfs/src/lib.rs"),
    (rules.confinement, 'std::env::var("HOME")', "actors/src/a.rs"),
    (rules.confinement, "env::var_os(x)", "gateway/server/src/run.rs"),
    (rules.confinement, "SystemTime::now()", "gateway/core/src/version.rs"),
    (rules.shape, "fn f() {}", "actors/src/a.rs"),
    (rules.shape, DOC + "mod a;\npub fn f() {}", "actors/src/lib.rs"),
]

GOOD = [
    (rules.size, "x\n" * 600, "actors/src/a.rs"),
    (rules.size, "trait T { fn declared(&self, a: [u8; 4]); }\n" + "x\n" * 90, "actors/src/a.rs"),
    (rules.size, 'fn brace() { say("}"); }\n' + "// }\n" * 90, "actors/src/a.rs"),
    (rules.names, "mod metadata { }", "actors/src/cache.rs"),
    (rules.comments, "// The kernel reopens the backing with the caller's flags, so access is checked here.\n", "a.rs"),
    (rules.comments, "/// Iterate over the pages of one version.\n", "actors/src/a.rs"),
    (rules.comments, "// A pin outlives the read;\n// iterate over a copy, or eviction waits for it.\n", "actors/src/a.rs"),
    (rules.panics, "#[cfg(test)]\nmod tests { fn g() { y.unwrap() } }", "actors/src/a.rs"),
    (rules.panics, 'fn f() { say(".unwrap()"); x.unwrap_or(0) } // .unwrap()', "actors/src/a.rs"),
    (rules.confinement, "use opendal::Operator;", "actors/src/backend/object.rs"),
    (rules.confinement, "// opendal retries\n", "actors/src/mount.rs"),
    (rules.confinement, 'std::env::var("HOME")', "gateway/server/src/config/secret.rs"),
    (rules.confinement, "#[cfg(test)] mod tests { fn t() { SystemTime::now(); } }", "actors/src/a.rs"),
    (rules.confinement, "SystemTime::now()", "gateway/core/src/clock.rs"),
    (rules.shape, DOC + "mod a;\npub use a::B;\n", "actors/src/lib.rs"),
]


@pytest.mark.parametrize("rule, text, path", BAD)
def test_rule_catches_the_bad_snippet(rule, text, path):
    assert problems(rule, text, path)


@pytest.mark.parametrize("rule, text, path", GOOD)
def test_rule_lets_the_good_snippet_pass(rule, text, path):
    assert problems(rule, text, path) == []


def test_a_file_of_tests_may_unwrap():
    assert problems(rules.panics, "fn f() { x.unwrap(); }", "actors/src/cache/tests.rs", is_test=True) == []


def test_raw_strings_chars_and_lifetimes_do_not_derail_the_reader():
    text = "fn f<'a>(x: &'a str) { let c = '{'; let r = r#\"} \" fn g() {\"#; /* { /* } */ */ }\nfn h() {}\n"
    source = RustSource(Path("a.rs"), text)
    assert [(name, lines) for name, _, lines in source.functions()] == [("f", 1), ("h", 1)]


def package(name, *dependencies):
    return {"name": name, "dependencies": [{"name": dependency} for dependency in dependencies]}


@pytest.mark.parametrize(
    "wrong",
    [
        package("forebay-s3", "forebay-core", "forebay-fuse"),
        package("forebay-webhdfs", "forebay-actors"),
        package("forebay-core", "forebay-actors"),
        package("forebay-actors", "forebay-s3"),
        package("forebay-s3", "opendal"),
        package("forebay-fuse", "reqwest"),
        package("forebay-helpers"),
    ],
)
def test_a_dependency_against_the_graph_is_caught(wrong):
    assert list(rules.crates({"packages": [wrong]}))


def test_the_documented_graph_passes():
    right = [
        package("forebay-core", "bytes"),
        package("forebay-actors", "forebay-core", "opendal", "reqwest"),
        package("forebay-s3", "forebay-core", "s3s"),
        package("forebay", "forebay-core", "forebay-actors", "forebay-s3", "reqwest"),
    ]
    assert list(rules.crates({"packages": right})) == []


def test_root_with_a_stray_or_a_missing_entry_is_caught():
    exact = [*rules.VISIBLE_ROOT, ".ci/run", ".gitignore"]
    assert list(rules.visible_root(exact)) == []
    assert list(rules.visible_root([*exact, "notes.md"])) == ["notes.md does not belong in the root"]
    assert list(rules.visible_root([path for path in exact if path != "README.md"]))
