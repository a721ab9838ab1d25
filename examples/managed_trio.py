import os
import signal
from contextlib import suppress
from functools import partial

import h11
import trio

from wsconnkit import (
    AdmissionConfig,
    ConnectionClosed,
    DrainConfig,
    Headers,
    JWTAuthenticator,
    Response,
    check_upgrade,
    render_metrics,
)
from wsconnkit.trio import Connection, Manager

manager = Manager(
    authenticate=JWTAuthenticator(secret=os.environ["JWT_SECRET"]),
    admission=AdmissionConfig(max_connections=10_000, max_connections_per_user=3),
    drain=DrainConfig(window=5, grace=10),
)


async def talk(ws: Connection) -> None:
    async for message in ws:
        await ws.send(f"{ws.user_id}: {message!r}")


async def answer(stream: trio.SocketStream, http: h11.Connection, response: Response) -> None:
    head = h11.Response(status_code=response.status, headers=[*response.headers, ("Connection", "close")])
    for event in (head, h11.Data(data=response.body), h11.EndOfMessage()):
        await stream.send_all(http.send(event) or b"")


async def websocket(stream: trio.SocketStream, http: h11.Connection, request: h11.Request) -> None:
    headers = Headers((name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers)
    target, version = request.target.decode("latin-1"), request.http_version.decode("latin-1")
    upgrade = check_upgrade(request.method.decode("latin-1"), target, version, headers)
    if isinstance(upgrade, Response):
        return await answer(stream, http, upgrade)
    admitted = await manager.decide(upgrade, stream.socket.getpeername())  # OSError: the client has left
    if isinstance(admitted, Response):
        return await answer(stream, http, admitted)
    try:
        accepted = h11.InformationalResponse(status_code=101, headers=[*admitted.response.headers])
        await stream.send_all(http.send(accepted) or b"")
        async with manager.attach(stream, admitted, http.trailing_data[0]) as ws:
            await talk(ws)
    finally:
        admitted.release()  # does nothing when it was attached


async def client(stream: trio.SocketStream) -> None:
    http = h11.Connection(h11.SERVER)
    # What clients do wrong, or that they leave, is no error of the server's.
    with suppress(OSError, trio.BrokenResourceError, h11.RemoteProtocolError, ConnectionClosed):
        async with stream:
            with trio.move_on_after(10):
                while (event := http.next_event()) is h11.NEED_DATA:
                    http.receive_data(await stream.receive_some())
            if isinstance(event, h11.Request) and event.target == b"/metrics":
                content_type, text = render_metrics(manager, None)
                await answer(stream, http, Response(200, Headers([("Content-Type", content_type)]), text))
            elif isinstance(event, h11.Request):
                await websocket(stream, http, event)


async def main() -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(trio.serve_tcp, client, 3001, host="127.0.0.1"))
            async for _ in signals:
                print(await manager.drain())  # drained 1 connection in 0.0 s: 1 closed
                nursery.cancel_scope.cancel()


trio.run(main)
