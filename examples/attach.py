import asyncio
from typing import cast

from aiohttp import web

from wsconnkit import ConnectionConfig, Headers, Response, agree, check_upgrade
from wsconnkit.asyncio import attach

config = ConnectionConfig()


async def websocket(request: web.Request) -> web.StreamResponse:
    headers = Headers((name.decode("latin-1"), value.decode("latin-1")) for name, value in request.raw_headers)
    upgrade = check_upgrade(request.method, request.path_qs, "1.1", headers)
    if isinstance(upgrade, Response):
        return web.Response(status=upgrade.status, headers=dict(upgrade.headers), body=upgrade.body)
    agreement = agree(upgrade, config)
    response = web.StreamResponse(status=101, headers=dict(agreement.headers))
    await response.prepare(request)
    ws = attach(cast(asyncio.Transport, request.transport), upgrade, agreement, config=config)
    async for message in ws:
        await ws.send(message)
    await ws.close()
    return response


app = web.Application()
app.router.add_get("/ws", websocket)

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=3001)
