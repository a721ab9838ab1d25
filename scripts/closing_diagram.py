"""Draw docs/closing.md from the table of the closing handshake.

python scripts/closing_diagram.py            write the page
python scripts/closing_diagram.py --check    exit 1 when the page differs from the table
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from wsconnkit.machines.closing import TRANSITIONS, Action, Closing, State, Transition

PAGE = Path(__file__).parents[1] / "docs" / "closing.md"

INTRODUCTION = """\
# How a connection closes

The closing handshake (RFC 6455, section 7) as `wsconnkit.machines.closing` performs it. An arrow says what happened
and, after the slash, what is done about it; an input that changes nothing has no arrow. This page is written by
`scripts/closing_diagram.py`.
"""


def named(actions: Iterable[Action]) -> str:
    return ", ".join(action.value for action in actions)


def diagram() -> list[str]:
    arrows: dict[tuple[State, Transition], list[str]] = {}
    for (source, event), transition in TRANSITIONS.items():
        if transition != (source, ()):
            arrows.setdefault((source, transition), []).append(event.value)
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {Closing().state.name}"]
    for (source, (target, actions)), events in arrows.items():
        label = ", ".join(events) + (f" / {named(actions)}" if actions else "")
        lines.append(f"    {source.name} --> {target.name}: {label}")
    return [*lines, f"    {State.CLOSED.name} --> [*]", "```"]


def table() -> list[str]:
    rows = [("state", "input", "next state", "actions"), ("---",) * 4]
    for (source, event), (target, actions) in TRANSITIONS.items():
        rows.append((source.name, event.value, target.name, named(actions) or "none"))
    return [f"| {' | '.join(row)} |" for row in rows]


def page() -> str:
    return "\n".join([INTRODUCTION, *diagram(), "", *table(), ""])


def main(arguments: Sequence[str], path: Path = PAGE) -> int:
    parser = argparse.ArgumentParser(description="Draw docs/closing.md from the table of the closing handshake.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the page differs")
    if not parser.parse_args(arguments).check:
        path.write_text(page(), encoding="utf-8", newline="\n")
    elif not path.exists() or path.read_text(encoding="utf-8") != page():
        print(f"{path} differs from the table; run: python scripts/closing_diagram.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
