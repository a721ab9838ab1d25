from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from wsconnkit import Settings
from wsconnkit.machines.closing import TRANSITIONS, Action, Input, State, Transition

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "closing_diagram.py"
PAGE = ROOT / "docs" / "closing.md"


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


def test_the_table_of_settings_has_every_variable_with_its_default() -> None:
    page = (ROOT / "docs" / "service.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([A-Z_]+)` \| (?:`(.+)`)? *\| .+ \|$", page, re.MULTILINE)
    assert rows == [(name, default) for name, default, _ in Settings.from_env(environ={}).describe()]
