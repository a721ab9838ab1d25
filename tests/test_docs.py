from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from wsconnkit import Settings
from wsconnkit.machines.closing import TRANSITIONS, Action, Input, State, Transition

from . import test_floors as floors

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "closing_diagram.py"
PAGE = ROOT / "docs" / "closing.md"
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


@pytest.fixture
def script() -> Any:
    spec = spec_from_file_location("closing_diagram", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def actions_in(text: str) -> tuple[Action, ...]:
    return tuple(Action(action) for action in text.split(", ")) if text not in {"", "none"} else ()


def matches(pattern: str) -> list[Any]:
    return re.findall(pattern, PAGE.read_text(encoding="utf-8"), re.MULTILINE)


def test_the_closing_page_is_up_to_date() -> None:
    check = subprocess.run(
        [sys.executable, str(SCRIPT), "--check"], capture_output=True, text=True, encoding="utf-8", check=False
    )
    assert (check.returncode, check.stderr) == (0, "")


def test_the_closing_page_lists_every_state_and_input_as_the_machine_has_it() -> None:
    rows = matches(r"^\| ([A-Z_]+) \| ([a-z ]+) \| ([A-Z_]+) \| (.+) \|$")
    listed = [
        ((State[source], Input(event)), (State[target], actions_in(text))) for source, event, target, text in rows
    ]
    assert len(listed) == len(TRANSITIONS)
    assert dict(listed) == TRANSITIONS


def test_the_closing_diagram_draws_all_that_changes_something_once_and_nothing_else() -> None:
    arrows = matches(r"^ +([A-Z_]+) --> ([A-Z_]+): ([^/\n]+)(?: / (.+))?$")
    drawn = [
        ((State[source], Input(event)), (State[target], actions_in(text)))
        for source, target, events, text in arrows
        for event in events.split(", ")
    ]
    assert len(drawn) == len(dict(drawn))
    assert dict(drawn) == {
        (source, event): (target, actions)
        for (source, event), (target, actions) in TRANSITIONS.items()
        if target is not source or actions
    }


def test_the_closing_diagram_merges_inputs_that_do_the_same() -> None:
    arrows = matches(r"^ +([A-Z_]+ --> [A-Z_]+): [^/\n]+(/.+)?$")
    assert len(arrows) == len(set(arrows))


def test_the_closing_diagram_starts_open_and_ends_closed() -> None:
    assert matches(r"\[\*\] --> (\w+)") == ["OPEN"]
    assert matches(r"(\w+) --> \[\*\]") == ["CLOSED"]


def test_what_is_written_passes_the_check(script: Any, tmp_path: Path) -> None:
    path = tmp_path / "closing.md"
    assert script.main([], path) == 0
    assert script.main(["--check"], path) == 0
    assert path.read_bytes() == PAGE.read_bytes()


@pytest.mark.parametrize("edit", [lambda page: page + "more\n", lambda page: page.replace("give up", "hang up"), None])
def test_the_check_tells_a_page_that_was_edited_or_is_missing_and_leaves_it_alone(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], edit: Any
) -> None:
    path = tmp_path / "closing.md"
    edited = None if edit is None else edit(PAGE.read_text(encoding="utf-8"))
    if edited is not None:
        path.write_text(edited, encoding="utf-8")
    assert script.main(["--check"], path) == 1
    assert capsys.readouterr().err == f"{path} differs from the table; run: python scripts/closing_diagram.py\n"
    assert (path.read_text(encoding="utf-8") if path.exists() else None) == edited


def test_the_check_tells_a_table_that_was_changed(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRANSITIONS, (State.OPEN, Input.TIMEOUT), Transition(State.CLOSED, (Action.END,)))
    assert script.main(["--check"]) == 1


def reachable(graph: dict[str, set[str]]) -> set[tuple[str, str]]:
    """Return the pairs of which the second can be reached from the first."""
    pairs = {(source, target) for source, targets in graph.items() for target in targets}
    while more := {(a, d) for a, b in pairs for c, d in pairs if b == c} - pairs:
        pairs |= more
    return pairs


def test_the_picture_of_the_house_has_each_floor_and_each_import_between_them() -> None:
    (drawing,) = re.findall(r"^flowchart TB\n(.+?)^```", ARCHITECTURE, re.MULTILINE | re.DOTALL)
    names = {node: name for node, _, name in re.findall(r'(\w+)\["(\d) · (\w+)"\]', drawing)}
    parts = {name: floors.FRONT_DOOR if name == "wsconnkit" else name for name in names.values()}
    drawn: dict[str, set[str]] = {}
    for source, target in re.findall(r"^ +(\w+)(?:\[.+?\])? --> (\w+)", drawing, re.MULTILINE):
        drawn.setdefault(parts[names[source]], set()).add(parts[names[target]])
    real: dict[str, set[str]] = {}
    for module, imported in floors.import_graph().items():
        real.setdefault(floors.part_of(module), set()).update(map(floors.part_of, imported))
    for part, imports in real.items():
        imports.discard(part)
    assert reachable(drawn) == reachable(real)
    numbers = {parts[name]: int(number) for _, number, name in re.findall(r'(\w+)\["(\d) · (\w+)"\]', drawing)}
    assert numbers == floors.FLOORS


def test_the_table_of_the_house_has_each_floor() -> None:
    rows = re.findall(r"^\| (\d) \| (.+?) \|", ARCHITECTURE, re.MULTILINE)
    listed = {part: int(number) for number, parts in rows for part in re.findall(r"`(\w+)`", parts)}
    assert listed == {part or "wsconnkit": number for part, number in floors.FLOORS.items()}


def test_the_table_of_the_rooms_has_each_room() -> None:
    rooms = re.findall(r"^\| `(\w+)\.py` \|", ARCHITECTURE, re.MULTILINE)
    assert sorted(rooms) == floors.ROOMS


def test_the_flows_through_the_house_name_what_there_is() -> None:
    diagrams = re.findall(r"^sequenceDiagram\n(.+?)^```", ARCHITECTURE, re.MULTILINE | re.DOTALL)
    assert len(diagrams) == 4
    for diagram in diagrams:
        classes: dict[str, type] = {}
        for alias, name, path in re.findall(r"participant (\w+) as (\w+)<br/>(\S+)\.py", diagram):
            classes[alias] = getattr(import_module(f"wsconnkit.{path.replace('/', '.')}"), name)
        calls = re.findall(r"^ +\w+->>(\w+): (\w+)\(", diagram, re.MULTILINE)
        assert len(calls) == diagram.count("->>") - diagram.count("-->>")
        assert [call for call in calls if not hasattr(classes[call[0]], call[1])] == []


def test_the_table_of_settings_has_every_variable_with_its_default() -> None:
    page = (ROOT / "docs" / "service.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([A-Z_]+)` \| (?:`(.+)`)? *\| .+ \|$", page, re.MULTILINE)
    assert rows == [(name, default) for name, default, *_ in Settings(environ={}).describe()]
