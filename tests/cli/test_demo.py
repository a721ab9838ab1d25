from __future__ import annotations

import logging
import re
import subprocess
from typing import Any

import pytest
from click.testing import CliRunner

from wsconnkit.asyncio import connect
from wsconnkit.cli.demo import demo_command
from wsconnkit.cli.demo.actor import Actor
from wsconnkit.protocol.closeinfo import Cause

ENDS = {
    "healthy": ("1012", "service restart", "drain", "server", "yes", "yes"),
    "silent": ("1001", "going away", "heartbeat", "server", "no", "yes"),
    "slow": ("1012", "service restart", "drain", "server", "yes", "yes"),
    "too big": ("1009", "message too big", "too_big", "server", "no", "yes"),
    "bomb": ("1009", "message too big", "too_big", "server", "no", "yes"),
    "vanishing": ("1006", "abnormal closure", "transport_lost", "transport", "no", "yes"),
    "polite": ("1000", "normal closure", "peer_close", "client", "yes", "yes"),
}


def summary(output: str) -> dict[str, tuple[str, ...]]:
    _, _, table = output.partition("\nclient ")
    rows = [re.split(r"\s{2,}", line.strip()) for line in table.splitlines()[1:] if line]
    return {name: tuple(cells) for name, *cells in rows if cells}


@pytest.fixture(scope="module")
def performed(command: list[str], environment: dict[str, str]) -> str:
    """What the demo prints to a pipe, even where the environment asks for colours."""
    with subprocess.Popen(
        [*command, "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**environment, "FORCE_COLOR": "1"}
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert process.poll() is None
        stdout, stderr = process.communicate(timeout=60)
    output = (first + stdout).decode()
    assert (process.returncode, stderr) == (0, b""), output
    return output


def test_each_client_ends_as_expected(performed: str) -> None:
    assert summary(performed) == ENDS
    assert performed.endswith("\nAll 7 clients ended as expected.\n")


def test_plain_output_has_no_control_characters_and_a_narrow_summary(performed: str) -> None:
    assert re.findall(r"[^\n -~]", performed) == []
    _, _, table = performed.partition("\n\n")
    assert max(map(len, table.splitlines())) < 80


@pytest.mark.parametrize(
    ("who", "what"),
    [
        ("server", "listens on ws://127.0.0.1:"),
        ("silent", "has missed 1: ping again"),
        ("silent", "is closed: 1001 heartbeat, connection timeout"),
        ("slow", "is sent 384 KiB, faster than it reads"),
        ("slow", r"has been sent all; send waited \d+\.\d s in all"),
        ("too big", r"is closed: 1009 too_big, frame of 1099511627776 bytes is over max_frame_size \(131072\)"),
        ("bomb", r"is closed: 1009 too_big, message of \d+ bytes is over max_message_size \(262144\)"),
        ("vanishing", "is closed: 1006 transport_lost, "),
        ("polite", "is closed: 1000 peer_close, see you"),
        ("server", "shuts down: 2 connections are closed with 1012"),
        ("healthy", "is closed: 1012 drain, the demo is over"),
    ],
)
def test_the_lines_tell_what_happens(performed: str, who: str, what: str) -> None:
    assert re.search(rf"^ +\d+\.\d s  {who} +{what}", performed, re.MULTILINE)


def test_output_that_nobody_reads_ends_it_without_a_traceback(start: Any) -> None:
    process = start(["demo"])
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(30) == 1
    assert process.stderr.read() == ""


def test_in_a_terminal_it_shows_a_table_that_fits_and_the_summary(terminal: Any) -> None:
    pty = terminal("demo")
    pty.wait_for("wsconnkit demo")
    pty.wait_for("never answers a ping")
    status, rest = pty.end()
    assert status == 0
    assert "\x1b[" in rest
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", rest).replace("\r\n", "\n")
    assert text.rstrip().endswith("All 7 clients ended as expected.")
    assert summary(text)["silent"] == ENDS["silent"]
    # Every picture but the last, in which nothing is cut, fits the terminal.
    pictures = text.split("wsconnkit demo")[1:-1]
    assert len(pictures) > 20
    assert max(picture.count("\n") for picture in pictures) < 24
    assert max(len(line) for line in text.splitlines()) <= 80


def play(actors: list[Actor], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    monkeypatch.setattr("wsconnkit.cli.demo.cast", lambda: actors)
    monkeypatch.setattr("wsconnkit.cli.demo.stage._SHORTEST", 0.0)
    ended = CliRunner().invoke(demo_command)
    return ended.exit_code, ended.output


async def leave(uri: str) -> None:
    async with connect(uri) as ws:
        await ws.close(4000, "bye")


async def fail(uri: str) -> None:
    async with connect(uri):
        raise ValueError("lost the script")


async def stay_away(uri: str) -> None:
    pass


def actor(name: str, act: Any, code: int, cause: Cause) -> Actor:
    return Actor(name=name, does="acts", enters=0, play=act, code=code, cause=cause)


def test_clients_that_end_otherwise_than_expected_are_told_and_exit_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    actors = [
        actor("good", leave, 4000, Cause.PEER_CLOSE),
        actor("other code", leave, 1000, Cause.PEER_CLOSE),
        actor("other cause", leave, 4000, Cause.DRAIN),
        actor("failing", fail, 1000, Cause.PEER_CLOSE),
        actor("absent", stay_away, 1000, Cause.PEER_CLOSE),
    ]
    monkeypatch.setattr("wsconnkit.cli.demo.stage._LONGEST", 1.0)
    status, output = play(actors, monkeypatch)
    assert status == 1
    client = ("4000", "private to the application", "peer_close", "client", "yes")
    assert summary(output) == {
        "good": (*client, "yes"),
        "other code": (*client, "no: 1000 peer_close"),
        "other cause": (*client, "no: 4000 drain"),
        "failing": ("1000", "normal closure", "peer_close", "client", "yes", "ValueError: lost the script"),
        "absent": ("-", "-", "-", "-", "-", "no: 1000 peer_close"),
    }
    assert output.endswith("\nNot as expected: other code, other cause, failing, absent.\n")


def test_it_leaves_the_library_s_logger_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("wsconnkit.connection")
    before = (logger.level, logger.propagate, list(logger.handlers))
    monkeypatch.setattr("wsconnkit.cli.demo.stage._LONGEST", 0.2)
    assert play([actor("good", leave, 4000, Cause.PEER_CLOSE)], monkeypatch)[0] == 0
    assert (logger.level, logger.propagate, list(logger.handlers)) == before
