"""Servers that run until a signal: the first one drains, the second one ends, and all is then as before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
import trio
import trio.testing

from wsconnkit.service.drain import DrainReport
from wsconnkit.trio import Server, connect, serve

from .peers import Run, echo, info, uri

signals = pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
PROGRAM = """
import trio, trio.testing
from wsconnkit.trio import connect, serve

async def handler(ws):
    await ws.draining
    with ws.busy():
        print("told", flush=True)
        await trio.sleep(50)

async def main():
    async with serve(handler, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with connect(f"ws://127.0.0.1:{port}") as ws, trio.open_nursery() as nursery:
            await ws.ping()

            @nursery.start_soon
            async def tell():
                await trio.testing.wait_all_tasks_blocked()
                print("ready", flush=True)

            await server.run_until_signal(window=0, grace=60)

trio.run(main)
"""


@signals
def test_a_signal_drains_all_servers_and_is_then_what_it_was_before(run: Run, signum: int) -> None:
    reports: list[DrainReport] = []

    async def main() -> None:
        before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
        async with serve(echo, "127.0.0.1", 0) as one, serve(echo, "127.0.0.1", 0) as two:
            async with connect(uri(one)) as first, connect(uri(two)) as second, trio.open_nursery() as nursery:

                async def wait(server: Server) -> None:
                    reports.append(await server.run_until_signal(window=0))

                nursery.start_soon(wait, one)
                nursery.start_soon(wait, two)
                await trio.testing.wait_all_tasks_blocked()
                os.kill(os.getpid(), signum)
                await first.wait_closed()
                await second.wait_closed()
                assert info(first).code == info(second).code == 1012
        assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before

    run(main)
    assert [str(report).endswith("1 closed") for report in reports] == [True, True]


@signals
def test_a_second_signal_ends_the_program_at_once(signum: signal.Signals) -> None:
    command = [sys.executable, "-W", "error", "-c", PROGRAM]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGTERM)
            assert process.stdout.readline() == "told\n"
            process.send_signal(signum)
            assert process.communicate(timeout=30) == ("", "")
            assert process.returncode == -signum
        finally:
            process.kill()


def test_without_a_signal_it_ends_when_the_server_is_closed(run: Run) -> None:
    async def main() -> None:
        before = signal.getsignal(signal.SIGTERM)
        async with serve(echo, "127.0.0.1", 0) as server, trio.open_nursery() as nursery:
            nursery.start_soon(server.run_until_signal)
            await trio.testing.wait_all_tasks_blocked()
            assert signal.getsignal(signal.SIGTERM) is not before
            await server.close()
        assert signal.getsignal(signal.SIGTERM) is before

    run(main)
