"""What users write type-checks, in the strict mode of pyright too; mypy reads it with all tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parent / "typing"
BIN = str(Path(sys.executable).parent)


@pytest.fixture(scope="module")
def pyright() -> str:
    """Return the command; a pyright that cannot start here, such as one that has yet to be downloaded, is none."""
    command = shutil.which("pyright", path=BIN)
    if command is None or subprocess.run([command, "--version"], capture_output=True, check=False).returncode:
        pytest.skip("there is no pyright")
    return command


def run(*command: str, cwd: Path) -> str:
    path = os.pathsep.join([BIN, os.environ["PATH"]])
    ran = subprocess.run(
        command, cwd=cwd, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    return ran.stdout


def test_a_page_of_user_code_has_no_fault_in_strict_mode(pyright: str) -> None:
    assert run(pyright, "-p", ".", cwd=PAGE).splitlines()[-1] == "0 errors, 0 warnings, 0 informations"


def test_all_public_types_are_known(pyright: str, tmp_path: Path) -> None:
    shown = run(pyright, "--verifytypes", "wsconnkit", "--ignoreexternal", cwd=tmp_path)
    if "No py.typed file found" in shown:
        pytest.skip("the package is not installed beside pyright")
    assert "Type completeness score: 100%" in shown, shown
