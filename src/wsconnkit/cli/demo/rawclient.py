"""A client on a bare socket, which can do what no library lets a client do."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from wsconnkit.protocol.clienthandshake import ClientHandshake
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.connection import ConnectionProtocol
from wsconnkit.protocol.uri import parse_uri


class RawClient:
    """A socket behind the opening handshake, and the core that would drive it, for those who use it."""

    def __init__(self, sock: socket.socket, core: ConnectionProtocol) -> None:
        self.sock = sock
        self.core = core
        self._loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        await self._loop.sock_sendall(self.sock, data)

    async def read(self, size: int = 64 * 1024) -> bytes:
        """Return at most `size` bytes as they are, none at the end, orderly or not."""
        try:
            return await self._loop.sock_recv(self.sock, size)
        except ConnectionError:
            return b""

    async def ignore_everything(self) -> None:
        """Read and do nothing about it until the server has hung up."""
        while await self.read():
            pass

    async def obey_slowly(self, size: int, pause: float) -> None:
        """Be a proper client, but one that reads at most `size` bytes and then pauses, until the end."""
        while data := await self.read(size):
            self.core.receive_data(data, self._loop.time())
            for _ in self.core.events():
                pass
            await self.send(self.core.data_to_send())
            await asyncio.sleep(pause)

    def vanish(self) -> None:
        """Reset the TCP connection, as a crash or a pulled plug would in the end."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("hh" if os.name == "nt" else "ii", 1, 0))
        self.sock.close()


@asynccontextmanager
async def open_raw(
    uri: str, config: ConnectionConfig | None = None, *, receive_buffer: int | None = None
) -> AsyncIterator[RawClient]:
    """Connect and shake hands; `receive_buffer` bounds what the system holds for a client that does not read."""
    loop = asyncio.get_running_loop()
    parts = parse_uri(uri)
    handshake = ClientHandshake(parts, config, now=loop.time())
    with socket.socket() as sock:
        sock.setblocking(False)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await loop.sock_connect(sock, (parts.host, parts.port))
        await loop.sock_sendall(sock, handshake.data_to_send())
        while handshake.agreement is None:
            data = await loop.sock_recv(sock, 4096)
            if data:
                handshake.receive_data(data, loop.time())
            else:
                handshake.receive_eof(loop.time())
            if handshake.error is not None:
                raise handshake.error
        yield RawClient(sock, handshake.connection(loop.time()))
