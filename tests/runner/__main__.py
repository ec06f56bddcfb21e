"""`./tests/run` (the CI tier), `./tests/run all`, `./tests/run NAME...`, `./tests/run --list`."""

import os
import sys
import time

from runner.execute import Context
from runner.outcome import Outcome
from runner.parts import ALL, CI, INSTALL_BUDGET_S, PARTS, Part, tier
from runner.tools import TOOLS, Unavailable


def main(arguments: list[str]) -> int:
    if arguments in (["--list"], ["-l"]):
        for part in PARTS:
            print(f"{part.name:10} {part.budget_s:4} s  {'/'.join(part.tiers) or 'by name':8} {part.about}")
        return 0
    known = {part.name: part for part in PARTS}
    unknown = [name for name in arguments if name not in known and name != ALL]
    if unknown:
        print(f"no part named {', '.join(unknown)}; known: all, {', '.join(known)}", file=sys.stderr)
        return 2
    chosen = tier(CI) if not arguments else tier(ALL) if ALL in arguments else [known[name] for name in arguments]
    return run(chosen, ci=os.environ.get("CI") == "true")


def run(chosen: list[Part], ci: bool) -> int:
    located, missing = install({tool: None for part in chosen for tool in part.tools})
    total = Outcome()
    for part in chosen:
        total.add(run_part(part, located, missing, ci))
    for reason in sorted(set(total.skips)):
        print(f"skipped: {reason}")
    for name in total.failures:
        print(f"FAILED: {name}")
    print(f"{total.passed} passed, {total.failed} failed, {len(total.skips)} skipped", flush=True)
    return 1 if total.failed or not total.passed else 0


def install(names: dict[str, None]) -> tuple[dict, dict[str, str]]:
    """Locates or installs each tool; what cannot be had is returned with its reason."""
    located, missing = {}, {}
    began = time.monotonic()
    if names:
        print(f"== tools (budget {INSTALL_BUDGET_S} s)", flush=True)
    for name in names:
        started = time.monotonic()
        try:
            located[name] = TOOLS[name].locate()
        except Unavailable as reason:
            missing[name] = str(reason)
        took = time.monotonic() - started
        if took > 1 or name in missing:
            print(f"  {name}: {'UNAVAILABLE' if name in missing else 'ready'} ({took:.0f} s)", flush=True)
    if names:
        print(f"== tools: {time.monotonic() - began:.1f} s of {INSTALL_BUDGET_S} s", flush=True)
    return located, missing


def run_part(part: Part, located: dict, missing: dict[str, str], ci: bool) -> Outcome:
    print(f"== {part.name}: {part.about} (budget {part.budget_s} s)", flush=True)
    began = time.monotonic()
    lacking = [f"{part.name} needs {tool}: {missing[tool]}" for tool in part.tools if tool in missing]
    if any(tool.startswith("forebay") for tool in part.tools if tool in missing):
        outcome = Outcome(failed=1, failures=lacking)
    elif lacking:
        outcome = Outcome(skips=lacking)
    else:
        # What it did not ask for it does not see, so that it does the same alone as among others.
        tools = {tool: located[tool] for tool in part.tools}
        outcome = part.run(Context(tools, began + part.budget_s, ci))
    took = time.monotonic() - began
    if took > part.budget_s:
        outcome.add(Outcome.failure(f"{part.name} took {took:.0f} s of {part.budget_s} s"))
    outcome = outcome.strict() if ci else outcome
    counts = f"{outcome.passed} passed, {outcome.failed} failed, {len(outcome.skips)} skipped"
    print(f"== {part.name}: {took:.1f} s of {part.budget_s} s: {counts}", flush=True)
    return outcome


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
