"""Echo servers to measure: `python benchmarks/servers.py NAME` serves on a free port of loopback and prints it."""

from __future__ import annotations

import asyncio
import sys
from typing import Any, cast

import uvloop


async def serve_wsconnkit() -> int:
    """All management on: heartbeat, limits, compression for those who offer it, bounded queues, idle timeout."""
    from wsconnkit.asyncio import Connection, serve
    from wsconnkit.protocol.config import ConnectionConfig

    async def echo(ws: Connection) -> None:
        async for message in ws:
            await ws.send(message)

    server = await serve(echo, "127.0.0.1", 0, config=ConnectionConfig(idle_timeout=300))
    return cast(int, server.sockets[0].getsockname()[1])


async def serve_websockets() -> int:
    """The asyncio server of websockets with its defaults: keepalive and permessage-deflate on."""
    from websockets.asyncio.server import ServerConnection, serve

    async def echo(ws: ServerConnection) -> None:
        async for message in ws:
            await ws.send(message)

    server = await serve(echo, "127.0.0.1", 0)
    return cast(int, next(iter(server.sockets)).getsockname()[1])


async def serve_picows() -> int:
    """The callback interface of picows, its fastest, without keepalive and without queues."""
    import picows

    class Echo(picows.WSListener):
        def on_ws_frame(self, transport: Any, frame: Any) -> None:
            if frame.msg_type == picows.WSMsgType.CLOSE:
                transport.send_close(frame.get_close_code(), frame.get_close_message())
                transport.disconnect()
            else:
                transport.send(frame.msg_type, frame.get_payload_as_memoryview())

    server = await picows.ws_create_server(lambda request: Echo(), "127.0.0.1", 0)
    return cast(int, server.sockets[0].getsockname()[1])


async def serve_wsproto() -> int:
    """Nothing but wsproto on a protocol: no limits, no timers, no queues."""
    from wsproto import ConnectionType, WSConnection
    from wsproto.events import AcceptConnection, CloseConnection, Message, Ping, Request

    class Echo(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = cast(asyncio.Transport, transport)
            self.ws = WSConnection(ConnectionType.SERVER)

        def data_received(self, data: bytes) -> None:
            self.ws.receive_data(data)
            output: list[bytes] = []
            for event in self.ws.events():
                if isinstance(event, Message):
                    output.append(self.ws.send(type(event)(event.data, event.frame_finished, event.message_finished)))
                elif isinstance(event, Request):
                    output.append(self.ws.send(AcceptConnection()))
                elif isinstance(event, (Ping, CloseConnection)):
                    output.append(self.ws.send(event.response()))
            self.transport.write(b"".join(output))

    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
    return cast(int, server.sockets[0].getsockname()[1])


SERVERS = {
    "wsconnkit": serve_wsconnkit,
    "websockets": serve_websockets,
    "picows": serve_picows,
    "wsproto": serve_wsproto,
}


async def main(name: str) -> None:
    print(await SERVERS[name](), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # until the benchmark is done


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
