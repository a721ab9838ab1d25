from contextlib import suppress
from typing import Any, cast

from aiohttp import web

from wsconnkit import ConnectionClosed, ConnectionConfig, Headers, Response, agree, check_upgrade
from wsconnkit.asyncio import attach

config = ConnectionConfig()


class Collector:
    """Keeps what the client sends right behind its upgrade."""

    data = b""

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.data += data
        return False, b""

    def feed_eof(self) -> None: ...


async def websocket(request: web.Request) -> web.StreamResponse:
    headers = Headers((name.decode("latin-1"), value.decode("latin-1")) for name, value in request.raw_headers)
    upgrade = check_upgrade(request.method, request.path_qs, "1.1", headers)
    if isinstance(upgrade, Response):
        return web.Response(status=upgrade.status, headers=dict(upgrade.headers), body=upgrade.body)
    agreement = agree(upgrade, config)
    response = web.StreamResponse(status=101, headers=dict(agreement.headers))
    early = Collector()
    request.protocol.set_parser(cast(Any, early))
    with suppress(ConnectionResetError, ConnectionClosed):  # the client has left
        await response.prepare(request)
        if request.transport is not None:
            ws = attach(request.transport, upgrade, agreement, config=config, trailing_data=early.data)
            async for message in ws:
                await ws.send(message)
            await ws.close()
    return response


app = web.Application()
app.router.add_get("/ws", websocket)

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=3001)
