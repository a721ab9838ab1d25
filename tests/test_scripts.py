"""The two commands of the README, with a Python that writes down what it is asked for instead of downloading."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYTHON = f"""#!/bin/sh
case $1 in
  -c) exec '{sys.executable}' -c "import sys; sys.version_info = VERSION; $2" ;;
  *) echo "$*" >>"$CALLS" ;;
esac
case "$1 $2" in
  "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip") exit "$PIP" ;;
esac
"""
VENV = f"-m venv .venv-{{}}-{sys.version_info[0]}.{sys.version_info[1]}.{sys.version_info[2]}"
DEMO = ["-m wsconnkit demo"]
RAN = {"demo": DEMO, "test": ["-m pytest -n 2"]}
Run = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = pytest.mark.skipif("sys.platform == 'win32'", reason="there is no sh")


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "scripts", tmp_path / "a checkout" / "scripts")
    shutil.copy(ROOT / "pyproject.toml", tmp_path / "a checkout")
    return tmp_path / "a checkout"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a script; its standard output is in the end what Python was called for."""

    def ran(
        sources: Path, script: str, *arguments: str, version: str = "sys.version_info", pip: int = 0
    ) -> subprocess.CompletedProcess[str]:
        python, calls = tmp_path / "python", tmp_path / "calls"
        python.write_text(PYTHON.replace("VERSION", version))
        python.chmod(0o700)
        calls.write_text("")
        env = {"PATH": "/usr/bin:/bin", "PYTHON": str(python), "CALLS": str(calls), "PIP": str(pip)}
        done = subprocess.run(
            ["sh", str(sources / "scripts" / script), *arguments], env=env, capture_output=True, text=True, check=False
        )
        assert done.stdout == ""
        done.stdout = calls.read_text()
        return done

    return ran


@pytest.mark.parametrize("script", ["demo", "test"])
@pytest.mark.parametrize("version", ["(2, 7, 18)", "(3, 8, 18)", "(3, 9, 25)"])
def test_a_python_that_is_too_old_is_told_before_anything_else(
    sources: Path, run: Run, script: str, version: str
) -> None:
    done = run(sources, script, version=version)
    told = version.strip("()").replace(", ", ".")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[0].startswith("wsconnkit needs Python 3.10 or newer; ")
    assert done.stderr.splitlines()[0].endswith(f"/python is {told}.")
    assert "PYTHON=python3" in done.stderr


@pytest.mark.parametrize("script", ["demo", "test"])
def test_a_python_that_is_not_there_is_told(sources: Path, script: str) -> None:
    command = ["sh", str(sources / "scripts" / script)]
    done = subprocess.run(
        command, env={"PATH": "/usr/bin:/bin", "PYTHON": "python9"}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("wsconnkit needs Python 3.10 or newer; python9 is not there.\n")


@pytest.mark.parametrize(("script", "extra"), [("demo", "cli"), ("test", "test")])
def test_only_the_first_run_installs_and_shows_how_that_goes(sources: Path, run: Run, script: str, extra: str) -> None:
    first = run(sources, script)
    assert first.returncode == 0
    venv, pip, *rest = first.stdout.splitlines()
    assert venv == VENV.format(script)
    assert pip == f"-m pip install --disable-pip-version-check --editable .[{extra}]"  # not quietly
    assert rest == RAN[script]
    assert "Installing wsconnkit and what it needs into .venv-" in first.stderr
    second = run(sources, script)
    assert (second.returncode, second.stdout.splitlines()) == (0, RAN[script])
    assert "Installing" not in second.stderr


def test_it_installs_again_when_that_may_not_be_what_is_needed_any_more(sources: Path, run: Run) -> None:
    assert run(sources, "demo", pip=3).returncode == 3  # has failed halfway
    assert run(sources, "demo").stdout.count("-m pip ") == 1
    assert run(sources, "demo").stdout.splitlines() == DEMO
    with open(sources / "pyproject.toml", "a") as file:
        file.write("# another dependency\n")
    assert run(sources, "demo").stdout.count("-m pip ") == 1
    assert run(sources, "demo").stdout.splitlines() == DEMO
    moved = sources.rename(sources.with_name("moved"))
    assert run(moved, "demo").stdout.count("-m pip ") == 1
    assert run(moved, "demo").stdout.splitlines() == DEMO


def test_all_tests_are_announced_with_their_time_and_some_are_not(sources: Path, run: Run) -> None:
    assert " minutes on two cores" in run(sources, "test").stderr
    some = run(sources, "test", "tests/machines", "-x")
    assert (some.returncode, some.stderr) == (0, "")
    assert some.stdout == "-m pytest tests/machines -x\n"
