"""Connections on transports that another HTTP server has upgraded: our own small one, and that of aiohttp."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, cast

import aiohttp
import aiohttp.web
import pytest
import websockets.asyncio.client
from websockets.exceptions import InvalidStatus as WebsocketsInvalidStatus
from websockets.typing import Subprotocol

from wsconnkit.asyncio import Connection, attach, connect
from wsconnkit.machines.framesize import MIB, FrameLimits
from wsconnkit.protocol.closeinfo import Cause, CloseInfo
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.deflate import CompressionConfig
from wsconnkit.protocol.errors import ConnectionClosed, ConnectionClosedError
from wsconnkit.protocol.frames import Opcode, encode_frame
from wsconnkit.protocol.http import Headers, Response
from wsconnkit.protocol.upgrade import UpgradeRequest, agree, check_upgrade

from .peers import new_tls

Run = Callable[[Coroutine[Any, Any, None]], None]
MASK = b"\x01\x02\x03\x04"
CONFIG = ConnectionConfig(limits=FrameLimits.lenient(), compression=CompressionConfig(threshold=100))


def info(ws: Connection) -> CloseInfo:
    assert ws.close_info is not None
    return ws.close_info


class Site:
    """What the HTTP servers below have in common: a page, and a WebSocket at every other path."""

    def __init__(self, handler: Callable[[Connection], Awaitable[None]]) -> None:
        self._handler = handler
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections: asyncio.Queue[Connection] = asyncio.Queue()
        self.page = b"a page of the same server"
        self.aiohttp: aiohttp.web.Server | None = None

    def run(self, ws: Connection) -> None:
        self.connections.put_nowait(ws)
        task = asyncio.get_running_loop().create_task(self.serve(ws))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def serve(self, ws: Connection) -> None:
        await self._handler(ws)
        await ws.close()

    async def wait_for_handlers(self) -> None:
        await asyncio.gather(*self._tasks)


class HttpProtocol(asyncio.Protocol):
    """A server of HTTP/1.1 just good enough for its tests."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, end, trailing_data = self._data.partition(b"\r\n\r\n")
        if not end:
            return
        request_line, *lines = head.decode("latin-1").split("\r\n")
        method, target, version = request_line.split(" ")
        if target == "/page":
            self._answer(Response(200, Headers({"Content-Type": "text/plain"}), self._site.page))
            return
        headers = Headers((name, value.strip()) for name, _, value in (line.partition(":") for line in lines))
        checked = check_upgrade(method, target, version.removeprefix("HTTP/"), headers)
        if isinstance(checked, Response):
            self._answer(checked)
            return
        agreement = agree(checked, CONFIG, subprotocols=["chat"], headers={"X-Served-By": "another server"})
        self._write_head("101 Switching Protocols", agreement.headers)
        self._site.run(attach(self._transport, checked, agreement, config=CONFIG, trailing_data=trailing_data))

    def _answer(self, response: Response) -> None:
        length = ("Content-Length", str(len(response.body)))
        self._write_head(f"{response.status} Whatever", Headers([*response.headers, length, ("Connection", "close")]))
        self._transport.write(response.body)
        self._transport.close()

    def _write_head(self, status: str, headers: Headers) -> None:
        lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers)]
        self._transport.write("\r\n".join([*lines, "", ""]).encode("latin-1"))


