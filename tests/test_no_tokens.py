"""The watch that lets a test fail when a token is written does so, wherever it is written."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote
from xml.etree import ElementTree

import jwt
import pytest

from .tokenwatch import STDERR, Stream, TokenWatch

SECRET = "a secret that nobody knows, of enough bytes"
HERE = Path(__file__).parent
HEAD = f"""
import logging, os, pty, subprocess, sys, warnings
import jwt, pytest

TOKEN = jwt.encode({{"sub": "alice", "exp": 2_000_000_000}}, "{SECRET}", "HS256")
PRINT = [sys.executable, "-c", "import sys; print(sys.argv[1], file=getattr(sys, sys.argv[2]))", TOKEN]
"""
SUITE = (
    HEAD
    + """
def test_good(capsys):
    logging.getLogger("wsconnkit.server").error("***")
    print(TOKEN[:20])
    assert capsys.readouterr().out

def test_good_processes():
    assert subprocess.run([sys.executable, "-c", "print('said')"], capture_output=True).stdout == b"said\\n"

def test_debug_record():
    logging.getLogger("wsconnkit.connection").debug("said", extra={"path": TOKEN})

def test_record_of_the_event_loop():
    logging.getLogger("asyncio").error("said", exc_info=ValueError(TOKEN))

def test_record_that_a_test_asked_for(caplog):
    logging.getLogger("wsconnkit.connection").error(TOKEN)

def test_stdout():
    print(TOKEN)

def test_stderr():
    os.write(2, TOKEN.encode())

def test_taken_out(capfd):
    print(TOKEN)
    capfd.readouterr()

def test_inherited_output_of_a_process():
    subprocess.run([*PRINT, "stdout"])

def test_captured_output_of_a_process():
    subprocess.run([*PRINT, "stderr"], capture_output=True, text=True)

def test_line_of_a_process():
    with subprocess.Popen([*PRINT, "stdout"], stdout=subprocess.PIPE) as process:
        process.stdout.readline()

def test_lines_of_a_process():
    with subprocess.Popen([*PRINT, "stdout"], stdout=subprocess.PIPE, text=True) as process:
        assert list(process.stdout) == [TOKEN + "\\n"]

def test_terminal():
    master, slave = pty.openpty()
    os.write(slave, TOKEN.encode())
    os.read(master, 10), os.read(master, 1000)
    os.close(master), os.close(slave)

@pytest.fixture
def leaking():
    yield
    print(TOKEN)

def test_end_of_a_fixture(leaking):
    pass

def test_skipped():
    print(TOKEN)
    pytest.skip()

@pytest.mark.xfail
def test_expected_to_fail():
    print(TOKEN)
    assert False
