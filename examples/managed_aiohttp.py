import os
from contextlib import suppress
from typing import Any, cast

from aiohttp import web

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
from wsconnkit.asyncio import Connection, Manager

manager = Manager(
    authenticate=JWTAuthenticator(secret=os.environ["JWT_SECRET"]),
    origins=["https://app.example.org"],  # for browsers, besides the server's own
    admission=AdmissionConfig(max_connections=10_000, max_connections_per_user=3),
    drain=DrainConfig(window=5, grace=10),
)


async def talk(ws: Connection) -> None:
    async for message in ws:
        await ws.send(f"{ws.user_id}: {message!r}")


class Collector:
    """Keeps what the client sends right behind its upgrade."""

    data = b""

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.data += data
        return False, b""

    def feed_eof(self) -> None: ...


def refuse(response: Response) -> web.Response:
    return web.Response(status=response.status, headers=dict(response.headers), body=response.body)


async def websocket(request: web.Request) -> web.StreamResponse:
    headers = Headers((name.decode("latin-1"), value.decode("latin-1")) for name, value in request.raw_headers)
    upgrade = check_upgrade(request.method, request.path_qs, "1.1", headers)
    if isinstance(upgrade, Response):
        return refuse(upgrade)
    admitted = await manager.decide(upgrade, request.get_extra_info("peername"))
    if isinstance(admitted, Response):
        return refuse(admitted)
    response = web.StreamResponse(status=101, headers=dict(admitted.response.headers))
    early = Collector()
    request.protocol.set_parser(cast(Any, early))
    try:
        with suppress(ConnectionResetError, ConnectionClosed):  # the client has left
            await response.prepare(request)
            if request.transport is not None:
                async with manager.attach(request.transport, admitted, early.data) as ws:
                    await talk(ws)
    finally:
        admitted.release()  # does nothing when it was attached
    return response


async def metrics(request: web.Request) -> web.Response:
    content_type, text = render_metrics(manager, request.headers.get("Accept"))
    return web.Response(body=text, headers={"Content-Type": content_type})


async def drain(app: web.Application) -> None:
    print(await manager.drain())  # drained 1 connection in 0.0 s: 1 closed


app = web.Application()
app.router.add_get("/ws", websocket)
app.router.add_get("/metrics", metrics)
app.on_shutdown.append(drain)

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=3001)
