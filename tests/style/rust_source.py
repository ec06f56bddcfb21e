"""A view of a Rust file in which strings and comments cannot be mistaken for code."""

import re
from dataclasses import dataclass, field
from pathlib import Path

TOKEN = re.compile(
    r"""(?P<line>//[^\n]*)
      | (?P<block>/\*)
      | (?P<raw>b?r(?P<hashes>\#*)")
      | (?P<string>b?"(?:\\.|[^"\\])*")
      | (?P<char>b?'(?:\\(?:u\{[^}]*\}|x..|.)|[^'\\\n])')""",
    re.X | re.S,
)
FUNCTION = re.compile(r"\bfn\s+(\w+)")
TEST_MODULE = re.compile(r"#\[cfg\(test\)\]\s*(?:#\[[^\]]*\]\s*)*(?:pub(?:\([a-z]+\))?\s+)?mod\s+\w+\s*\{")


@dataclass(frozen=True)
class Comment:
    line: int
    text: str


@dataclass
class RustSource:
    """`code`: the text, same length and lines, with strings and comments blanked. `comments`: plain `//` ones, no docs."""

    path: Path
    text: str
    is_test: bool = False
    code: str = ""
    comments: list[Comment] = field(default_factory=list)

    def __post_init__(self) -> None:
        pieces, at = [], 0
        while match := TOKEN.search(self.text, at):
            pieces.append(self.text[at : match.start()])
            end = self._end_of(match)
            token = self.text[match.start() : end]
            if match["line"] and not token.startswith(("///", "//!")):
                self.comments.append(Comment(self.line_of(match.start()), token[2:].strip()))
            pieces.append(re.sub(r"[^\n]", " ", token))
            at = end
        self.code = "".join(pieces) + self.text[at:]

    def _end_of(self, match: re.Match) -> int:
        if match["raw"]:
            close = '"' + match["hashes"]
            return self._after(close, match.end())
        if not match["block"]:
            return match.end()
        depth, at = 1, match.end()
        while depth and (edge := re.compile(r"/\*|\*/").search(self.text, at)):
            depth += 1 if edge[0] == "/*" else -1
            at = edge.end()
        return at

    def _after(self, text: str, at: int) -> int:
        found = self.text.find(text, at)
        return len(self.text) if found < 0 else found + len(text)

    def line_of(self, offset: int) -> int:
        return self.text.count("\n", 0, offset) + 1

    def functions(self) -> list[tuple[str, int, int]]:
        """(name, first line, number of lines) of each function with a body."""
        found = []
        for match in FUNCTION.finditer(self.code):
            opening = self._body(match.end())
            if opening is not None:
                first, last = self.line_of(match.start()), self.line_of(self._closing(opening))
                found.append((match[1], first, last - first + 1))
        return found

    def _body(self, at: int) -> int | None:
        """Where the body's `{` is, or None for a declaration that ends in `;`."""
        depth = 0
        for offset in range(at, len(self.code)):
            char = self.code[offset]
            depth += (char in "([") - (char in ")]")
            if depth == 0 and char in "{;":
                return offset if char == "{" else None
        return None

    def _closing(self, opening: int) -> int:
        depth = 0
        for offset in range(opening, len(self.code)):
            depth += (self.code[offset] == "{") - (self.code[offset] == "}")
            if depth == 0:
                return offset
        return len(self.code) - 1

    def production(self) -> str:
        """`code` with `#[cfg(test)] mod … { … }` blanked; nothing at all for a file that is only tests."""
        if self.is_test:
            return ""
        code = self.code
        for match in TEST_MODULE.finditer(self.code):
            end = self._closing(match.end() - 1) + 1
            code = code[: match.start()] + re.sub(r"[^\n]", " ", code[match.start() : end]) + code[end:]
        return code


def load(root: Path, directories: tuple[str, ...]) -> list[RustSource]:
    """Every Rust file below the directories; a file declared by `#[cfg(test)] mod x;` counts as test code."""
    sources = {
        path: RustSource(path.relative_to(root), path.read_text())
        for directory in directories
        for path in sorted((root / directory).rglob("*.rs"))
        if "target" not in path.relative_to(root).parts
    }
    for path, source in sources.items():
        if "tests" in source.path.parts or "benches" in source.path.parts:
            source.is_test = True
        for name in re.findall(r"#\[cfg\(test\)\]\s*(?:pub(?:\([a-z]+\))?\s+)?mod\s+(\w+)\s*;", source.code):
            base = path.parent if path.name in ("lib.rs", "main.rs") else path.with_suffix("")
            if base / f"{name}.rs" in sources:
                sources[base / f"{name}.rs"].is_test = True
    return list(sources.values())
