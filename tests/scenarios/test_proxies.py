"""HTTP proxies that bring nobody to the server."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import pytest

from wsconnkit.protocol.config import ConnectionConfig, HandshakeLimits
from wsconnkit.protocol.errors import HandshakeInterrupted, InvalidHandshake, ProxyRefused

from .driver import Driver

T = TypeVar("T")

RESET = struct.pack("ii", 1, 0)
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


async def eventually(network: Driver, function: Callable[[], T]) -> T:
    """Return what `function`, which does not block, returns as soon as it can."""
    results: list[T] = []

    def attempt() -> list[T]:
        with suppress(BlockingIOError):
            results.append(function())
        return results

    await network.until(attempt)
    return results[0]


@pytest.fixture(scope="module")
def context() -> ssl.SSLContext:
    return ssl.create_default_context()


@pytest.mark.parametrize("scheme", ["ws", "wss"])
@pytest.mark.parametrize(
    ("answer", "how", "error", "told"),
    [
        (b"", "end", HandshakeInterrupted, "the connection to the proxy ended before its answer: EOF"),
        (b"HTTP/1.1 200", "end", HandshakeInterrupted, "the connection to the proxy ended before its answer: EOF"),
        (b"", "reset", HandshakeInterrupted, "the connection to the proxy ended before its answer: .*reset"),
        (b"HTTP/1.1 407 No\r\nContent-Length: 9\r\n\r\n", "hold", ProxyRefused, "HTTP 407"),
        (b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", "hold", ProxyRefused, "HTTP 302"),
        (b"SSH-2.0-x\r\n\r\n", "hold", InvalidHandshake, "the proxy's response is malformed"),
        (ESTABLISHED + b"HTTP/1.1 101 ", "hold", InvalidHandshake, "the proxy sent more than its answer"),
        (b"HTTP/1.1 103 Wait\r\n\r\n" * 100, "hold", InvalidHandshake, "the proxy sent over 1000 bytes"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 2000, "hold", InvalidHandshake, "the proxy's response is malformed"),
        (b"HTTP/1.1 200 OK\r\n", "hold", TimeoutError, r"no connection to example.test within"),
    ],
)
def test_it_is_told_what_a_proxy_did(
    network: Driver,
    context: ssl.SSLContext,
    scheme: str,
    answer: bytes,
    how: str,
    error: type[Exception],
    told: str,
) -> None:
    async def main() -> None:
        timeout = 0.3 if error is TimeoutError else 10
        config = ConnectionConfig(handshake=HandshakeLimits(timeout=timeout, max_head=1000))
        tls = {"ssl": context} if scheme == "wss" else {}
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            url = f"http://ada:secret@127.0.0.1:{listener.getsockname()[1]}"

            async def attempt() -> None:
                async with network.adapter.connect(f"{scheme}://example.test/", proxy=url, config=config, **tls):
                    raise AssertionError

            async with network.tasks() as start:
                attempting = start(attempt)
                proxy, _ = await eventually(network, listener.accept)
                with proxy:
                    proxy.setblocking(False)
                    request = await eventually(network, lambda: proxy.recv(65536))
                    assert request.startswith(b"CONNECT example.test:")
                    proxy.sendall(answer)
                    if how == "reset":
                        proxy.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    if how != "hold":
                        proxy.close()
                    with pytest.raises(error, match=told) as caught:
                        await attempting.join()
                    assert "secret" not in repr(caught.value)

    network.run(main)
