"""Pipes whose reader has gone."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from wsconnkit.asyncio import connect

LIMIT = 30.0
FAILING: list[tuple[list[str], int]] = [
    (["unknown"], 2),
    (["check-config", "--config", "missing"], 2),
    (["serve", "--path", "ws"], 2),
    (["connect", "http://127.0.0.1/"], 1),
]


@pytest.fixture
def unread() -> Iterator[int]:
    """A pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["serve", "--help"], ["check-config"], ["demo"]], ids=" ".join
)
def test_a_command_whose_output_nobody_reads_ends_without_a_word(start: Any, unread: int, arguments: list[str]) -> None:
    process = start(arguments, stdout=unread)
    assert process.wait(LIMIT) == 1
    assert process.stderr.read() == ""


@pytest.mark.parametrize("arguments", [["--version"], ["check-config"]], ids=" ".join)
def test_a_command_that_has_nothing_to_say_beside_it_does_not_notice(
    start: Any, run: Any, unread: int, arguments: list[str]
) -> None:
    process = start(arguments, stderr=unread)
    assert process.communicate(timeout=LIMIT)[0] == run(*arguments).stdout
    assert process.returncode == 0


@pytest.mark.parametrize(("arguments", "status"), FAILING, ids=str)
@pytest.mark.parametrize("both", [False, True], ids=["stderr", "both"])
def test_an_error_that_nobody_reads_has_its_exit_status(
    start: Any, unread: int, arguments: list[str], status: int, both: bool
) -> None:
    process = start(arguments, stderr=unread, **({"stdout": unread} if both else {}))
    assert process.wait(LIMIT) == status


def test_a_conversation_goes_on_without_a_reader_of_what_is_told_of_it(serving: Any, start: Any, unread: int) -> None:
    with serving() as (_, started):
        process = start(["connect", f"ws://127.0.0.1:{started['port']}/ws"], stderr=unread)
        assert process.communicate("hello\n", timeout=LIMIT)[0] == "hello\n"
        assert process.returncode == 0


@pytest.mark.parametrize("auth", [False, True], ids=["no-auth", "token"])
def test_a_server_goes_on_without_a_reader_of_all_that_it_prints(serving: Any, auth: bool) -> None:
    async def come_and_go(port: int) -> None:
        async with connect(f"ws://127.0.0.1:{port}/ws") as ws:
            await ws.ping()

    with serving(auth=auth, stderr=subprocess.STDOUT) as (process, started):
        process.stdout.close()
        if not auth:
            asyncio.run(come_and_go(started["port"]))
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == 0
