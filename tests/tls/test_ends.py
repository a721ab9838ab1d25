"""Every order in which a peer can end: data, Close, the end of TLS, FIN and RST, in one segment or one after the other.

Whatever it is, the event loop says nothing of it (see `silence`), and the connection tells the right cause.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import pytest

from wsconnkit.machines.heartbeat import HeartbeatConfig
from wsconnkit.protocol.closeinfo import Cause
from wsconnkit.protocol.config import CloseConfig, ConnectionConfig, QueueConfig
from wsconnkit.protocol.errors import ConnectionClosed, HandshakeInterrupted, InvalidHandshake
from wsconnkit.protocol.frames import Opcode, encode_frame
from wsconnkit.protocol.upgrade import accept_key

from .conftest import Loop, Tls
from .peers import PATIENCE, UPGRADE, Peer, dial

CONFIG = ConnectionConfig(compression=None, close=CloseConfig(timeout=PATIENCE))
CLOSE_NOTIFY = b"\x15\x03\x03\x00\x02\x01\x00"
"""As a record in the clear, before there are keys."""


class End(NamedTuple):
    """What a peer does from some moment on."""

    pieces: tuple[str, ...]
    notify: bool
    last: str
    in_one: bool
    """Whether all goes into one segment."""

    def __str__(self) -> str:
        steps = [*self.pieces, *(["close_notify"] if self.notify else []), self.last]
        return (" + " if self.in_one else ", ").join(steps)

    def carry_out(self, peer: Peer, pieces: dict[str, bytes], on_sent: Callable[[], None] = lambda: None) -> None:
        with suppress(OSError):  # we may have left before
            for name in self.pieces:
                peer.write(pieces[name])
                if not self.in_one:
                    peer.flush()
            if self.notify:
                peer.close_notify()
            peer.flush()
            if self.last == "FIN":
                peer.fin()
        if self.last == "RST":
            peer.reset()
        on_sent()
        if self.last != "RST":
            peer.read_to_end()
            peer.sock.close()


def ends(*pieces: tuple[str, ...]) -> Iterator[End]:
    """Yield all ends in which any of the sequences of pieces come first."""
    for each, notify, last, in_one in product(pieces, (True, False), ("wait", "FIN", "RST"), (True, False)):
        if in_one or len(each) + notify > 1:
            yield End(each, notify, last, in_one)


def frames(mask: bytes | None) -> dict[str, bytes]:
    return {
        "data": encode_frame(Opcode.TEXT, b"data", mask=mask),
        "bad": b"\xff\xff",
        "Close": encode_frame(Opcode.CLOSE, b"\3\xe8bye", mask=mask),
    }


async def one_by_one(meet: Callable[[Any], Awaitable[None]], all_: Iterable[Any]) -> None:
    for each in all_:
        await meet(each)


class Handler:
    """Takes all messages, once it has begun to close if it is to.

    wait: what is awaited first.
    """

    def __init__(self, closes: bool, wait: Callable[[], Awaitable[None]] | None = None) -> None:
        self.closes = closes
        self.wait = wait
        self.ws: Any = None
        self.messages: list[Any] = []
        self.is_done = False

    async def __call__(self, ws: Any) -> None:
        self.ws = ws
        if self.closes:
            ws.start_close(4000, "ours", Cause.LOCAL_CLOSE)
        if self.wait is not None:
            await self.wait()
        with suppress(ConnectionClosed):
            while True:
                self.messages.append(await ws.recv())
        await ws.wait_closed()
        self.is_done = True


def check(end: End, handler: Handler) -> None:
    """Check what a connection tells that ended so."""
    info = handler.ws.close_info
    told = (str(end), info)
    if end.last == "RST":  # of what comes before, the system may have thrown away any
        assert info.cause in (Cause.TRANSPORT_LOST, Cause.PEER_CLOSE, Cause.LOCAL_CLOSE, Cause.PROTOCOL_ERROR), told
        return
    comes_first = end.pieces[0] if end.pieces else None
    if handler.closes:
        assert info.cause is Cause.LOCAL_CLOSE, told
        assert info.clean is ("Close" in end.pieces and comes_first != "bad"), told
    elif comes_first == "bad":
        assert info.cause is Cause.PROTOCOL_ERROR, told
    elif "Close" in end.pieces:
        assert (info.cause, info.code, info.reason, info.clean) == (Cause.PEER_CLOSE, 1000, "bye", True), told
    else:
        assert (info.cause, info.code) == (Cause.TRANSPORT_LOST, 1006), told
        assert info.error is None, told
    if not handler.closes:
        assert handler.messages == (["data"] if comes_first == "data" else []), told


OPEN = [*ends((), ("data",), ("Close",), ("data", "Close"), ("Close", "data"), ("bad",), ("bad", "Close"))]
ENDED = [end for end in OPEN if end.notify or end.last != "wait" or {"Close", "bad"} & {*end.pieces}]


@pytest.mark.parametrize("closes", [False, True], ids=["open", "closing"])
def test_a_client_may_end_in_any_way(loop: Loop, tls: Tls, closes: bool) -> None:
    def talk(end: End, server: Any) -> None:
        peer = dial(server, tls.client)
        peer.do_handshake()
        peer.write(UPGRADE)
        peer.flush()
        data = peer.read()
        while closes and b"ours" not in data:
            data += peer.read()
        end.carry_out(peer, frames(b"mask"))

    async def meet(end: End) -> None:
        handler = Handler(closes)
        async with loop.adapter.serve(handler, "127.0.0.1", 0, ssl=tls.server, config=CONFIG) as server:
            await loop.in_thread(lambda: talk(end, server))
            while not handler.is_done:
                await loop.turn()
        check(end, handler)

    loop.run(partial(one_by_one, meet, ENDED))


def test_a_client_may_end_in_any_way_while_reading_is_paused(loop: Loop, tls: Tls) -> None:
    config = replace(CONFIG, queue=QueueConfig(max_messages=2))
    flood = encode_frame(Opcode.TEXT, b"flood", mask=b"mask") * 100

    def talk(end: End, server: Any, is_paused: threading.Event, has_ended: threading.Event) -> None:
        peer = dial(server, tls.client)
        peer.do_handshake()
        peer.write(UPGRADE + flood)
        peer.flush()
        assert is_paused.wait(PATIENCE)
        end.carry_out(peer, frames(b"mask"), on_sent=has_ended.set)

    async def meet(end: End) -> None:
        is_paused, has_ended = threading.Event(), threading.Event()

        async def wait() -> None:
            while handler.ws._pump.reading:
                await loop.turn()
            is_paused.set()
            while not has_ended.is_set():
                await loop.turn()

        handler = Handler(False, wait)
        async with loop.adapter.serve(handler, "127.0.0.1", 0, ssl=tls.server, config=config) as server:
            await loop.in_thread(lambda: talk(end, server, is_paused, has_ended))
            while not handler.is_done:
                await loop.turn()
        flooded, handler.messages = handler.messages[:100], handler.messages[100:]
        # uvloop takes a FIN for a reset: what it has read and not delivered by then is gone.
        if loop.name == "uvloop" and end.last == "FIN":
            end = end._replace(last="RST")
        if end.last != "RST":
            assert flooded == ["flood"] * 100, str(end)
        check(end, handler)

    loop.run(partial(one_by_one, meet, ENDED))


@pytest.mark.parametrize(
    "end", [End((), notify, last, False) for notify in (False, True) for last in ("FIN", "RST")], ids=str
)
def test_a_client_that_has_left_is_noticed_while_nobody_reads(loop: Loop, tls: Tls, end: End) -> None:
    heartbeat = HeartbeatConfig(interval=0.05, timeout=0.05)
    config = replace(CONFIG, heartbeat=heartbeat, queue=QueueConfig(max_messages=2))
    flood = encode_frame(Opcode.TEXT, b"flood", mask=b"mask") * 100

    def talk(server: Any, is_paused: threading.Event) -> None:
        peer = dial(server, tls.client)
        peer.do_handshake()
        peer.write(UPGRADE + flood)
        peer.flush()
        head = b""
        while b"\r\n\r\n" not in head:  # what is unread at the end would make a reset of it
            head += peer.read()
        assert is_paused.wait(PATIENCE)
        if end.notify:
            peer.close_notify()
            peer.flush()
        if end.last == "RST":
            peer.reset()
        peer.sock.close()

    async def main() -> None:
        is_paused = threading.Event()

        async def handler(ws: Any) -> None:
            while ws._pump.reading:
                await loop.turn()
            is_paused.set()
            await ws.wait_closed()
            causes.append(ws.close_info.cause)

        causes: list[Cause] = []
        async with loop.adapter.serve(handler, "127.0.0.1", 0, ssl=tls.server, config=config) as server:
            await loop.in_thread(lambda: talk(server, is_paused))
            while not causes:
                await loop.turn()
        assert causes == [Cause.TRANSPORT_LOST]

    loop.run(main)


def listening() -> socket.socket:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(PATIENCE)
    return listener


def answer_of(request: bytes) -> bytes:
    key = request.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0].decode()
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept_key(key).encode() + b"\r\n\r\n"
    )


def accepted(listener: socket.socket, tls: Tls) -> tuple[Peer, bytes]:
    """Return a client's peer and its request."""
    peer = Peer(listener.accept()[0], tls.server, server_side=True)
    peer.do_handshake()
    return peer, peer.read()


