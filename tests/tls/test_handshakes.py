"""Handshakes under way are known from the first byte on, within TLS too, and the oldest of too many end."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

import pytest

from wsconnkit.protocol.config import ConnectionConfig, HandshakeLimits
from wsconnkit.service.admission import AdmissionConfig
from wsconnkit.service.proxies import TrustedProxies

from .conftest import Loop, Tls
from .peers import UPGRADE, Peer, dial, has_ended


async def hold(ws: Any) -> None:
    await ws.wait_closed()


def connected(server: Any) -> socket.socket:
    return socket.create_connection(server.sockets[0].getsockname()[:2])


def under_way(server: Any) -> int:
    return sum(len(acceptor) for acceptor in server._acceptors)


def half_shaken(server: Any, tls: Tls) -> socket.socket:
    """Return a client in the middle of TLS: it has sent half of its first record."""
    peer = dial(server, tls.client)
    try:
        peer._tls.do_handshake()
    except Exception:
        hello = peer._outgoing.read()
        peer.sock.sendall(hello[: len(hello) // 2])
    return peer.sock


@pytest.mark.parametrize("is_silent", [True, False], ids=["silent", "within TLS"])
@pytest.mark.parametrize("cap", ["max_handshakes", "max_handshakes_per_ip"])
def test_over_the_cap_the_oldest_end_and_a_good_client_gets_in(
    loop: Loop, tls: Tls, caplog: pytest.LogCaptureFixture, cap: str, is_silent: bool
) -> None:
    async def main() -> None:
        admission = AdmissionConfig(**{"max_handshakes": None, "max_handshakes_per_ip": None, cap: 5})  # type: ignore[arg-type]
        async with loop.adapter.serve(hold, "127.0.0.1", 0, ssl=tls.server, admission=admission) as server:
            clients = []
            for number in range(20):
                clients.append(connected(server) if is_silent else half_shaken(server, tls))
                while under_way(server) + server.stats.handshakes_dropped[cap] <= number:
                    await loop.turn()
            while under_way(server) > 5:
                await loop.turn()
            for client in clients[:15]:
                while not has_ended(client):
                    await loop.turn()
            assert not any(has_ended(client) for client in clients[15:])
            uri = f"wss://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
            async with loop.adapter.connect(uri, ssl=tls.client) as ws:
                assert await ws.ping() >= 0
            assert server.stats.handshakes_dropped == {cap: 16}
            for client in clients:
                client.close()

    loop.run(main)
    lines = [record.__dict__ for record in caplog.records if record.__dict__.get("type") == "server_handshakes_dropped"]
    assert [(line["levelno"], line["count"], line["cap"], line["client_ip"]) for line in lines] == [
        (logging.WARNING, 1, cap, "127.0.0.1")
    ]


def test_a_trusted_proxy_has_no_cap_of_its_own(loop: Loop, tls: Tls) -> None:
    async def main() -> None:
        async with loop.adapter.serve(
            hold,
            "127.0.0.1",
            0,
            ssl=tls.server,
            admission=AdmissionConfig(max_handshakes_per_ip=2),
            proxies=TrustedProxies(["127.0.0.1"]),
        ) as server:
            clients = [connected(server) for _ in range(10)]
            while under_way(server) < 10:
                await loop.turn()
            for _ in range(20):
                await loop.turn()
            assert not any(has_ended(client) for client in clients)
            for client in clients:
                client.close()

    loop.run(main)


@pytest.mark.parametrize("is_secure", [True, False], ids=["TLS", "plain"])
def test_a_client_that_says_nothing_is_dropped_when_its_time_is_over(loop: Loop, tls: Tls, is_secure: bool) -> None:
    async def main() -> None:
        config = ConnectionConfig(handshake=HandshakeLimits(timeout=0.2))
        ssl = tls.server if is_secure else None
        async with loop.adapter.serve(hold, "127.0.0.1", 0, ssl=ssl, config=config) as server:
            client = connected(server)
            assert await loop.in_thread(lambda: client.recv(1)) == b""
            while under_way(server):
                await loop.turn()
            client.close()

    loop.run(main)


@pytest.mark.parametrize("is_silent", [True, False], ids=["silent", "within TLS"])
def test_a_server_that_closes_drops_who_is_within_tls(loop: Loop, tls: Tls, is_silent: bool) -> None:
    async def main() -> None:
        async with loop.adapter.serve(hold, "127.0.0.1", 0, ssl=tls.server) as server:
            client = connected(server) if is_silent else half_shaken(server, tls)
            while not under_way(server):
                await loop.turn()
        assert not under_way(server)
        assert has_ended(client)
        client.close()

    loop.run(main)


@pytest.mark.parametrize("is_whole", [True, False], ids=["with the end of TLS", "behind it"])
def test_what_comes_with_the_end_of_tls_is_not_lost(loop: Loop, tls: Tls, is_whole: bool) -> None:
    def talk(peer: Peer) -> bytes:
        peer.do_handshake(keep_last=is_whole)
        peer.write(UPGRADE)
        peer.flush()
        answer = peer.read()
        peer.close_notify()
        peer.flush()
        peer.read_to_end()
        peer.sock.close()
        return answer

    async def main() -> None:
        async with loop.adapter.serve(hold, "127.0.0.1", 0, ssl=tls.server) as server:
            answer = await loop.in_thread(lambda: talk(dial(server, tls.client)))
            assert answer.startswith(b"HTTP/1.1 101 ")

    loop.run(main)


def test_a_hello_that_was_there_at_once_is_not_lost_where_tasks_begin_late(loop: Loop, tls: Tls) -> None:
    def talk(peer: Peer) -> bytes:
        peer.do_handshake()
        peer.write(UPGRADE)
        peer.flush()
        answer = peer.read()
        peer.sock.close()
        return answer

    async def main() -> None:
        if loop.name != "trio":  # with a factory, ours begin a turn later
            running = asyncio.get_running_loop()
            running.set_task_factory(lambda loop, coro, **named: asyncio.Task(coro, loop=loop, **named))
        async with loop.adapter.serve(hold, "127.0.0.1", 0, ssl=tls.server) as server:
            peer = dial(server, tls.client)
            peer.say_hello()
            assert (await loop.in_thread(lambda: talk(peer))).startswith(b"HTTP/1.1 101 ")

    loop.run(main)


@pytest.mark.parametrize("end", ["FIN", "RST", "garbage"])
def test_a_client_that_leaves_within_tls_is_forgotten(loop: Loop, tls: Tls, end: str) -> None:
    async def main() -> None:
        async with loop.adapter.serve(hold, "127.0.0.1", 0, ssl=tls.server) as server:
            for wait in (True, False):
                peer = dial(server, tls.client)
                while wait and not under_way(server):
                    await loop.turn()
                if end == "FIN":
                    peer.fin()
                elif end == "RST":
                    peer.reset()
                else:
                    peer.sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
                ended = False
                while end != "RST" and not ended:
                    await loop.turn()
                    ended = has_ended(peer.sock)
                while under_way(server):
                    await loop.turn()
                peer.sock.close()
            assert not server.connections

    loop.run(main)


def test_many_who_come_at_once_are_let_in_though_they_are_more_than_the_cap(loop: Loop) -> None:
    async def main() -> None:
        admission = AdmissionConfig(max_handshakes_per_ip=5)
        async with loop.adapter.serve(hold, "127.0.0.1", 0, admission=admission) as server:
            clients = [connected(server) for _ in range(50)]
            for client in clients:
                client.sendall(UPGRADE)
            while len(server.connections) < 50:
                await loop.turn()
            assert not server.stats.handshakes_dropped
            for client in clients:
                client.close()

    loop.run(main)