"""
)


@pytest.fixture
def token() -> str:
    return jwt.encode({"sub": "alice", "exp": 2_000_000_000}, SECRET, "HS256")


@pytest.fixture
def watch(token: str) -> TokenWatch:
    watch = TokenWatch()
    watch.remember(token)
    return watch


def unsigned(token: str) -> str:
    return jwt.encode({"sub": "alice"}, "", "none")


@pytest.mark.parametrize(
    "write",
    [
        str,
        unsigned,
        quote,
        lambda token: "".join(f"%{ord(char):02X}" for char in token),
        lambda token: f"ws://host/?a=b&token={token}&c=d",
        lambda token: repr({"headers": [("Authorization", f"Bearer {token}")]}),
        lambda token: token[:60],
        lambda token: token[40:],  # its signature is left
    ],
)
def test_a_token_is_found_in_whatever_form(watch: TokenWatch, token: str, write: Callable[[str], str]) -> None:
    watch.look(write(token), "here")
    (leak,) = watch.take()
    assert leak.startswith("a token was written here: ")
    assert len(leak) < 50  # without the token itself
    assert watch.take() == []


@pytest.mark.parametrize("text", ["", "eyJ", "eyJhbGciOiJIUzI1NiJ9", "token=***", "c2lnbmF0dXJl" * 5, "a.b.c"])
def test_other_text_is_no_token(watch: TokenWatch, text: str) -> None:
    watch.look(text, "here")
    assert watch.take() == []


def test_every_part_of_a_log_record_is_looked_at(watch: TokenWatch, token: str) -> None:
    logger = logging.Logger("of the test")
    logger.addHandler(watch)
    logger.warning("said", extra={"code": 1000, "reason": "bye"})
    assert watch.take() == []
    logger.warning(token)
    logger.warning("%s", token)
    logger.debug("said", extra={"path": f"/?token={token}"})
    logger.warning("said", extra={"headers": [{"Authorization": token}]})
    try:
        try:
            raise ValueError(token)
        except ValueError as error:
            raise OSError("failed") from error
    except OSError:
        logger.exception("said")
    places = {leak.split(", ")[2].partition(":")[0] for leak in watch.take()}
    assert places == {"its message", "its field msg", "its field args", "its field path", "its field headers",
                      "its traceback"}  # fmt: skip


def announced(token: str) -> str:
    return (
        "The settings say nothing about tokens, so this run has its own; it is good for 24 hours.\n\n"
        f"Token: {token}\nURL:   ws://127.0.0.1:3001/ws?token={token}\n\nTalk to the server: wsconnkit connect 'URL'\n"
    )


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_the_token_that_serve_announces_is_allowed_there_and_nowhere_else(
    watch: TokenWatch, token: str, size: int
) -> None:
    def leaks(text: str, where: str = STDERR) -> int:
        stream = Stream(watch, where)
        for at in range(0, len(text), size):
            stream.hear(text[at : at + size].encode())
        return len(watch.take())

    assert leaks(announced(token)) == 0
    assert leaks(announced(token).replace("\n", "\r\n")) == 0
    assert leaks(announced(token) + f"GET /ws?token={token}\n") == 1
    assert leaks(f"Token: {token}\n") == 1
    assert leaks(announced(token), "to stdout of another process") == 1


def run(directory: Path, source: str, *options: str) -> tuple[int, dict[str, bool], str]:
    """Run tests under the watch; return the status, which of them were good, and what was printed."""
    (directory / "suite").mkdir()
    for name in ("conftest.py", "tokenwatch.py"):
        shutil.copy(HERE / name, directory / "suite")
    (directory / "suite" / "test_suite.py").write_text(source, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--import-mode=importlib",
        "-p",
        "no:cacheprovider",
        "--junitxml=xml",
        *options,
    ]
    with (directory / "output").open("wb") as output:  # not read from the process: the watch on us would hear it
        status = subprocess.run(command, cwd=directory, stdout=output, check=False).returncode
    cases = ElementTree.parse(directory / "xml").iter("testcase")
    verdicts = {case.attrib["name"]: case.find("failure") is None and case.find("error") is None for case in cases}
    return status, verdicts, (directory / "output").read_text(encoding="utf-8")


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["alone", "workers"])
def test_whatever_test_is_on_when_a_token_is_written_fails(tmp_path: Path, options: tuple[str, ...]) -> None:
    status, verdicts, _ = run(tmp_path, SUITE, *options)
    assert status == 1
    assert {name for name, good in verdicts.items() if good} == {"test_good", "test_good_processes"}
    assert len(verdicts) == SUITE.count("def test_")


@pytest.mark.parametrize(
    ("source", "is_good"),
    [
        ("def test_passes():\n    logging.getLogger('wsconnkit').error('***')", True),
        ("def test_passes():\n    warnings.warn(TOKEN)", False),  # told when the test is over
        ("logging.getLogger('wsconnkit').error(TOKEN)", False),
    ],
)
def test_a_token_that_is_written_outside_of_tests_fails_the_session(tmp_path: Path, source: str, is_good: bool) -> None:
    status, verdicts, output = run(tmp_path, f"{HEAD}{source}\n")
    assert (status == 0, all(verdicts.values())) == (is_good, True)
    assert ("before or after a test: a token was written " in output) is not is_good