async def beside(loop: Loop, function: Callable[[], Any], main: Callable[[], Any]) -> None:
    """Run a function that blocks beside a client."""
    if loop.name == "trio":
        import trio

        async with trio.open_nursery() as nursery:
            nursery.start_soon(loop.in_thread, function)
            await main()
    else:
        import asyncio

        task = asyncio.ensure_future(loop.in_thread(function))
        await main()
        await task


@pytest.mark.parametrize("closes", [False, True], ids=["open", "closing"])
def test_a_server_may_end_in_any_way(loop: Loop, tls: Tls, closes: bool) -> None:
    def talk(end: End, listener: socket.socket, *, at_once: bool) -> None:
        peer, request = accepted(listener, tls)
        peer.write(answer_of(request))
        if not at_once:
            peer.flush()
        data = b""
        while closes and b"\x88" not in data:
            data += peer.read()
        end.carry_out(peer, frames(None))

    async def meet(end: End) -> None:
        # The client leaves it to the server to end first (RFC 6455, section 7.1.1).
        if end.last == "wait" and not end.notify:
            return
        for at_once in (False,) if closes or end.last == "RST" else (False, True):
            await meet_server(end, at_once)

    async def meet_server(end: End, at_once: bool) -> None:
        handler = Handler(closes)
        with listening() as listener:
            uri = f"wss://127.0.0.1:{listener.getsockname()[1]}/"

            async def client() -> None:
                async with loop.adapter.connect(uri, ssl=tls.client, config=CONFIG) as ws:
                    await handler(ws)

            await beside(loop, lambda: talk(end, listener, at_once=at_once), client)
        check(end, handler)

    loop.run(partial(one_by_one, meet, ENDED))


