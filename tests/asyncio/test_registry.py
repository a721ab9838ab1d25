"""Who is connected to a server, and how they are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from wsconnkit.asyncio import Connection, Server, connect, serve
from wsconnkit.machines.closing import State
from wsconnkit.protocol.clienthandshake import ClientHandshake
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.errors import ConnectionClosed
from wsconnkit.protocol.frames import Opcode, encode_frame
from wsconnkit.protocol.upgrade import UpgradeRequest
from wsconnkit.protocol.uri import parse_uri
from wsconnkit.service.health import Health
from wsconnkit.service.principal import Principal
from wsconnkit.testing.eventloop import VirtualTimeLoop

from .peers import Arrivals, Run, opened, port, uri

MASK = b"\x01\x02\x03\x04"
PLAIN = ConnectionConfig(compression=None)


async def whoever(token: str | None, request: UpgradeRequest) -> Principal:
    """Take the token for the name of the user."""
    return Principal(subject=token or "nobody")


class RawClient:
    """A client that answers each ping `delay` seconds later, or never; `pings` counts them."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float | None) -> None:
        self.writer = writer
        self.pings = 0
        self.pinging = asyncio.ensure_future(self._answer(reader, delay))

    async def _answer(self, reader: asyncio.StreamReader, delay: float | None) -> None:
        while head := await reader.read(2):
            payload = await reader.readexactly(head[1])
            if head[0] == 0x80 | Opcode.PING:
                self.pings += 1
                if delay is not None:
                    await asyncio.sleep(delay)
                    self.writer.write(encode_frame(Opcode.PONG, payload, mask=MASK))
        self.writer.close()

    @classmethod
    @asynccontextmanager
    async def open(cls, server: Server, *delays: float | None) -> AsyncIterator[list[RawClient]]:
        """Yield a client for each of `delays`."""
        clients = []
        for delay in delays:
            reader, writer = await asyncio.open_connection("127.0.0.1", port(server))
            writer.write(ClientHandshake(parse_uri(uri(server)), PLAIN, now=0.0).data_to_send())
            await reader.readuntil(b"\r\n\r\n")
            clients.append(cls(reader, writer, delay))
        try:
            yield clients
        finally:
            for client in clients:
                client.writer.close()
                client.pinging.cancel()


def test_connections_are_found_by_id_by_user_and_all(run: Run) -> None:
    async def main() -> None:
        arrivals = Arrivals()
        async with serve(arrivals, "127.0.0.1", 0, authenticate=whoever) as server:
            connections = server.connections
            assert (len(connections), list(connections), connections.by_user("alice")) == (0, [], ())
            clients, arrived = [], []
            for name in ("alice", "bob", "alice"):
                clients.append(await connect(uri(server), token=name))
                arrived.append(await arrivals.connections.get())
            assert list(connections) == arrived
            assert [connections.get(ws.id) for ws in arrived] == arrived
            assert connections.get("unknown") is None
            assert len({ws.id for ws in arrived}) == len(connections) == 3
            assert connections.by_user("alice") == (arrived[0], arrived[2])
            assert connections.by_user("bob") == (arrived[1],)
            assert connections.by_user("carol") == ()
            assert all(ws in connections for ws in arrived)
            assert clients[0] not in connections

            await clients[0].close()
            await arrived[0].wait_closed()
            assert list(connections) == arrived[1:]
            assert connections.by_user("alice") == (arrived[2],)
            assert connections.get(arrived[0].id) is None
        assert len(connections) == 0
        assert connections.by_user("alice") == ()

    run(main())


def test_without_authentication_connections_belong_to_nobody(run: Run) -> None:
    async def main() -> None:
        arrivals = Arrivals()
        async with serve(arrivals, "127.0.0.1", 0) as server, connect(uri(server)):
            ws = await arrivals.connections.get()
            assert list(server.connections) == [ws]
            assert server.connections.by_user("None") == ()

    run(main())


def test_a_connection_is_known_from_when_its_handler_begins_until_it_has_ended(run: Run) -> None:
    async def main() -> None:
        known: list[bool] = []

        async def handler(ws: Connection) -> None:
            known.append(ws in server.connections)
            with pytest.raises(ConnectionClosed):
                await ws.recv()
            known.append(ws in server.connections)

        async with serve(handler, "127.0.0.1", 0) as server:
            for code in (1000, 4000):
                async with connect(uri(server)) as ws:
                    await ws.ping()
                    await ws.close(code)
            ws = await connect(uri(server))
            await ws.ping()
            ws.abort()
            while len(known) < 6:
                await asyncio.sleep(0)
        assert known == [True, False] * 3

    run(main())


