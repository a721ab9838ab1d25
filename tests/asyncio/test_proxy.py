"""Through HTTP proxies: a small one of our own, over real sockets, with and without TLS on either leg."""

from __future__ import annotations

import asyncio
import base64
import gc
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest
import trustme

from wsconnkit.asyncio import Connection, connect, serve
from wsconnkit.machines.backoff import BackoffConfig
from wsconnkit.protocol.config import ConnectionConfig, HandshakeLimits
from wsconnkit.protocol.errors import HandshakeInterrupted, InvalidHandshake, InvalidProxy, ProxyRefused
from wsconnkit.service.reconnect import ReconnectEvent, Retrying

from .conftest import Echo
from .peers import Run, port

if sys.version_info < (3, 11):
    # There asyncio warns of TLS transports that the peer has ended.
    pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
SOON = ConnectionConfig(handshake=HandshakeLimits(timeout=0.3))


class Tls(NamedTuple):
    server: ssl.SSLContext
    client: ssl.SSLContext


@pytest.fixture(scope="module")
def tls() -> Tls:
    ca = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1", "localhost", "example.test").configure_cert(server)
    client = ssl.create_default_context()
    ca.configure_trust(client)
    return Tls(server, client)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http", "https", "ws", "wss", "all", "no", "socks"):
        for spelling in (f"{name}_proxy", f"{name}_proxy".upper()):
            monkeypatch.delenv(spelling, raising=False)


@pytest.fixture(autouse=True)
def nothing_is_left_to_the_garbage_collector() -> Generator[None, None, None]:
    yield
    gc.collect()