# Within the opening handshake.

BAD = b"\x00\r\n\r\n"
REQUESTS = {
    "half": UPGRADE[:30],
    "bad": BAD,
    "page": b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "all": UPGRADE,
}


def is_end(end: End) -> bool:
    """Tell whether the other side can know that it is one."""
    return end.notify or end.last != "wait" or end.pieces not in ((), ("half",))


def under_way(server: Any) -> int:
    return sum(len(acceptor) for acceptor in server._acceptors)


def test_a_client_may_end_within_its_request_in_any_way(loop: Loop, tls: Tls) -> None:
    def talk(end: End, server: Any, *, at_once: bool) -> None:
        peer = dial(server, tls.client)
        peer.do_handshake(keep_last=at_once)
        end.carry_out(peer, {**frames(b"mask"), **REQUESTS})

    async def meet(end: End) -> None:
        for at_once in (False, True):
            handler = Handler(False)
            async with loop.adapter.serve(handler, "127.0.0.1", 0, ssl=tls.server, config=CONFIG) as server:
                await loop.in_thread(partial(talk, end, server, at_once=at_once))
                while under_way(server) or len(server.connections):
                    await loop.turn()
                if end.last != "RST":
                    refused = 1 if end.pieces == ("bad",) else 0
                    assert sum(server.stats.refused.values()) == refused, (str(end), server.stats.refused)

    some = ends((), ("half",), ("bad",), ("page",), ("all", "Close"), ("all", "data", "Close"))
    loop.run(partial(one_by_one, meet, [end for end in some if is_end(end)]))


