"""Connect to WebSocket servers on trio."""

from __future__ import annotations

import ssl as ssl_module
from collections.abc import Sequence
from typing import Any

import trio

from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.handshake import ClientHandshake, HeadersLike, check_subprotocols
from wsconnkit.protocol.http import Headers
from wsconnkit.protocol.uri import parse_uri
from wsconnkit.trio.connection import Connection
from wsconnkit.trio.opening import Opening
from wsconnkit.trio.owner import Owner
from wsconnkit.trio.transport import drop


class connect(Owner[Connection]):  # noqa: N801 - it is called like the function that it is to its users
    """Connect to `uri`: `async with connect(...) as ws`, or `ws = await nursery.start(connect(...).run)`.

    uri: ws: or wss:, with credentials where the server wants HTTP Basic ones.
    token: sent as `Authorization: Bearer`.
    headers: added to the request.
    subprotocols: those spoken, the preferred first.
    ssl: a client-side context for wss; the default one checks the server's certificate.
    server_hostname: whom the server's certificate must be for, if not the URI's host.
    stream: one that leads to the server; closed at the end.
    Further keyword arguments go to `trio.open_tcp_stream` (`host`, `port`, `local_address`, …).

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
        server_hostname: str | None = None,
        stream: trio.abc.Stream | None = None,
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
        self._server_hostname = server_hostname
        self._stream = stream
        self._kwargs = kwargs

    async def _begin(self, nursery: trio.Nursery) -> Connection:
        handshake = ClientHandshake(
            self._uri,
            self._config,
            now=trio.current_time(),
            headers=self._headers,
            subprotocols=self._subprotocols,
        )
        stream = await self._connect_stream()
        try:
            await Opening(stream, handshake).run()
        except BaseException:
            await drop(stream)
            raise
        if handshake.error is not None:
            await drop(stream)
            raise handshake.error
        assert handshake.agreement is not None  # it succeeded
        core = handshake.connection(trio.current_time())
        connection = Connection(core, self._config, handshake.request, handshake.agreement)
        nursery.start_soon(connection.run, stream)
        return connection

    async def _connect_stream(self) -> trio.abc.Stream:
        timeout = self._config.handshake.timeout
        stream = self._stream
        try:
            with trio.fail_after(timeout):
                if stream is None:
                    stream = await trio.open_tcp_stream(
                        **{"host": self._uri.host, "port": self._uri.port, **self._kwargs}
                    )
                if self._uri.secure:
                    context = self._ssl or ssl_module.create_default_context()
                    hostname = self._server_hostname or self._uri.host
                    stream = secured = trio.SSLStream(stream, context, server_hostname=hostname)
                    await secured.do_handshake()
                return stream
        except BaseException as error:
            if stream is not None:
                await drop(stream)
            if isinstance(error, trio.TooSlowError):
                raise TimeoutError(f"no connection to {self._uri.host_header} within {timeout:g} s") from None
            if isinstance(error, trio.BrokenResourceError) and isinstance(error.__cause__, OSError):
                raise error.__cause__ from None  # the certificate is not good, say
            raise
