"""The house has nine floors, and arrows between them only point down; read from the imports, not from what runs."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path

import pytest

import wsconnkit

PACKAGE = Path(wsconnkit.__file__).parent
FRONT_DOOR = ""
FLOORS = {
    "machines": 1,
    "protocol": 2,
    # What a URL names, for the service; the core may not do that itself.
    "download": 2,
    "service": 3,
    # What the managed floor needs and the core may not do.
    "environment": 3,
    "observe": 4,
    "managed": 4,
    "asyncio": 5,
    "trio": 5,
    "testing": 6,
    # The package itself shows what is below it to its users, of which the command is one.
    FRONT_DOOR: 7,
    "cli": 8,
    "__main__": 9,
}
CORE = ["machines", "protocol", "service"]
ADAPTERS = ["asyncio", "trio"]
ROOMS = ["__init__", "client", "connection", "connector", "context", "runtime", "server", "tls", "transport"]

# Time, randomness and I/O come in as arguments.
NOT_IN_THE_CORE = ["time", "datetime", "random", "asyncio", "trio", "socket", "urllib.request"]
EVENT_LOOPS = {"asyncio", "trio"}
# Clocks and randomness come from the runtime there: only so does a seed decide all of them.
NOT_IN_MANAGED = [*EVENT_LOOPS, "uvloop", "socket", "wsproto", "time", "datetime", "random", "secrets", "uuid", "os"]
# What takes a cancellation, of either event loop.
CANCELLATIONS = {"BaseException", "BaseExceptionGroup", "CancelledError", "Cancelled"}
OPTIONAL = {
    "click",
    "cryptography",
    "dotenv",
    "hypothesis",
    "idna",
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


def import_graph() -> dict[str, set[str]]:
    """Return the modules of the package, each with those that it imports."""
    imports = {module_name(path): imports_of(path) for path in sorted(PACKAGE.rglob("*.py"))}

    def module_of(name: str) -> str:
        while name and name not in imports:
            name = name.rpartition(".")[0]
        return name

    return {module: {module_of(name) for name in names} - {""} for module, names in imports.items()}


def circle_in(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """Return a way from a module back to itself, [] where there is none."""
    visited: set[str] = set()
    way: list[str] = []

    def walk(module: str) -> list[str]:
        if module in way:
            return [*way[way.index(module) :], module]
        if module in visited:
            return []
        visited.add(module)
        way.append(module)
        for imported in sorted(graph.get(module, ())):
            if circle := walk(imported):
                return circle
        way.pop()
        return []

    return next((circle for module in sorted(graph) if (circle := walk(module))), [])


def takes_cancellations(source: str) -> list[int]:
    """Return the lines in which `source` keeps a cancellation from going on: by what it catches, or by a `finally`."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ExceptHandler):
            caught = [ast.Name("BaseException")] if node.type is None else [node.type]
        elif isinstance(node, ast.Call) and last_name(node.func) == "suppress":
            caught = node.args
        else:
            caught = []
        names = {last_name(part) for each in caught for part in ast.walk(each)}
        if names & CANCELLATIONS:
            assert isinstance(node, (ast.ExceptHandler, ast.Call))  # nothing else catches
            lines.append(node.lineno)
        for statement in getattr(node, "finalbody", []):
            lines += ways_out(statement)
    return sorted(set(lines))


def last_name(node: ast.AST) -> str | None:
    """Return `b` for `b` and for `a.b`."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None


def ways_out(node: ast.AST, *, in_loop: bool = False) -> list[int]:
    """Return the lines on which a statement of a `finally` leaves it, and drops what was raised."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
        return []
    if isinstance(node, ast.Return) or (isinstance(node, (ast.Break, ast.Continue)) and not in_loop):
        return [node.lineno]
    in_loop = in_loop or isinstance(node, (ast.For, ast.AsyncFor, ast.While))
    return [line for child in ast.iter_child_nodes(node) for line in ways_out(child, in_loop=in_loop)]


def long_files(parts: Iterable[str], most: int) -> dict[str, int]:
    lines = {module_name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in files_of(parts)}
    return {name: count for name, count in lines.items() if count > most}


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


