"""The house has five floors, and arrows between them only point down; read from the imports, not from what runs."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

import wsconnkit

PACKAGE = Path(wsconnkit.__file__).parent
FRONT_DOOR = ""
FLOORS = {
    "machines": 1,
    "protocol": 2,
    "service": 3,
    # What adapters share and the core may not do.
    "environment": 3,
    "observe": 4,
    "testing": 4,
    "asyncio": 4,
    "trio": 4,
    # The package itself shows what is below it to its users, of which the command is one.
    FRONT_DOOR: 5,
    "cli": 6,
    "__main__": 7,
}
CORE = ["machines", "protocol", "service"]
ADAPTERS = ["asyncio", "trio"]

# Time, randomness and I/O come in as arguments.
NOT_IN_THE_CORE = ["time", "datetime", "random", "asyncio", "trio", "socket", "urllib.request"]
EVENT_LOOPS = {"asyncio", "trio"}
OPTIONAL = {
    "click",
    "cryptography",
    "dotenv",
    "hypothesis",
    "jwt",  # is always there, but imports cryptography where it can
    "prometheus_client",
    "pydantic",
    "pydantic_settings",
    "pythonjsonlogger",
    "rich",
    "uvloop",
}


def module_name(path: Path) -> str:
    parts = ["wsconnkit", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_in(source: str, package: str) -> list[str]:
    """Return the full names that `source`, a module in `package`, imports anywhere, also only for type checking."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [node.module] if node.module else []
            if node.level:
                base = [*package.split(".")[: package.count(".") + 2 - node.level], *base]
            # What is imported may be a module or a name in one; either way its full name begins with the module's.
            names += [".".join([*base, alias.name]) for alias in node.names]
    return names


def imports_of(path: Path) -> list[str]:
    name = module_name(path)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    return imports_in(path.read_text(encoding="utf-8"), package)


def is_within(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def part_of(name: str) -> str:
    """Return the part of the package that `name` belongs to: the front door, where it is in no other."""
    part = name.partition("wsconnkit.")[2].partition(".")[0]
    return part if part in FLOORS else FRONT_DOOR


def files_of(parts: Iterable[str]) -> list[Path]:
    parts = list(parts)
    return [path for path in sorted(PACKAGE.rglob("*.py")) if part_of(module_name(path)) in parts]


def offences(parts: Iterable[str], forbidden: Iterable[str]) -> list[str]:
    forbidden = list(forbidden)
    return [
        f"{module_name(path)} imports {name}"
        for path in files_of(parts)
        for name in imports_of(path)
        if any(is_within(name, module) for module in forbidden)
    ]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import time", ["time"]),
        ("import os.path as p, socket", ["os.path", "socket"]),
        ("from time import monotonic, sleep", ["time.monotonic", "time.sleep"]),
        ("from wsconnkit.machines import closing", ["wsconnkit.machines.closing"]),
        ("from . import frames", ["wsconnkit.protocol.frames"]),
        ("from .frames import Frame", ["wsconnkit.protocol.frames.Frame"]),
        ("from .. import asyncio", ["wsconnkit.asyncio"]),
        ("from ..machines.closing import State", ["wsconnkit.machines.closing.State"]),
        ("def later():\n    import random", ["random"]),
        ("if TYPE_CHECKING:\n    from wsconnkit import cli", ["wsconnkit.cli"]),
        ("try:\n    import uvloop\nexcept ImportError:\n    pass", ["uvloop"]),
        ('"""import time"""', []),
    ],
)
def test_imports_are_found_wherever_and_however_they_are_written(source: str, expected: list[str]) -> None:
    assert imports_in(source, "wsconnkit.protocol") == expected


def test_every_file_but_the_front_door_is_on_a_floor() -> None:
    assert files_of([FRONT_DOOR]) == [PACKAGE / "__init__.py"]


def test_machines_import_nothing_of_the_package() -> None:
    assert files_of(["machines"])
    assert offences(["machines"], ["wsconnkit"]) == []


def test_the_core_imports_no_clock_no_randomness_no_event_loop_and_no_socket() -> None:
    assert files_of(CORE)
    assert offences(CORE, NOT_IN_THE_CORE) == []


def test_imports_between_floors_only_point_down() -> None:
    sideways_or_up = [
        f"{module_name(path)} imports {name}"
        for part, floor in FLOORS.items()
        for path in files_of([part])
        for name in imports_of(path)
        if is_within(name, "wsconnkit") and part_of(name) != part and FLOORS[part_of(name)] >= floor
    ]
    assert sideways_or_up == []


def test_adapters_leave_the_protocol_to_the_core() -> None:
    assert offences(ADAPTERS, ["wsproto"]) == []


def test_each_file_of_an_adapter_has_less_than_300_lines() -> None:
    lines = {module_name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in files_of(ADAPTERS)}
    assert {name: count for name, count in lines.items() if count >= 300} == {}


def test_importing_the_package_imports_no_event_loop_and_no_optional_dependency() -> None:
    code = "import json, sys, wsconnkit; print(json.dumps(sorted(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", check=True)
    loaded = set(json.loads(run.stdout))
    assert "wsconnkit" in loaded
    assert loaded & (EVENT_LOOPS | OPTIONAL) == set()
