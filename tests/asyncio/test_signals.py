"""Servers that run until a signal: the first one drains, the second one ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

LIMIT = 30.0
PROGRAM = """
import asyncio, sys
import uvloop
from wsconnkit.asyncio import connect, serve

kind, work = sys.argv[1], float(sys.argv[2])

async def handler(ws):
    await ws.draining
    with ws.busy():
        print("told", flush=True)
        await asyncio.sleep(work)

async def main():
    async with serve(handler, "127.0.0.1", 0) as server:
        async with connect(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}") as ws:
            await ws.ping()
            # Printed when it waits for signals.
            asyncio.get_running_loop().call_soon(lambda: print("ready", flush=True))
            if work < 0:
                asyncio.get_running_loop().call_later(0.1, lambda: asyncio.ensure_future(server.close(4000)))
            report = await server.run_until_signal(window=0, grace=60)
            print(*(drained.outcome.value for drained in report.connections), ws.close_info.code)

(uvloop.run if kind == "uvloop" else asyncio.run)(main())
"""

Start = Callable[..., "subprocess.Popen[str]"]
loops = pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
signals = pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])


@pytest.fixture
def start() -> Iterator[Start]:
    """Start the program, and see to it that it ends."""
    processes = []

    def started(kind: str, work: float) -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "error", "-c", PROGRAM, kind, str(work)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        processes.append(process)
        assert line_of(process) == "ready\n"
        return process

    yield started
    for process in processes:
        with process:
            process.kill()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


@loops
@signals
def test_a_signal_drains_and_the_program_goes_on_to_its_end(start: Start, kind: str, signum: signal.Signals) -> None:
    process = start(kind, 0.1)
    process.send_signal(signum)
    stdout, stderr = process.communicate(timeout=LIMIT)
    assert (process.returncode, stderr) == (0, "")
    assert stdout == "told\nclosed 1012\n"


@loops
@signals
def test_a_second_signal_ends_the_program_at_once(start: Start, kind: str, signum: signal.Signals) -> None:
    process = start(kind, 50)
    process.send_signal(signal.SIGTERM)
    assert line_of(process) == "told\n"
    before = time.monotonic()
    process.send_signal(signum)
    assert process.communicate(timeout=LIMIT) == ("", "")
    assert process.returncode == -signum
    assert time.monotonic() - before < 10


@loops
def test_without_a_signal_it_goes_on_when_the_server_is_closed(start: Start, kind: str) -> None:
    process = start(kind, -1)
    stdout, stderr = process.communicate(timeout=LIMIT)
    assert (process.returncode, stdout, stderr) == (0, "4000\n", "")