def test_all_connections_may_be_sent_to_while_some_leave(run: Run) -> None:
    async def main() -> None:
        arrivals = Arrivals()
        async with serve(arrivals, "127.0.0.1", 0) as server:
            clients = await asyncio.gather(*(opened(server) for _ in range(20)))
            arrived = [await arrivals.connections.get() for _ in clients]
            sent = 0
            for n, ws in enumerate(server.connections):
                if n == 5:
                    for leaving in arrived[10:]:
                        leaving.abort()
                    await asyncio.gather(*(leaving.wait_closed() for leaving in arrived[10:]))
                    assert len(server.connections) == 10
                try:
                    await ws.send("to all")
                except ConnectionClosed:
                    assert n >= 10
                else:
                    sent += 1
            assert sent == 10
            while len(kept := [ws for ws in clients if ws.state is State.OPEN]) > 10:
                await asyncio.sleep(0)
            assert [await ws.recv() for ws in kept] == ["to all"] * 10

    run(main())


def test_all_connections_of_a_user_may_be_closed(run: Run) -> None:
    async def main() -> None:
        arrivals = Arrivals()
        async with serve(arrivals, "127.0.0.1", 0, authenticate=whoever) as server:
            clients = [await connect(uri(server), token=name) for name in ("alice", "bob", "alice")]
            while len(server.connections) < 3:
                await asyncio.sleep(0)
            await asyncio.gather(*(ws.close(4001, "signed out") for ws in server.connections.by_user("alice")))
            await clients[0].wait_closed()
            await clients[2].wait_closed()
            assert [ws.close_info and ws.close_info.code for ws in clients] == [4001, None, 4001]
            assert [ws.principal and ws.principal.subject for ws in server.connections] == ["bob"]

    run(main())


def test_a_server_without_connections_has_no_latencies(run: Run) -> None:
    async def main() -> None:
        async with serve(Arrivals(), "127.0.0.1", 0) as server:
            assert server.health() == Health(
                active=0, healthy=0, unhealthy=0, average_latency=None, p50=None, p95=None, p99=None
            )

    run(main())


def test_health_counts_those_who_leave_pings_unanswered(run_virtual: Run, virtual_loop: VirtualTimeLoop) -> None:
    def counts(server: Server) -> tuple[int, int, int]:
        health = server.health()
        return health.active, health.healthy, health.unhealthy

    async def main() -> None:
        async with serve(Arrivals(), "127.0.0.1", 0) as server:
            async with RawClient.open(server, None, None, 0.5) as (silent, late, _):
                assert counts(server) == (3, 3, 0)
                assert server.health().average_latency is None
                await asyncio.sleep(34)
                assert (silent.pings, counts(server)) == (1, (3, 3, 0))  # the ping has 5 seconds
                await asyncio.sleep(2)
                assert counts(server) == (3, 1, 2)
                late.writer.write(encode_frame(Opcode.TEXT, b"here I am", mask=MASK))
                await asyncio.sleep(1)
                assert counts(server) == (3, 2, 1)
                await asyncio.sleep(10)
                assert silent.pings == 3
                assert counts(server) == (2, 2, 0)  # one is taken for dead by now
                assert server.health().average_latency == pytest.approx(0.5, abs=0.01)

    run_virtual(main())


def test_health_tells_the_latencies(run_virtual: Run) -> None:
    async def main() -> None:
        async with serve(Arrivals(), "127.0.0.1", 0) as server:
            delays = [(n * 7 % 20 + 1) / 100 for n in range(20)]  # 0.01 to 0.20 seconds, in some order
            async with RawClient.open(server, *delays):
                await asyncio.sleep(31)
                health = server.health()
                assert (health.active, health.healthy) == (20, 20)
                told = [health.average_latency, health.p50, health.p95, health.p99]
                assert told == pytest.approx([0.105, 0.10, 0.19, 0.20], abs=0.001)

    run_virtual(main())


def test_a_connection_that_closes_is_active_and_not_healthy(run_virtual: Run) -> None:
    async def main() -> None:
        async with serve(Arrivals(), "127.0.0.1", 0) as server, RawClient.open(server, None):
            (ws,) = server.connections
            closing = asyncio.ensure_future(ws.close())
            await asyncio.sleep(1)
            assert (server.health().active, server.health().healthy) == (1, 0)
            await closing
            assert server.health().active == 0

    run_virtual(main())
