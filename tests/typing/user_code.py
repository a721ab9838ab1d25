"""What users write, for mypy and pyright, both strict: see `tests/test_typing.py`. It is not run."""

from __future__ import annotations

from typing_extensions import assert_type

import wsconnkit
from wsconnkit import (
    AdmissionConfig,
    ConnectionClosed,
    ConnectionConfig,
    DrainConfig,
    HeartbeatConfig,
    HTTPRequest,
    JWTAuthenticator,
    Principal,
    RateLimit,
    Rates,
    ReconnectEvent,
    Request,
    RequestRouter,
    Response,
    UpgradeRequest,
    render_metrics,
)
from wsconnkit import trio as wtrio
from wsconnkit.asyncio import Connection, Manager, ReconnectingClient, Server, broadcast, connect, serve

router = RequestRouter(timeout=5)


@router.action("add")
async def add(request: Request) -> int:
    assert_type(request.connection, wsconnkit.Connection)
    await request.connection.send(request.connection.id)
    return 3


@router.default
async def other(request: Request) -> dict[str, str]:
    return {"id": request.id}


async def on_message(ws: wsconnkit.Connection, message: str | bytes) -> int:
    await ws.send(message)
    return len(message)


async def handler(ws: Connection) -> int:
    count = 0
    async for message in ws:
        assert_type(message, str | bytes)
        await ws.send(message)
        count += 1
    return count


async def silent(ws: Connection) -> None:
    ws.send_nowait(b"a")


async def authenticate(token: str | None, request: UpgradeRequest) -> Principal | Response:
    if token is None:
        return Response(403, {"A": "b"}, b"")
    if request.headers.get("A"):
        return Response(403, [("A", "b")])
    return Principal(subject=token)


async def http(request: HTTPRequest) -> Response | None:
    return Response(200, body=b"hello") if request.path == "/" else None


async def always(request: HTTPRequest) -> Response:
    return Response(404)


async def new_token() -> str:
    return "token"


async def subscribe(ws: Connection) -> bool:
    return await ws.ping() > 1


def tell(event: ReconnectEvent) -> None:
    print(event)


async def main() -> None:
    config = ConnectionConfig(heartbeat=HeartbeatConfig(interval=30))
    admission = AdmissionConfig(per_user=Rates(messages=RateLimit(10)))
    async with serve(
        handler, "127.0.0.1", 0, config=config, admission=admission, http=http, metrics=render_metrics
    ) as server:
        assert_type(server, Server)
        broadcast(server.connections, "all")
    await serve(router, port=1, authenticate=JWTAuthenticator(secret="s" * 32), drain=DrainConfig(), backlog=3)
    await serve(RequestRouter(on_message=on_message), port=2, authenticate=authenticate, http=always)
    await serve(silent, ["127.0.0.1", "::1"], 3, origins=["https://example.org"])
    async with connect("ws://a/", token=new_token, headers={"A": "b"}) as ws:
        assert_type(ws, Connection)
        assert_type(await ws.recv(), str | bytes)
    async for again in connect("ws://a/", subprotocols=["chat"]):
        try:
            await again.send("a")
        except ConnectionClosed as error:
            print(error.info.code)
    async with ReconnectingClient("ws://a/", on_open=subscribe, on_event=tell) as client:
        await client.send("a")
    manager = Manager(path="/ws")
    print(manager.health().p50)


async def on_trio(ws: wtrio.Connection) -> str:
    return str(await ws.recv())


async def trio_main() -> None:
    async with wtrio.serve(on_trio, port=0, http=http) as server:
        assert_type(server, wtrio.Server)
    async with wtrio.connect("ws://a/", happy_eyeballs_delay=None) as ws:
        assert_type(ws, wtrio.Connection)
