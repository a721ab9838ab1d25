"""Servers that run until a signal: the first one drains, the second one ends, and all is then as before."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys

import pytest
import trio
import trio.testing
from tests.scenarios.pipes import MemoryListener, MemoryStream

from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.http import Response
from wsconnkit.protocol.upgrade import HTTPRequest, UpgradeRequest
from wsconnkit.service.drain import DrainReport
from wsconnkit.service.principal import Principal
from wsconnkit.trio import Connection, Server, connect, serve

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


# Ctrl-C without `run_until_signal`.


class Probe(MemoryStream):
    """Keeps whether those who use it are safe from Ctrl-C; the first read for which `interrupt` is set sends it."""

    def __init__(self, stream: MemoryStream) -> None:
        super().__init__(stream._inbound, stream._outbound)
        self.is_safe: set[bool] = set()
        self.interrupt = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.is_safe.add(trio.lowlevel.currently_ki_protected())
        await super().send_all(data)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        self.is_safe.add(trio.lowlevel.currently_ki_protected())
        data = await super().receive_some(max_bytes)
        if self.interrupt:
            self.interrupt = False
            signal.raise_signal(signal.SIGINT)
        return data


class ProbingListener(MemoryListener):
    """Makes all who are accepted probes."""

    def __init__(self) -> None:
        super().__init__()
        self.probes: list[Probe] = []

    async def accept(self) -> trio.abc.Stream:
        stream = await super().accept()
        assert isinstance(stream, MemoryStream)
        self.probes.append(Probe(stream))
        return self.probes[-1]


class Log(logging.Handler):
    """Keeps which events are logged where Ctrl-C could interrupt."""

    def __init__(self) -> None:
        super().__init__()
        self.interruptible: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        if not trio.lowlevel.currently_ki_protected():
            self.interruptible.add(record.__dict__["type"])


def test_ctrl_c_interrupts_the_application_and_none_of_our_tasks(run_virtual: Run) -> None:
    log = Log()

    async def main() -> None:
        reached: list[str] = []

        def reach(name: str) -> None:
            assert not trio.lowlevel.currently_ki_protected()
            reached.append(name)

        async def handler(ws: Connection) -> None:
            reach("handler")
            async for message in ws:
                await ws.send(message)

        async def authenticate(token: str | None, request: UpgradeRequest) -> Principal:
            await trio.lowlevel.checkpoint()
            reach("authenticate")
            return Principal(subject="alice")

        async def page(request: HTTPRequest) -> Response:
            reach("http")
            return Response(200)

        listener = ProbingListener()
        async with serve(
            handler,
            listeners=[listener],
            authenticate=authenticate,
            reauthenticate=True,
            http=page,
            config=ConnectionConfig(idle_timeout=60),
        ) as server:
            probe = Probe(listener.connect())
            async with connect("ws://test.invalid/", stream=probe) as ws:
                await ws.send("hello")
                assert await ws.recv() == "hello"
                await ws.reauthenticate("fresh")
                await ws.wait_closed()
                assert info(ws).code == 1001
            asking = listener.connect()
            await asking.send_all(b"GET /page HTTP/1.1\r\nHost: test.invalid\r\n\r\n")
            assert (await asking.receive_some()).startswith(b"HTTP/1.1 200 ")
            await asking.aclose()
            async with connect("ws://test.invalid/", stream=listener.connect()) as ws:
                await server.drain(window=0)
        assert [each.is_safe for each in (probe, *listener.probes)] == [{True}] * 4
        assert reached == ["authenticate", "handler", "authenticate", "http", "authenticate", "handler"]

    logger = logging.getLogger("wsconnkit")
    logger.addHandler(log)
    try:
        run_virtual(main)
    finally:
        logger.removeHandler(log)
    assert log.interruptible == set()


def test_ctrl_c_arrives_where_the_application_waits_and_clients_are_told(run_virtual: Run) -> None:
    async def main() -> None:
        listener = ProbingListener()
        told = []

        async def stay(ws: Connection) -> None:
            await ws.wait_closed()
            told.append(info(ws).code)

        async def live(nursery: trio.Nursery) -> None:
            async with serve(echo, listeners=[listener]):
                for _ in range(3):
                    ws = await nursery.start(connect("ws://test.invalid/", stream=listener.connect()).run)
                    nursery.start_soon(stay, ws)
                listener.probes[2].interrupt = True
                await ws.send("now")
                await trio.sleep_forever()

        async with trio.open_nursery() as nursery:
            with pytest.raises(KeyboardInterrupt):
                await live(nursery)
        assert told == [1001, 1001, 1001]

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which trio looks for
    try:
        run_virtual(main)
    finally:
        signal.signal(signal.SIGINT, before)