def test_a_server_may_end_within_its_answer_in_any_way(loop: Loop, tls: Tls) -> None:
    def talk(end: End, listener: socket.socket) -> None:
        peer, request = accepted(listener, tls)
        answer = answer_of(request)
        end.carry_out(
            peer, {"half": answer[:30], "bad": BAD, "no": b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"}
        )

    async def meet(end: End) -> None:
        with listening() as listener:
            uri = f"wss://127.0.0.1:{listener.getsockname()[1]}/"

            async def client() -> None:
                with pytest.raises((InvalidHandshake, OSError)) as caught:
                    await loop.adapter.connect(uri, ssl=tls.client, config=CONFIG).__aenter__()
                if end.last != "RST":
                    is_part = end.pieces in ((), ("half",))
                    assert isinstance(caught.value, InvalidHandshake), (str(end), caught.value)
                    assert isinstance(caught.value, HandshakeInterrupted) is is_part, (str(end), caught.value)

            await beside(loop, lambda: talk(end, listener), client)

    loop.run(partial(one_by_one, meet, filter(is_end, ends((), ("half",), ("bad",), ("no",)))))


# Within TLS.


def hello_of(context: ssl.SSLContext) -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1").do_handshake()
    return outgoing.read()


RAW_ENDS = [(notify, last) for notify in (True, False) for last in ("wait", "FIN", "RST") if notify or last != "wait"]


def end_raw(sock: socket.socket, data: bytes, last: str) -> None:
    with suppress(OSError):
        if data:
            sock.sendall(data)
        if last == "FIN":
            sock.shutdown(socket.SHUT_WR)
    peer = Peer(sock, ssl.create_default_context())
    if last == "RST":
        peer.reset()
    else:
        with suppress(OSError):
            while sock.recv(64 * 1024):
                pass
        sock.close()


@pytest.mark.parametrize("state", ["nothing", "half", "hello"])
def test_a_client_may_end_within_tls_in_any_way(loop: Loop, tls: Tls, state: str) -> None:
    hello = hello_of(tls.client)
    begin = {"nothing": b"", "half": hello[:100], "hello": hello}[state]

    async def meet(how: tuple[bool, str]) -> None:
        notify, last = how
        if (state, notify, last) == ("half", True, "wait"):
            return  # within a record that is no end
        async with loop.adapter.serve(Handler(False), "127.0.0.1", 0, ssl=tls.server, config=CONFIG) as server:
            sock = socket.create_connection(server.sockets[0].getsockname()[:2], timeout=PATIENCE)
            await loop.in_thread(lambda: end_raw(sock, begin + CLOSE_NOTIFY * notify, last))
            while under_way(server):
                await loop.turn()
            assert not server.connections

    loop.run(partial(one_by_one, meet, RAW_ENDS))


@pytest.mark.parametrize("state", ["nothing", "part"])
def test_a_server_that_ends_within_tls_is_a_connection_reset(loop: Loop, tls: Tls, state: str) -> None:
    def talk(listener: socket.socket, notify: bool, last: str) -> None:
        sock = listener.accept()[0]
        sock.settimeout(PATIENCE)
        peer = Peer(sock, tls.server, server_side=True)
        peer._read_some()
        flight = b""
        if state == "part":
            with suppress(ssl.SSLWantReadError):
                peer._tls.do_handshake()
            flight = peer._outgoing.read()[:80]  # within the first record
        if notify and not flight:
            flight = CLOSE_NOTIFY
        end_raw(sock, flight, last)

    async def meet(how: tuple[bool, str]) -> None:
        notify, last = how
        if state == "part" and last == "wait":
            return  # within a record that is no end
        with listening() as listener:
            uri = f"wss://127.0.0.1:{listener.getsockname()[1]}/"

            async def client() -> None:
                with pytest.raises(ConnectionResetError) as caught:
                    await loop.adapter.connect(uri, ssl=tls.client, config=CONFIG).__aenter__()
                if last != "RST":
                    assert str(caught.value) == "the connection ended during the TLS handshake", how

            await beside(loop, lambda: talk(listener, notify, last), client)

    loop.run(partial(one_by_one, meet, RAW_ENDS))


def test_a_refusal_ends_with_a_closure_alert(loop: Loop, tls: Tls) -> None:
    def talk(server: Any) -> Peer:
        peer = dial(server, tls.client)
        peer.do_handshake()
        peer.write(b"GET /other HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        peer.flush()
        assert peer.read_to_end().startswith(b"HTTP/1.1 404 ")
        peer.sock.close()
        return peer

    async def main() -> None:
        async def handler(ws: Any) -> None:
            raise AssertionError

        async with loop.adapter.serve(handler, "127.0.0.1", 0, ssl=tls.server, path="/ws") as server:
            peer = await loop.in_thread(lambda: talk(server))
            assert peer.was_alerted

    loop.run(main)
