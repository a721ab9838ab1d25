"""Connect to WebSocket servers on asyncio."""

from __future__ import annotations

import asyncio
import ssl as ssl_module
from collections.abc import Generator, Sequence
from typing import Any

from wsconnkit.asyncio.connection import Connection
from wsconnkit.asyncio.opening import Opening
from wsconnkit.asyncio.transport import tls_timeouts
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.handshake import ClientHandshake, HeadersLike, check_subprotocols
from wsconnkit.protocol.http import Headers
from wsconnkit.protocol.uri import parse_uri


class connect:  # noqa: N801 - it is called like the function that it is to its users
    """Connect to `uri`: `async with connect(...) as ws`, or `ws = await connect(...)`.

    uri: ws: or wss:, with credentials where the server wants HTTP Basic ones.
    token: sent as `Authorization: Bearer`.
    headers: added to the request.
    subprotocols: those spoken, the preferred first.
    ssl: a client-side context for wss; the default one checks the server's certificate.
    Further keyword arguments go to `loop.create_connection` (`sock`, `local_addr`, `server_hostname`, …).

    Raises InvalidURI, InvalidStatus when the server refuses, InvalidHandshake when it answers something else,
    TimeoutError when the whole takes longer than `config.handshake.timeout` seconds, OSError as the network does.
    """

    def __init__(
        self,
        uri: str,
        *,
        token: str | None = None,
        headers: HeadersLike = (),
        subprotocols: Sequence[str] = (),
        config: ConnectionConfig | None = None,
        ssl: ssl_module.SSLContext | None = None,
        **kwargs: Any,
    ) -> None:
        self._uri = parse_uri(uri)
        if ssl is not None and not self._uri.secure:
            raise ValueError("ssl is given, but the URI has the scheme ws; use wss, or leave ssl out")
        self._headers = Headers(headers)
        if token is not None:
            if "Authorization" in self._headers or self._uri.user is not None:
                raise ValueError("token is given together with other credentials, in headers or in the URI; give one")
            self._headers = Headers([*self._headers, ("Authorization", f"Bearer {token}")])
        self._subprotocols = check_subprotocols(subprotocols)
        self._config = config or ConnectionConfig()
        self._ssl = ssl
        self._kwargs = kwargs
        self._connection: Connection | None = None

    async def _open(self) -> Connection:
        loop = asyncio.get_running_loop()
        handshake = ClientHandshake(
            self._uri, self._config, now=loop.time(), headers=self._headers, subprotocols=self._subprotocols
        )
        done: asyncio.Future[Connection] = loop.create_future()

        def on_progress(opening: Opening) -> None:
            if done.done():
                return
            if handshake.error is not None:
                done.set_exception(handshake.error)
            elif handshake.agreement is not None:
                core = handshake.connection(loop.time())
                connection = Connection(core, self._config, handshake.request, handshake.agreement)
                opening.hand_over(connection)
                done.set_result(connection)

        opening = Opening(handshake, on_progress=on_progress, on_end=lambda opening: None)
        try:
            await self._connect_transport(loop, opening)
            return await done
        except BaseException:
            done.cancel()
            opening.abort()
            if not done.cancelled() and done.exception() is None:
                done.result().abort()  # it was there when we were cancelled
            raise

    async def _connect_transport(self, loop: asyncio.AbstractEventLoop, opening: Opening) -> None:
        kwargs = dict(self._kwargs)
        if self._uri.secure:
            kwargs["ssl"] = self._ssl or ssl_module.create_default_context()
            kwargs.setdefault("server_hostname", self._uri.host)
            kwargs = {**tls_timeouts(self._config), **kwargs}
        if "sock" not in kwargs:
            kwargs.setdefault("host", self._uri.host)
            kwargs.setdefault("port", self._uri.port)
        timeout = self._config.handshake.timeout
        connecting = loop.create_task(loop.create_connection(lambda: opening, **kwargs))
        # Not wait_for: before Python 3.12 it can swallow a cancellation.
        try:
            await asyncio.wait({connecting}, timeout=timeout)
            timed_out = not connecting.done()
        finally:
            connecting.cancel()
            await asyncio.wait({connecting})
        if timed_out:
            raise TimeoutError(f"no connection to {self._uri.host_header} within {timeout:g} s")
        await connecting

    def __await__(self) -> Generator[Any, None, Connection]:
        return self._open().__await__()

    async def __aenter__(self) -> Connection:
        self._connection = await self._open()
        return self._connection

    async def __aexit__(self, *exc: object) -> None:
        assert self._connection is not None  # __aenter__ made it
        await self._connection.close()