class Proxy:
    """A proxy that answers CONNECT, and brings every host to this machine; `answer` is said instead of connecting."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.answer: bytes | None = None
        self.established = ESTABLISHED
        self.open = 0

    @asynccontextmanager
    async def serving(self, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
        self._tasks: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=context)
        try:
            yield f"{'https' if context else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            for _ in range(100):
                if not self._tasks:
                    break
                await asyncio.sleep(0.01)
            assert not self._tasks

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            line, *lines = head.rstrip().split("\r\n")
            method, target, _ = line.split(" ")
            assert method == "CONNECT"
            self.requests.append((target, dict(entry.split(": ", 1) for entry in lines)))
            if self.answer is not None:
                writer.write(self.answer)
                if self.answer.startswith(b"HTTP"):
                    writer.write_eof() if writer.can_write_eof() else writer.close()
                await reader.read()
                return
            to_server = await asyncio.open_connection("127.0.0.1", int(target.rpartition(":")[2]))
            writer.write(self.established)
            await asyncio.gather(self._carry(reader, to_server[1]), self._carry(to_server[0], writer))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open -= 1
            writer.close()

    @staticmethod
    async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        writer.close()


@pytest.fixture
def proxy() -> Proxy:
    return Proxy()


def tls_in_tls_works(loop: asyncio.AbstractEventLoop) -> bool:
    return sys.version_info >= (3, 11) or "uvloop" in type(loop).__module__


@pytest.mark.parametrize("proxy_tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("server_tls", [False, True], ids=["ws", "wss"])
def test_messages_pass_through_a_proxy(
    run: Run, loop: asyncio.AbstractEventLoop, echo: Echo, proxy: Proxy, tls: Tls, proxy_tls: bool, server_tls: bool
) -> None:
    async def main() -> None:
        async with serve(echo, "127.0.0.1", 0, ssl=tls.server if server_tls else None) as server:
            async with proxy.serving(tls.server if proxy_tls else None) as url:
                uri = f"{'wss' if server_tls else 'ws'}://example.test:{port(server)}/"
                kwargs: dict[str, Any] = {"proxy": url}
                if server_tls:
                    kwargs["ssl"] = tls.client
                if proxy_tls:
                    kwargs["proxy_ssl"] = tls.client
                if proxy_tls and server_tls and not tls_in_tls_works(loop):
                    with pytest.raises(InvalidProxy, match="cannot do TLS within TLS"):
                        await connect(uri, **kwargs)
                    return
                async with connect(uri, **kwargs) as ws:
                    for message in ("hello", b"\x00" * 500_000):
                        await ws.send(message)
                        assert await ws.recv() == message
                assert ws.close_info is not None
                assert ws.close_info.clean
        target = f"example.test:{port_of(uri)}"
        assert proxy.requests == [(target, {"Host": target, "User-Agent": "wsconnkit"})]

    run(main())


def port_of(uri: str) -> str:
    return uri.rsplit(":", 1)[1].rstrip("/")


def test_credentials_go_to_the_proxy_and_to_nobody_else(run: Run, proxy: Proxy) -> None:
    async def main() -> None:
        seen: list[Connection] = []

        async def handler(ws: Connection) -> None:
            seen.append(ws)

        async with serve(handler, "127.0.0.1", 0) as server, proxy.serving() as url:
            url = url.replace("://", "://ada:l%40ve@")
            async with connect(f"ws://example.test:{port(server)}/", proxy=url, token="for-the-server") as ws:
                await ws.wait_closed()
        (_, headers), *_ = proxy.requests
        assert headers["Proxy-Authorization"] == "Basic " + base64.b64encode(b"ada:l@ve").decode()
        assert "Authorization" not in headers
        assert seen[0].upgrade_request.headers.get("Authorization") == "Bearer for-the-server"
        assert seen[0].upgrade_request.headers.get("Proxy-Authorization") is None

    run(main())


def test_the_environment_names_the_proxy_unless_told_otherwise(
    run: Run, echo: Echo, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with serve(echo, "127.0.0.1", 0) as server, proxy.serving() as url:
            monkeypatch.setenv("http_proxy", url)
            async with connect(f"ws://example.test:{port(server)}/"):
                assert len(proxy.requests) == 1
            async with connect(f"ws://127.0.0.1:{port(server)}/"):
                assert len(proxy.requests) == 1  # this machine is reached without
            with pytest.raises(OSError, match=r"."):
                await connect(f"ws://example.test:{port(server)}/", proxy=None)
            async with connect(f"ws://127.0.0.1:{port(server)}/", proxy=url):
                assert len(proxy.requests) == 2

    run(main())


def test_host_and_port_say_where_the_proxy_connects_to(run: Run, echo: Echo, proxy: Proxy) -> None:
    async def main() -> None:
        async with serve(echo, "127.0.0.1", 0) as server, proxy.serving() as url:
            async with connect("ws://example.test/", proxy=url, host="other.test", port=port(server)) as ws:
                assert ws.upgrade_request.headers.get("Host") == "example.test"
            assert proxy.requests[0][0] == f"other.test:{port(server)}"

    run(main())


@pytest.mark.parametrize("status", [403, 407, 502])
def test_a_proxy_that_refuses_is_told_from_a_server_that_does(run: Run, proxy: Proxy, status: int) -> None:
    async def main() -> None:
        proxy.answer = b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % status
        async with proxy.serving() as url:
            with pytest.raises(ProxyRefused, match=f"^the proxy refused to connect: HTTP {status}$"):
                await connect("ws://example.test/", proxy=url)

    run(main())


def test_a_proxy_that_has_no_way_is_tried_again_and_one_that_refuses_us_is_not(run: Run, proxy: Proxy) -> None:
    async def main() -> None:
        events: list[ReconnectEvent] = []

        def on_event(event: ReconnectEvent) -> None:
            events.append(event)
            if len(events) == 2:
                proxy.answer = b"HTTP/1.1 407 No\r\n\r\n"

        proxy.answer = b"HTTP/1.1 503 No\r\nRetry-After: 0\r\n\r\n"
        backoff = BackoffConfig(base=0.01, cap=0.1)
        async with proxy.serving() as url:
            connections = aiter(connect("ws://example.test/", proxy=url, backoff=backoff, on_event=on_event))
            with pytest.raises(ProxyRefused, match="407"):
                await anext(connections)
        assert [type(event) for event in events[:2]] == [Retrying] * 2
        assert len(proxy.requests) == 3

    run(main())


@pytest.mark.parametrize(
    ("answer", "error", "told"),
    [
        (b"SSH-2.0-x\r\n\r\n", InvalidHandshake, "the proxy's response is malformed"),
        (b"HTTP/1.1 20", HandshakeInterrupted, "the connection to the proxy ended before its answer"),
        (ESTABLISHED + b"more", InvalidHandshake, "the proxy sent more than its answer"),
        (ESTABLISHED, InvalidHandshake, "ended"),
        (b"", TimeoutError, "no connection to example.test within 0.3 s"),
    ],
)
def test_a_proxy_that_makes_no_sense_is_told(
    run: Run, proxy: Proxy, answer: bytes, error: type[Exception], told: str
) -> None:
    async def main() -> None:
        proxy.answer = answer
        async with proxy.serving() as url:
            with pytest.raises(error, match=told):
                await connect("ws://example.test/", proxy=url, config=SOON)

    run(main())


@pytest.mark.parametrize("through", [False, True])
def test_an_end_within_the_tls_handshake_is_told_in_words(run: Run, proxy: Proxy, through: bool) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.close()

    async def main() -> None:
        async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server, proxy.serving() as url:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(ConnectionResetError, match="the connection ended during the TLS handshake"):
                await connect(f"wss://127.0.0.1:{port}/", proxy=url if through else None)

    run(main())


def test_certificates_are_checked_on_both_legs(run: Run, echo: Echo, proxy: Proxy, tls: Tls) -> None:
    async def main() -> None:
        async with serve(echo, "127.0.0.1", 0, ssl=tls.server) as server, proxy.serving() as url:
            with pytest.raises(ssl.SSLCertVerificationError):
                await connect(f"wss://example.test:{port(server)}/", proxy=url)
            with pytest.raises(ssl.SSLCertVerificationError):
                await connect(f"wss://other.test:{port(server)}/", proxy=url, ssl=tls.client)
            async with connect(
                f"wss://other.test:{port(server)}/", proxy=url, ssl=tls.client, server_hostname="example.test"
            ):
                pass
        async with proxy.serving(tls.server) as url:
            with pytest.raises(ssl.SSLCertVerificationError):
                await connect("ws://example.test/", proxy=url)

    run(main())


@pytest.mark.parametrize("server_tls", [False, True], ids=["ws", "wss"])
def test_connecting_can_be_cancelled_at_any_moment_and_leaves_nothing_open(
    run: Run, echo: Echo, proxy: Proxy, tls: Tls, server_tls: bool
) -> None:
    async def main() -> None:
        async with serve(echo, "127.0.0.1", 0, ssl=tls.server if server_tls else None) as server:
            uri = f"{'wss' if server_tls else 'ws'}://example.test:{port(server)}/"

            async def open_one(url: str) -> None:
                async with connect(uri, proxy=url, ssl=tls.client if server_tls else None):
                    pass

            async with proxy.serving() as url:
                for turns in range(40):
                    task = asyncio.ensure_future(open_one(url))
                    for _ in range(turns):
                        await asyncio.sleep(0.0002)
                    task.cancel()
                    await asyncio.wait({task})
                await until(lambda: proxy.open == 0)

    run(main())


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it does not happen")


def test_what_cannot_be_is_refused_when_it_is_asked_for() -> None:
    with pytest.raises(InvalidProxy, match="another scheme"):
        connect("ws://example.test/", proxy="socks5://p:1")
    with socket.socket() as sock, pytest.raises(ValueError, match="proxy is given together with a transport"):
        connect("ws://example.test/", proxy="http://p:1", sock=sock)
