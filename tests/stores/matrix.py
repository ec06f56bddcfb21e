"""The matrix of stores and what they keep, as README shows it between two markers: written, read back and compared.

A fact is (promise, store) → (word, what happens instead). Stores that were not measured keep what the README says.
"""

import re
from collections import defaultdict
from pathlib import Path

README = Path(__file__).resolve().parents[2] / "README.md"
BEGIN, END = "<!-- conformance:begin -->", "<!-- conformance:end -->"
WORDS = {"holds": "yes", "lacks": "no", "broken": "broken"}
NOTE = re.compile(r"- (.+) — ([^:]+): (.+)")

Facts = dict[tuple[str, str], tuple[str, str]]


def facts(store: str, checks: list[dict], known: dict[str, str]) -> Facts:
    """What a run of the suite found out; what was not tried says nothing. `known`: why checks are broken, by name."""
    return {
        (check["promise"], store): (WORDS[check["outcome"]], _plain(check.get("instead") or known.get(check["name"], "")))
        for check in checks
        if check["outcome"] in WORDS
    }  # fmt: skip


def _plain(text: str) -> str:
    """One line that no Markdown reader takes for markup of a table."""
    return text.replace("|", "¦").replace("\n", " ")


def render(known: Facts, order: list[str], stores: list[str]) -> str:
    """Table and notes; `order`: the promises from top to bottom, `stores`: the stores from left to right."""
    stores = [store for store in stores if any(store == other for _, other in known)]
    lines = ["| | " + " | ".join(stores) + " |", "|---|" + "---|" * len(stores)]
    promises = [promise for promise in order if any((promise, store) in known for store in stores)]
    for promise in promises:
        cells = (known.get((promise, store), ("", ""))[0] for store in stores)
        lines.append(f"| {promise} | " + " | ".join(cells) + " |")
    lines += ["", "What happens where a store does not:", ""]
    for promise in promises:
        notes = defaultdict(list)
        for store in stores:
            _, instead = known.get((promise, store), ("", ""))
            if instead:
                notes[instead].append(store)
        lines += [f"- {promise} — {', '.join(names)}: {instead}" for instead, names in notes.items()]
    return "\n".join(lines)


def parse(text: str) -> tuple[Facts, list[str]]:
    """The facts that `render` wrote, and the order of the promises."""
    known: Facts = {}
    order: list[str] = []
    stores: list[str] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("| |"):
            stores = cells[1:]
        elif line.startswith("| "):
            order.append(cells[0])
            known |= {(cells[0], store): (word, "") for store, word in zip(stores, cells[1:], strict=True) if word}
        elif note := NOTE.fullmatch(line):
            promise, names, instead = note.groups()
            known |= {(promise, store): (known[promise, store][0], instead) for store in names.split(", ")}
    return known, order


def _split() -> tuple[str, str, str]:
    text = README.read_text()
    assert text.count(BEGIN) == text.count(END) == 1, f"README needs {BEGIN} and {END}, once each"
    before, rest = text.split(BEGIN)
    inside, after = rest.split(END)
    return before, inside, after


def documented() -> Facts:
    return parse(_split()[1])[0]


def write(measured: Facts, order: list[str], stores: list[str]) -> None:
    """Replaces what README says of the measured facts."""
    before, inside, after = _split()
    README.write_text(f"{before}{BEGIN}\n{render(parse(inside)[0] | measured, order, stores)}\n{END}{after}")
