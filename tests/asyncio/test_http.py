"""Requests that ask for no WebSocket: the pages for those who watch the server, and those of the application."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import socket
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from wsconnkit.asyncio import Connection, Server, serve
from wsconnkit.machines.deadlines import READ_GRACE
from wsconnkit.machines.ratelimit import RateLimit
from wsconnkit.observe.metrics import render_metrics
from wsconnkit.protocol.http import Headers, Response
from wsconnkit.protocol.upgrade import HTTPRequest
from wsconnkit.service.admission import AdmissionConfig, Rates
from wsconnkit.testing.eventloop import VirtualTimeLoop

from .issuer import by_secret
from .peers import Arrivals, Got, Run, exchange, head, opened, port, refused, uri

PLAIN = (("Host", "127.0.0.1"),)
MIB = 1024 * 1024


async def get(server: Server, path: str, method: str = "GET", *, at: int = 0, more: Any = (), body: bytes = b"") -> Got:
    got = await exchange(server, head(method, path, [*PLAIN, *more]) + body, at=at)
    assert got.headers.get("Connection") == ("close, Upgrade" if got.status == 426 else "close")
    assert got.headers.get("Date")
    if method == "HEAD":
        assert got.body == b""
    elif got.status != 204:
        assert got.headers.get("Content-Length") == str(len(got.body))
    return got


async def hello(request: HTTPRequest) -> Response | None:
    if request.path != "/hello":
        return None
    name = request.headers.get("X-Name") or "nobody"
    return Response(200, Headers({"Content-Type": "text/plain"}), f"{request.method} {request.target} {name}".encode())


# The pages of the server.


@pytest.mark.parametrize("path", [None, "/ws"])
def test_the_pages_are_answered_without_a_token_and_are_no_upgrades(run: Run, path: str | None) -> None:
    async def main() -> None:
        admission = AdmissionConfig(max_connections_per_ip=1, per_ip=Rates(upgrades=RateLimit(1, 3600)))
        async with serve(
            Arrivals(), "127.0.0.1", 0, path=path, authenticate=by_secret(), admission=admission, metrics=render_metrics
        ) as server:
            for _ in range(5):
                for page, status in (("/healthz", "ok"), ("/readyz", "ready")):
                    for target in (page, f"{page}?from=probe"):
                        got = await get(server, target, more=[("Origin", "https://elsewhere.example.org")])
                        assert (got.status, json.loads(got.body)) == (200, {"status": status})
                        assert got.headers.get("Content-Type") == "application/json"
                        assert got.headers.get("Cache-Control") == "no-store"
                got = await get(server, "/metrics")
                assert got.status == 200
                assert b"\nwsconnkit_" in got.body
            assert not server.stats.refused

    run(main())


def test_metrics_are_a_page_only_when_they_are_asked_for(run: Run) -> None:
    async def main() -> None:
        async with serve(Arrivals(), "127.0.0.1", 0, path="/ws") as server:
            assert (await get(server, "/metrics")).error == "there is nothing at this path"

    run(main())


def test_a_head_is_the_same_without_the_body_and_other_methods_are_refused(run: Run) -> None:
    async def main() -> None:
        async with serve(Arrivals(), "127.0.0.1", 0, http=hello) as server:
            for path in ("/healthz", "/readyz", "/hello", "/elsewhere"):
                whole = await get(server, path)
                got = await get(server, path, "HEAD")
                if path in ("/healthz", "/readyz"):
                    assert [name for name, _ in got.headers] == [name for name, _ in whole.headers]
                    assert list(got.headers.without("Date")) == list(whole.headers.without("Date"))
                    assert got.status == whole.status
                    for method in ("POST", "DELETE", "OPTIONS"):
                        got = await get(server, path, method)
                        assert (got.status, got.headers.get("Allow")) == (405, "GET, HEAD")

    run(main())


def test_readiness_ends_when_the_server_drains(run: Run) -> None:
    async def main() -> None:
        done = asyncio.Event()

        async def handler(ws: Connection) -> None:
            with ws.busy():
                await done.wait()

        async with serve(handler, "127.0.0.1", 0, endpoints=("127.0.0.1", 0)) as server:
            client = await opened(server)
            draining = asyncio.ensure_future(server.drain(window=0, grace=60))
            while not server.is_draining:
                await asyncio.sleep(0)
            got = await get(server, "/readyz", at=1)
            assert (got.status, json.loads(got.body)) == (503, {"status": "draining"})
            assert (await get(server, "/healthz", at=1)).status == 200
            done.set()
            await draining
            await client.wait_closed()

    run(main())


def test_the_pages_may_be_on_a_port_of_their_own(run: Run) -> None:
    async def main() -> None:
        async with serve(
            Arrivals(), "127.0.0.1", 0, path="/ws", endpoints=("127.0.0.1", 0), metrics=render_metrics, http=hello
        ) as server:
            for page in ("/healthz", "/readyz", "/metrics"):
                assert (await get(server, page, at=1)).status == 200
                assert (await get(server, page)).status == 404
            assert (await get(server, "/hello")).status == 200
            assert (await get(server, "/hello", at=1)).status == 404
            got = await exchange(server, head(path="/ws"), at=1)
            assert (got.status, got.error) == (404, "there is no WebSocket here")
            await (await opened(server, "/ws")).close()

    run(main())


def test_metrics_on_a_port_of_their_own_can_want_a_token(run: Run) -> None:
    async def main() -> None:
        arguments: dict[str, Any] = {"metrics": render_metrics, "metrics_token": "0123456789abcdef"}
        async with serve(Arrivals(), "127.0.0.1", 0, endpoints=("127.0.0.1", 0), **arguments) as server:
            assert (await get(server, "/metrics", at=1)).status == 401
            more = [("Authorization", "Bearer 0123456789abcdef")]
            assert (await get(server, "/metrics", at=1, more=more)).status == 200

    run(main())


def test_the_pages_may_be_on_no_port(run: Run) -> None:
    async def main() -> None:
        async with serve(Arrivals(), "127.0.0.1", 0, path="/ws", endpoints=False, metrics=render_metrics) as server:
            assert len(server.sockets) == 1
            for page in ("/healthz", "/readyz", "/metrics"):
                assert (await get(server, page)).error == "there is nothing at this path"

    run(main())


def test_where_the_port_of_the_pages_is_taken_there_is_no_server(run: Run) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as free:
            address = taken.getsockname()
            with pytest.raises(OSError, match="in use"):
                await serve(Arrivals(), sock=free, endpoints=address)
            assert free.fileno() == -1

    run(main())


# Everything else.


def test_a_plain_request_is_told_what_is_there(run: Run) -> None:
    async def main() -> None:
        async with serve(Arrivals(), "127.0.0.1", 0, path="/ws") as server:
            got = await get(server, "/ws")
            assert (got.status, got.error) == (426, "this is a WebSocket endpoint")
            assert (got.headers.get("Upgrade"), got.headers.get("Sec-WebSocket-Version")) == ("websocket", "13")
            got = await get(server, "/")
            assert (got.status, got.error) == (404, "there is nothing at this path")
            got = await get(server, "/ws", "POST", more=[("Content-Length", "3")], body=b"x=1")
            assert (got.status, got.headers.get("Allow")) == (405, "GET")
            assert not server.stats.refused  # none of these was an upgrade
            async with aiohttp.ClientSession() as session:
                with pytest.raises(aiohttp.WSServerHandshakeError):
                    await session.ws_connect(uri(server, "/other", "http"))
                async with session.get(uri(server, "/ws", "http")) as response:
                    assert (response.status, await response.json()) == (426, {"error": "this is a WebSocket endpoint"})

    run(main())


def test_an_upgrade_of_a_page_is_an_upgrade(run: Run) -> None:
    async def main() -> None:
        async with serve(Arrivals(), "127.0.0.1", 0, http=hello) as server:
            await (await opened(server, "/healthz")).close()
        async with serve(Arrivals(), "127.0.0.1", 0, path="/ws", http=hello) as server:
            assert (await refused(server, "/healthz")).error == "there is no WebSocket at this path"

    run(main())


@pytest.mark.parametrize(
    ("more", "body"),
    [
        ([("Content-Length", "5")], b"hello"),
        ([("Content-Length", str(MIB))], bytes(MIB)),
        ([("Transfer-Encoding", "chunked")], b"5\r\nhello\r\n0\r\n\r\n"),
        ([("Content-Length", "5"), ("Expect", "100-continue")], b""),
        ([("Content-Length", "5")], b"he"),
        ([("Content-Length", "0")], head(path="/healthz", headers=PLAIN)),
        ([], b"\x00" * 100_000),
    ],
    ids=["whole", "big", "chunked", "expecting", "half", "pipelined", "garbage"],
)
@pytest.mark.parametrize("path", ["/hello", "/nothing", "/healthz", "/ws"])
def test_a_body_is_neither_read_nor_in_the_way(run: Run, path: str, more: Any, body: bytes) -> None:
    async def main() -> None:
        async with serve(Arrivals(), "127.0.0.1", 0, path="/ws", http=hello) as server:
            got = await get(server, path, "POST", more=more, body=body)
            if path == "/hello":
                assert (got.status, got.body) == (200, b"POST /hello nobody")
            else:
                assert got.status == {"/nothing": 404, "/healthz": 405, "/ws": 405}[path]

    run(main())


# Those of the application.


def test_the_application_answers_what_is_no_page(run: Run) -> None:
    async def main() -> None:
        async with serve(Arrivals(), "127.0.0.1", 0, path="/ws", authenticate=by_secret(), http=hello) as server:
            got = await get(server, "/hello?x=%20", more=[("X-Name", "alice")])
            assert (got.status, got.body) == (200, b"GET /hello?x=%20 alice")
            assert got.headers.get("Content-Type") == "text/plain"
            assert (await get(server, "/hello", "HEAD")).headers.get("Content-Length") == "18"
            assert (await get(server, "/healthz")).status == 200
            assert (await get(server, "/elsewhere")).error == "there is nothing at this path"
            assert (await get(server, "/ws")).status == 426
            async with aiohttp.ClientSession() as session:
                async with session.post(uri(server, "/hello", "http"), data=bytes(MIB)) as response:
                    assert (response.status, await response.text()) == (200, "POST /hello nobody")

    run(main())


@pytest.mark.parametrize(
    "make",
    [
        lambda: Response(204),
        lambda: Response(304, Headers({"ETag": '"1"'})),
        lambda: Response(200, Headers([("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]), bytes(3 * MIB)),
    ],
    ids=["204", "304", "big"],
)
def test_a_response_may_be_of_any_kind(run: Run, make: Callable[[], Response]) -> None:
    async def main() -> None:
        async def http(request: HTTPRequest) -> Response:
            return make()

        async with serve(Arrivals(), "127.0.0.1", 0, http=http) as server:
            expected = make()
            got = await exchange(server, head(headers=PLAIN))
            assert (got.status, got.body) == (expected.status, expected.body)
            for name, _ in expected.headers:
                assert got.headers.get_all(name) == expected.headers.get_all(name)

    run(main())


def raises() -> Response:
    raise ValueError("secret details")


@pytest.mark.parametrize(
    "make",
    [
        raises,
        lambda: "text",
        lambda: Response(101),
        lambda: Response(204, Headers(), b"body"),
        lambda: Response(200, Headers({"Connection": "keep-alive"})),
        lambda: Response(200, Headers(), "not bytes"),  # type: ignore[arg-type]
    ],
    ids=["raises", "text", "101", "204-body", "hop-by-hop", "str"],
)
def test_an_application_that_fails_is_an_internal_error(
    run: Run, caplog: pytest.LogCaptureFixture, make: Callable[[], Any]
) -> None:
    async def main() -> None:
        async def http(request: HTTPRequest) -> Any:
            return make()

        async with serve(Arrivals(), "127.0.0.1", 0, http=http) as server:
            got = await get(server, "/")
            assert (got.status, got.body) == (500, b'{"error": "internal error"}\n')

    with caplog.at_level(logging.WARNING, "wsconnkit"):
        run(main())
    assert [record.__dict__["type"] for record in caplog.records] == ["http_error"]


def test_an_application_that_hangs_is_cancelled_after_the_handshakes_timeout(
    run_virtual: Run, virtual_loop: VirtualTimeLoop
) -> None:
    async def main() -> None:
        cancelled = asyncio.Event()

        async def http(request: HTTPRequest) -> Response:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                cancelled.set()
                raise
            raise AssertionError

        async with serve(Arrivals(), "127.0.0.1", 0, http=http) as server:
            start = virtual_loop.time()
            got = await get(server, "/")
            assert (got.status, got.retry_after) == (503, 1)
            assert virtual_loop.time() == pytest.approx(start + 10 + READ_GRACE)
            await cancelled.wait()

    run_virtual(main())


def test_a_client_may_leave_before_the_answer_or_in_its_moment(run: Run) -> None:
    async def main() -> None:
        async def http(request: HTTPRequest) -> Response:
            asked.set()
            await go_on.wait()
            return Response(200)

        async with serve(Arrivals(), "127.0.0.1", 0, http=http) as server:
            for turns in range(6):
                asked, go_on = asyncio.Event(), asyncio.Event()
                with socket.create_connection(("127.0.0.1", port(server))) as sock:
                    sock.sendall(head(headers=PLAIN))
                    await asked.wait()
                for _ in range(turns):
                    await asyncio.sleep(0)
                asyncio.get_running_loop().call_soon(go_on.set)
                await go_on.wait()
                for _ in range(6):
                    await asyncio.sleep(0)
        gc.collect()  # an exception that nobody takes is told when its task goes

    run(main())
