"""What tests of trio have in common."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from wsconnkit.protocol.closeinfo import CloseInfo
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.trio import Connection, Server

Run = Callable[[Callable[[], Awaitable[None]]], None]
PLAIN = ConnectionConfig(compression=None)
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


async def echo(ws: Connection) -> None:
    async for message in ws:
        await ws.send(message)


def uri(server: Server, scheme: str = "ws") -> str:
    return f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


def info(ws: Connection) -> CloseInfo:
    assert ws.close_info is not None
    return ws.close_info
