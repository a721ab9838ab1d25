"""Each machine works without the rest of the package, and the example that opens it does what it says."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

import pytest

import wsconnkit
from wsconnkit.machines.closing import Action, State

MACHINES = {path.stem: path for path in (Path(wsconnkit.__file__).parent / "machines").glob("[!_]*.py")}
every_machine = pytest.mark.parametrize("machine", sorted(MACHINES))


class Outcome(NamedTuple):
    values: list[tuple[str, object]]
    """Each expression that is a line of its own, with its value; None where the line is there for its effect."""
    printed: str = ""


EXAMPLES = {
    "backoff": Outcome(
        [
            ("backoff.on_failure(0.0, jitter=0.5)", 1.0),
            ("backoff.on_failure(1.0, jitter=0.5)", 2.0),
            ("backoff.on_failure(3.0, jitter=0.5, at_least=60.0)", 64.0),
            ("backoff.on_failure(67.0, jitter=0.5)", None),
        ]
    ),
    "closecodes": Outcome(
        [
            ("describe(1009)", "message too big"),
            ("CloseCode.SERVICE_RESTART.name", "SERVICE_RESTART"),
            ("may_send(1006)", False),
            ("should_retry(1012)", True),
            ("truncate_reason('é' * 300)", "é" * 61),
        ]
    ),
    "closing": Outcome(
        [
            ("closing.on(Input.LOCAL_CLOSE)", (Action.SEND_CLOSE, Action.START_TIMER)),
            ("closing.on(Input.PEER_CLOSE)", (Action.SERVER_SENDS_EOF,)),
            ("closing.on(Input.EOF)", (Action.END,)),
            ("closing.state", State.CLOSED),
        ]
    ),
    "compression": Outcome(
        [
            ("stats.outbound.on_compressed(before=4096, after=512)", None),
            ("stats.outbound.on_uncompressed(20)", None),
            ("stats.outbound.ratio", 0.125),
            ("stats.outbound.percent_saved", 87.5),
            ("stats.outbound.average_bytes_saved", 3584.0),
        ]
    ),
    "deadlines": Outcome(
        [
            ("deadlines.set('idle', 60.0)", None),
            ("deadlines.next_timeout()", 60.0),
            ("deadlines.handle_timeout(75.0)", []),
            ("deadlines.next_timeout()", 75.01),
            ("deadlines.handle_timeout(75.01)", ["idle"]),
        ]
    ),
    "framesize": Outcome(
        [
            ("sizes.on_header(1000, first=True)", None),
            ("sizes.on_payload(1000)", None),
            ("sizes.on_frame_end(1000, fin=True)", False),
            ("sizes.stats.average_frame_size", 1000.0),
        ],
        printed="frame of 300000 bytes is over max_frame_size (262144)\n",
    ),
    "ratelimit": Outcome(
        [
            ("bucket.take(0.0)", 0.0),
            ("bucket.take(0.0)", 0.0),
            ("bucket.take(10.0)", 20.0),
            ("bucket.take(30.0)", 0.0),
        ]
    ),
    "heartbeat": Outcome(
        [
            ("heartbeat.next_timeout()", 30.0),
            ("send_ping(beat.ping)", 4),
            ("heartbeat.on_data(30.1)", 0.0),
            ("heartbeat.on_pong(beat.ping, 30.1)", pytest.approx(0.1)),
            ("heartbeat.next_timeout()", 60.1),
        ]
    ),
}

RUN_ALONE = """
import importlib.util
import sys

name, path, example = sys.argv[1:]
assert importlib.util.find_spec("wsconnkit") is None
spec = importlib.util.spec_from_file_location(name, path)
sys.modules[name] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
exec(example, {"send_ping": len})
"""


def example_of(docstring: str | None) -> str:
    """Return the two paragraphs below `Alone::`: what is imported, and what is done with it."""
    _, _, block = (docstring or "").partition("\nAlone::\n\n")
    return dedent("\n\n".join(block.split("\n\n")[:2]))


@every_machine
def test_the_example_does_what_it_says(machine: str, capsys: pytest.CaptureFixture[str]) -> None:
    # What a user has to bring along.
    names: dict[str, object] = {"send_ping": len}
    values = []
    for statement in ast.parse(example_of(import_module(f"wsconnkit.machines.{machine}").__doc__)).body:
        code = ast.unparse(statement)
        if isinstance(statement, ast.Expr):
            values.append((code, eval(code, names)))
        else:
            exec(code, names)
    assert Outcome(values, capsys.readouterr().out) == EXAMPLES[machine]


@every_machine
def test_the_file_and_its_example_run_where_the_package_is_not_installed(machine: str) -> None:
    # Without `site` there is nothing but the standard library to import from.
    path = MACHINES[machine]
    example = example_of(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))))
    assert example.startswith(f"from wsconnkit.machines.{machine} import ")
    command = [sys.executable, "-I", "-S", "-c", RUN_ALONE, f"wsconnkit.machines.{machine}", str(path), example]
    run = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    assert (run.returncode, run.stderr) == (0, "")


def test_every_machine_has_its_example_checked() -> None:
    assert set(MACHINES) == set(EXAMPLES)