@contextlib.asynccontextmanager
async def protocol_server(site: Site) -> AsyncIterator[str]:
    server = await asyncio.get_running_loop().create_server(lambda: HttpProtocol(site), "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await site.wait_for_handlers()
        await server.wait_closed()


class Early:
    """Takes what comes right behind an upgrade, in the place of aiohttp's own reader of frames."""

    def __init__(self) -> None:
        self.data = b""

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.data += data
        return False, b""

    def feed_eof(self) -> None: ...


@contextlib.asynccontextmanager
async def aiohttp_server(site: Site) -> AsyncIterator[str]:
    async def on_page(request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
        return aiohttp.web.Response(body=site.page, content_type="text/plain")

    async def on_request(request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
        version = f"{request.version.major}.{request.version.minor}"
        checked = check_upgrade(request.method, request.raw_path, version, Headers(request.headers.items()))
        if isinstance(checked, Response):
            return aiohttp.web.Response(status=checked.status, headers=dict(checked.headers), body=checked.body)
        agreement = agree(checked, CONFIG, subprotocols=["chat"], headers={"X-Served-By": "another server"})
        response = aiohttp.web.StreamResponse(status=101, headers=dict(agreement.headers))
        early = Early()
        request.protocol.set_parser(cast(Any, early))
        await response.prepare(request)
        transport = request.transport
        assert transport is not None
        ws = attach(transport, checked, agreement, config=CONFIG, trailing_data=early.data)
        site.connections.put_nowait(ws)
        await site.serve(ws)
        return response

    app = aiohttp.web.Application()
    app.router.add_get("/page", on_page)
    app.router.add_route("*", "/{path:.*}", on_request)
    runner = aiohttp.web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await aiohttp.web.TCPSite(runner, "127.0.0.1", 0).start()
        assert runner.server is not None
        site.aiohttp = runner.server
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


embedding = pytest.mark.parametrize(
    "server_of", [protocol_server, aiohttp_server], ids=["asyncio.Protocol", "aiohttp.web"]
)
ServerOf = Callable[[Site], contextlib.AbstractAsyncContextManager[str]]


async def echo(ws: Connection) -> None:
    async for message in ws:
        await ws.send(message)


async def hold(ws: Connection) -> None:
    await ws.wait_closed()


def upgrade_request(address: str) -> bytes:
    lines = [
        "GET /ws HTTP/1.1",
        f"Host: {address}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


@embedding
@pytest.mark.parametrize("compression", ["deflate", None])
def test_websockets_talks_to_an_attached_connection(run: Run, server_of: ServerOf, compression: str | None) -> None:
    async def main() -> None:
        site = Site(echo)
        async with server_of(site) as address:
            async with websockets.asyncio.client.connect(
                f"ws://{address}/ws?query",
                proxy=None,
                compression=compression,
                max_size=10 * MIB,
                subprotocols=[Subprotocol("other"), Subprotocol("chat")],
            ) as peer:
                assert peer.response is not None
                assert peer.response.headers["X-Served-By"] == "another server"
                ws = await site.connections.get()
                for message in ("", "text", b"binary", "large " * 500_000):
                    await peer.send(message)
                    assert await peer.recv() == message
                await (await peer.ping())
                assert peer.subprotocol == ws.subprotocol == "chat"
                assert (ws.upgrade_request.path, ws.upgrade_request.target) == ("/ws", "/ws?query")
                assert bool(ws.stats.compression.outbound.messages_compressed) is (compression is not None)
                assert ws.remote_address == peer.local_address
            await ws.wait_closed()
            assert (info(ws).code, info(ws).cause, info(ws).clean) == (1000, Cause.PEER_CLOSE, True)

    run(main())


@embedding
def test_our_client_talks_to_an_attached_connection(run: Run, server_of: ServerOf) -> None:
    async def main() -> None:
        site = Site(echo)
        async with server_of(site) as address:
            async with connect(f"ws://{address}/ws", config=CONFIG) as client:
                await client.send("a" * 1000)
                assert await client.recv() == "a" * 1000
                assert client.stats.compression.outbound.messages_compressed == 1
            assert info(client).clean

    run(main())


@embedding
def test_an_attached_connection_closes_with_code_and_reason(run: Run, server_of: ServerOf) -> None:
    async def main() -> None:
        site = Site(hold)
        async with server_of(site) as address:
            async with websockets.asyncio.client.connect(f"ws://{address}/ws", proxy=None) as peer:
                ws = await site.connections.get()
                await ws.close(4000, "Schluß")
                await peer.wait_closed()
                assert (peer.protocol.close_code, peer.protocol.close_reason) == (4000, "Schluß")
                assert info(ws).clean

    run(main())


@embedding
def test_a_refusal_is_answered_by_the_other_server(run: Run, server_of: ServerOf) -> None:
    async def main() -> None:
        async with server_of(Site(hold)) as address:
            with pytest.raises(WebsocketsInvalidStatus) as refused:
                await websockets.asyncio.client.connect(
                    f"ws://{address}/ws", proxy=None, additional_headers={"Sec-WebSocket-Protocol": "not a token"}
                )
            assert refused.value.response.status_code == 400
            assert json.loads(refused.value.response.body or b"") == {
                "error": "Sec-WebSocket-Protocol must list distinct tokens"
            }
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://{address}/ws") as response:
                    assert response.status == 426
                    assert response.headers["Upgrade"] == "websocket"
                    assert await response.json() == {"error": "this is a WebSocket endpoint"}
                async with session.post(f"http://{address}/ws", data=b"body") as response:
                    assert response.status == 405
                    assert response.headers["Allow"] == "GET"

    run(main())


@embedding
def test_the_other_server_still_serves_its_pages(run: Run, server_of: ServerOf) -> None:
    async def main() -> None:
        site = Site(hold)
        async with server_of(site) as address, aiohttp.ClientSession() as session:
            async with websockets.asyncio.client.connect(f"ws://{address}/ws", proxy=None):
                async with session.get(f"http://{address}/page") as response:
                    assert (response.status, await response.read()) == (200, site.page)

    run(main())


@embedding
@pytest.mark.parametrize("split", [None, 1, 7])
def test_frames_behind_the_request_arrive(run: Run, server_of: ServerOf, split: int | None) -> None:
    """Some in the same read as the request, and the last one perhaps only in part."""
    messages: list[str | bytes] = ["first", b"second", "x" * 300]

    async def main() -> None:
        site = Site(echo)
        async with server_of(site) as address:
            host, _, port = address.partition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            data = b"".join(
                encode_frame(Opcode.TEXT, message.encode(), mask=MASK)
                if isinstance(message, str)
                else encode_frame(Opcode.BINARY, message, mask=MASK)
                for message in messages
            )
            now, later = (data, b"") if split is None else (data[:-split], data[-split:])
            writer.write(upgrade_request(address) + now)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            writer.write(later)
            expected = b"\x81\x05first" + b"\x82\x06second" + b"\x81\x7e\x01\x2c" + b"x" * 300
            assert await reader.readexactly(len(expected)) == expected
            writer.write(encode_frame(Opcode.CLOSE, b"\x03\xe8", mask=MASK))
            assert await reader.read() == b"\x88\x02\x03\xe8"
            writer.close()

    run(main())


@embedding
def test_a_ping_and_a_close_behind_the_request_are_answered(run: Run, server_of: ServerOf) -> None:
    async def main() -> None:
        site = Site(hold)
        async with server_of(site) as address:
            host, _, port = address.partition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            ping, close = encode_frame(Opcode.PING, b"early", mask=MASK), encode_frame(Opcode.CLOSE, b"", mask=MASK)
            writer.write(upgrade_request(address) + ping + close)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            assert await reader.read() == b"\x8a\x05early\x88\x00"
            writer.close()
            ws = await site.connections.get()
            await ws.wait_closed()
            assert (info(ws).code, info(ws).clean) == (1005, True)

    run(main())


@embedding
def test_what_breaks_the_protocol_behind_the_request_is_told(run: Run, server_of: ServerOf) -> None:
    async def main() -> None:
        site = Site(hold)
        async with server_of(site) as address:
            host, _, port = address.partition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(upgrade_request(address) + encode_frame(Opcode.TEXT, b"not masked"))
            await reader.readuntil(b"\r\n\r\n")
            answer = await reader.read()
            assert (answer[0], answer[2:4]) == (0x88, b"\x03\xea")
            writer.close()
            ws = await site.connections.get()
            await ws.wait_closed()
            assert (info(ws).code, info(ws).cause) == (1002, Cause.PROTOCOL_ERROR)

    run(main())


def test_of_200_connections_nothing_is_left_in_aiohttp(run: Run) -> None:
    """Some end with a closing handshake, some without, and some are ended by the handler."""

    async def main() -> None:
        async def handler(ws: Connection) -> None:
            with contextlib.suppress(ConnectionClosed):
                if await ws.recv() == "close":
                    return
                await ws.wait_closed()

        async def client(number: int) -> None:
            async with connect(f"ws://{address}/ws", config=CONFIG) as ws:
                await ws.send("close" if number % 3 == 0 else "stay")
                if number % 3 == 0:
                    await ws.wait_closed()
                elif number % 3 == 1:
                    ws.abort()

        site = Site(handler)
        async with aiohttp_server(site) as address:
            assert site.aiohttp is not None
            for start in range(0, 200, 50):
                await asyncio.gather(*(client(number) for number in range(start, start + 50)))
            connections = [site.connections.get_nowait() for _ in range(200)]
            await asyncio.gather(*(ws.wait_closed() for ws in connections))
            while site.aiohttp.connections:
                await asyncio.sleep(0)
            began = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - began < 5  # where it waits for one, it takes a minute

    run(main())


def test_the_protocol_that_had_the_transport_is_told_of_its_end_once(run: Run) -> None:
    async def main() -> None:
        told: list[Exception | None] = []

        class Other(HttpProtocol):
            def connection_lost(self, exc: Exception | None) -> None:
                assert site.connections.get_nowait().close_info is not None  # ours was told before
                told.append(exc)

        site = Site(hold)
        server = await asyncio.get_running_loop().create_server(lambda: Other(site), "127.0.0.1", 0)
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with connect(f"ws://{address}/ws", config=CONFIG):
            assert told == []
        await site.wait_for_handlers()
        while not told:
            await asyncio.sleep(0)
        server.close()
        await server.wait_closed()
        assert told == [None]

    run(main())


def some_request() -> UpgradeRequest:
    head, *_ = upgrade_request("127.0.0.1").decode("latin-1").partition("\r\n\r\n")
    headers = Headers(tuple(line.split(": ", 1)) for line in head.split("\r\n")[1:])  # type: ignore[misc]
    request = check_upgrade("GET", "/", "1.1", headers)
    assert isinstance(request, UpgradeRequest)
    return request


@pytest.mark.parametrize("ender", ["we", "the peer"])
@pytest.mark.parametrize("over_tls", [False, True], ids=["TCP", "TLS"])
def test_a_transport_that_has_ended_gives_a_connection_that_has(run: Run, over_tls: bool, ender: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        made, ended = loop.create_future(), loop.create_future()

        class Ended(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                self._transport = cast(asyncio.Transport, transport)
                made.set_result(None)
                if ender == "we":
                    self._transport.abort()

            def connection_lost(self, exc: Exception | None) -> None:
                ended.set_result(self._transport)

        tls = new_tls() if over_tls else None
        server = await loop.create_server(Ended, "127.0.0.1", 0, ssl=tls and tls.server)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), ssl=tls and tls.client)
        await made
        if ender == "the peer":
            writer.transport.abort()
        request = some_request()
        ws = attach(await ended, request, agree(request, CONFIG), config=CONFIG)
        assert ws.queued_bytes == (0, 0)
        with pytest.raises(ConnectionClosedError):
            await ws.recv()
        await ws.close()
        assert info(ws).cause is Cause.TRANSPORT_LOST
        writer.close()
        server.close()
        await server.wait_closed()

    run(main())
