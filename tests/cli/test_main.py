from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Any

import pytest

from wsconnkit.cli import main

WITHOUT = """
import importlib.abc, sys
sys.path[:] = [path for path in sys.path if path]

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] == {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
sys.argv = ["wsconnkit", *{arguments!r}]
{start}
"""
STARTS = ["import runpy; runpy.run_module('wsconnkit', run_name='__main__')", "import wsconnkit.cli as c; c.main()"]


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize(
    "missing",
    [
        "click",
        "rich",
        "dotenv",
        "pydantic",
        "pydantic_settings",
        "pythonjsonlogger",
        "prometheus_client",
    ],
)
def test_without_its_extra_the_command_says_what_to_install(missing: str, start: str) -> None:
    code = WITHOUT.format(missing=missing, arguments=["demo"], start=start)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == f"The command line needs {missing}; install it with: pip install 'wsconnkit[cli]'\n"


def test_a_part_of_its_extra_that_only_some_settings_need_is_told_when_they_do() -> None:
    code = WITHOUT.format(missing="cryptography", arguments=["check-config"], start=STARTS[1])
    env = {**os.environ, "SUPABASE_AUTH_DOMAIN": "auth.example.com"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30, env=env)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == "The command line needs cryptography; install it with: pip install 'wsconnkit[cli]'\n"


def test_a_missing_module_that_is_not_of_the_extra_is_not_hidden() -> None:
    code = WITHOUT.format(missing="h11", arguments=["demo"], start=STARTS[1])
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30)
    assert run.returncode == 1
    assert "No module named 'h11'" in run.stderr


def test_help_names_the_commands(run: Any) -> None:
    shown = run("--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    names = ["check-config", "connect", "demo", "serve"]
    assert re.findall(rf"^  ({'|'.join(names)})  ", shown.stdout, re.MULTILINE) == names
    assert shown.stdout.startswith("Usage: wsconnkit ")


@pytest.mark.parametrize("name", ["serve", "connect", "check-config", "demo"])
def test_each_command_has_help(run: Any, name: str) -> None:
    shown = run(name, "-h")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith(f"Usage: wsconnkit {name} ")


def test_the_version_is_that_of_the_package(run: Any) -> None:
    from importlib.metadata import version

    assert run("--version").stdout == f"wsconnkit, version {version('wsconnkit')}\n"


def test_the_installed_command_is_main() -> None:
    from importlib.metadata import entry_points

    (script,) = entry_points(group="console_scripts", name="wsconnkit")
    assert script.load() is main