def test_managed_names_no_event_loop_no_socket_and_no_protocol_library() -> None:
    assert files_of(["managed"])
    assert offences(["managed"], NOT_IN_MANAGED) == []


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("try: f()\nexcept: pass", [2]),
        ("try: f()\nexcept BaseException: pass", [2]),
        ("try: f()\nexcept BaseException as error:\n  g(error)\n  raise", [2]),
        ("try: f()\nexcept (OSError, BaseException): pass", [2]),
        ("try: f()\nexcept builtins.BaseException: pass", [2]),
        ("try: f()\nexcept OSError: pass\nexcept BaseExceptionGroup: pass", [3]),
        ("try: f()\nexcept CancelledError: pass", [2]),
        ("try: f()\nexcept loop.Cancelled: pass", [2]),
        ("with suppress(BaseException): f()", [1]),
        ("with contextlib.suppress(OSError, BaseException): f()", [1]),
        ("with other(), suppress(*[BaseException]): f()", [1]),
        ("async def g():\n  with suppress(loop.CancelledError):\n    await f()", [2]),
        ("def g():\n  try: f()\n  finally:\n    return", [4]),
        ("def g():\n  try: f()\n  finally:\n    if x:\n      return 1", [5]),
        ("for x in y:\n  try: f()\n  finally:\n    break", [4]),
        ("while x:\n  try: f()\n  finally:\n    with z: continue", [4]),
        ("try: f()\nexcept Exception: pass\nelse: g()\nfinally: h()", []),
        ("try: f()\nexcept (OSError, TaskCancelled): pass", []),
        ("with suppress(RuntimeError): raise BaseException", []),
        ("try: f()\nfinally:\n  for x in y: break", []),
        ("try: f()\nfinally:\n  def g(): return 1", []),
        ("isinstance(outcome, BaseException)", []),
    ],
)
def test_whatever_takes_a_cancellation_is_found(body: str, expected: list[int]) -> None:
    assert takes_cancellations(body) == expected


@pytest.mark.skipif(sys.version_info < (3, 11), reason="its syntax is that of Python 3.11")
def test_a_cancellation_taken_out_of_a_group_is_found() -> None:
    assert takes_cancellations("try: f()\nexcept* BaseException: pass") == [2]


def test_managed_takes_no_cancellation() -> None:
    found = {module_name(path): takes_cancellations(path.read_text(encoding="utf-8")) for path in files_of(["managed"])}
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        ({}, []),
        ({"a": ["b", "c"], "b": ["c"], "c": []}, []),
        ({"a": ["elsewhere"]}, []),
        ({"a": ["a"]}, ["a", "a"]),
        ({"a": ["b"], "b": ["a"]}, ["a", "b", "a"]),
        ({"a": ["b"], "b": ["c", "d"], "c": [], "d": ["b"]}, ["b", "d", "b"]),
        ({"a": [], "b": ["a", "c"], "c": ["d"], "d": ["a", "b"]}, ["b", "c", "d", "b"]),
    ],
)
def test_a_circle_is_found_wherever_it_is(graph: dict[str, list[str]], expected: list[str]) -> None:
    assert circle_in(graph) == expected


def test_no_imports_go_in_a_circle_not_even_those_for_type_checking() -> None:
    graph = import_graph()
    assert "wsconnkit.protocol.connection" in graph["wsconnkit.managed.pump"]
    assert " -> ".join(circle_in(graph)) == ""


def test_adapters_leave_the_protocol_to_the_core() -> None:
    assert offences(ADAPTERS, ["wsproto"]) == []


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_an_adapter_has_the_same_eight_rooms_on_each_event_loop(adapter: str) -> None:
    assert [path.relative_to(PACKAGE / adapter).with_suffix("").as_posix() for path in files_of([adapter])] == ROOMS


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_what_takes_the_connection_of_the_package_takes_those_of_every_event_loop(adapter: str) -> None:
    assert issubclass(import_module(f"wsconnkit.{adapter}").Connection, wsconnkit.Connection)


def test_each_file_of_an_adapter_has_less_than_300_lines() -> None:
    assert long_files(ADAPTERS, 299) == {}


def test_each_file_of_the_protocol_and_of_managed_has_at_most_400_lines() -> None:
    assert long_files(["protocol", "managed"], 400) == {}


def test_importing_the_package_imports_no_event_loop_and_no_optional_dependency() -> None:
    code = "import json, sys, wsconnkit; print(json.dumps(sorted(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", check=True)
    loaded = set(json.loads(run.stdout))
    assert "wsconnkit" in loaded
    assert loaded & (EVENT_LOOPS | OPTIONAL) == set()
