"""Connect to WebSocket servers on trio, once or again and again."""

from __future__ import annotations

import random
import ssl as ssl_module
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from inspect import signature
from typing import Any

import trio
from typing_extensions import Self

from wsconnkit.environment import proxies
from wsconnkit.machines.backoff import BackoffConfig
from wsconnkit.machines.closing import State
from wsconnkit.protocol.closeinfo import Cause
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.errors import connection_closed
from wsconnkit.protocol.http import HeadersLike
from wsconnkit.service.connectoptions import ConnectOptions, NewToken
from wsconnkit.service.reconnect import OnReconnectEvent, Reconnect, ShouldRetry, Stopped
from wsconnkit.trio.connection import Connection
from wsconnkit.trio.dialing import Route, dial
from wsconnkit.trio.opening import Opening
from wsconnkit.trio.owner import Owner
from wsconnkit.trio.transport import drop

_KEYWORDS = frozenset(signature(trio.open_tcp_stream).parameters)

Start = Callable[..., object]
"""Starts an async function with its arguments in the background."""


class connect(Owner[Connection]):  # noqa: N801 - it is called like the function that it is to its users
    """Connect to `uri`: `async with connect(...) as ws`, or `async for ws in connect(...)`.

    In a nursery: `ws = await nursery.start(connect(...).run)`.

    uri: ws: or wss:, with credentials where the server wants HTTP Basic ones.
    token: sent as `Authorization: Bearer`; or an async function that returns it, called before the first attempt and
        again before one that follows a 401 or a close with 1008.
    headers: added to the request.
    subprotocols: those spoken, the preferred first.
    ssl: a client-side context for wss; the default one checks the server's certificate.
    proxy: the URL of an HTTP proxy, True for the one that the environment names, None for a direct connection.
    proxy_ssl: a client-side context for a proxy with https.
    backoff: when `async for` tries again, and how often.
    should_retry: called with the exception that has ended a connection or an attempt, before `async for` tries again:
        True does, False does not, None leaves it to the rules.
    on_event: called with each step of `async for`: Opened, Retrying and Stopped.
    server_hostname: whom the server's certificate must be for, if not the URI's host.
    stream: one that leads to the server; closed at the end.
    Further keyword arguments go to `trio.open_tcp_stream` (`host`, `port`, `local_address`, …).

    Raises InvalidURI, InvalidStatus when the server refuses, ProxyRefused when the proxy does, InvalidHandshake when
    either answers something else, TimeoutError when the whole takes longer than `config.handshake.timeout` seconds,
    OSError as the network does.

    `async for` gives a connection, and when that has ended and the body is done with it the next one: after a random
    wait, which grows. It ends when either side closes with 1000, and raises what has ended the last one when another
    cannot work or has not after the attempts that it has. A connection that the body leaves open is closed; the
    tasks of these connections are system tasks of trio, since a loop can be left without telling anybody.
    """

    def __init__(
        self,
        uri: str,
        *,
        token: str | NewToken | None = None,
        headers: HeadersLike = (),
        subprotocols: Sequence[str] = (),
        config: ConnectionConfig | None = None,
        ssl: ssl_module.SSLContext | None = None,
        proxy: str | bool | None = True,
        proxy_ssl: ssl_module.SSLContext | None = None,
        backoff: BackoffConfig | None = None,
        should_retry: ShouldRetry | None = None,
        on_event: OnReconnectEvent | None = None,
        server_hostname: str | None = None,
        stream: trio.abc.Stream | None = None,
        **kwargs: Any,
    ) -> None:
        self._approach = ConnectOptions(
            uri,
            token=token,
            headers=headers,
            subprotocols=subprotocols,
            config=config,
            ssl=ssl,
            server_hostname=server_hostname,
            proxy=proxy,
            proxy_ssl=proxy_ssl,
            backoff=backoff,
            should_retry=should_retry,
            on_event=on_event,
            has_transport=stream is not None,
        )
        if unknown := sorted(kwargs.keys() - _KEYWORDS):
            raise TypeError(f"neither connect nor trio.open_tcp_stream has an argument {unknown[0]}")
        if stream is not None and kwargs:
            raise ValueError(f"stream is given together with {', '.join(kwargs)}, for making one; leave one out")
        self.config = self._approach.config
        self._ssl = ssl
        self._proxy_ssl = proxy_ssl
        self._server_hostname = server_hostname
        self._stream = stream
        self._kwargs = kwargs

    @cached_property
    def _default_ssl(self) -> ssl_module.SSLContext:
        return ssl_module.create_default_context()  # which holds up the loop while it reads certificates: once

    async def open(self, start: Start, *, refresh: bool = False) -> Connection:
        """Return a new connection, whose life is started by `start`.

        refresh: a fresh token is to be asked for first.
        """
        try:
            await self._approach.renew_token(refresh=refresh)
        except trio.TooSlowError as error:  # which is no TimeoutError
            raise TimeoutError("no token within the time that its function has") from error
        uri = self._approach.uri
        handshake = self._approach.handshake(trio.current_time())
        proxy = self._approach.proxy(self._kwargs.get("host", uri.host), self._kwargs.get("port", uri.port), proxies)
        ssl = self._ssl or self._default_ssl if uri.secure else None
        proxy_ssl = self._proxy_ssl or self._default_ssl if proxy is not None and proxy.secure else None
        route = Route(uri, self.config, ssl, self._server_hostname, proxy, proxy_ssl, self._stream, self._kwargs)
        stream = await dial(route)
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
        connection = Connection(core, self.config, handshake.request, handshake.agreement)
        start(connection.run, stream)
        return connection

    async def _begin(self, nursery: trio.Nursery) -> Connection:
        return await self.open(nursery.start_soon)

    def __aiter__(self) -> Connections:
        return self.connections(trio.lowlevel.spawn_system_task)

    def connections(self, start: Start) -> Connections:
        """Return the connections, one after the other, whose lives are started by `start`."""
        self.check_repeatable()
        return Connections(self, self._approach, self._approach.reconnect(), start)

    def check_repeatable(self) -> None:
        """Raise ValueError where only one connection can be made."""
        if self._stream is not None:
            raise ValueError("stream is given; it serves one connection, and a client that comes back makes more")


class Connections:
    """What `async for` iterates over: no generator, since trio wants those to be closed by whoever leaves them."""

    def __init__(self, connect: connect, approach: ConnectOptions, reconnect: Reconnect, start: Start) -> None:
        self._connect = connect
        self._approach = approach
        self._reconnect = reconnect
        self._start = start
        self._refresh = False
        self._ws: Connection | None = None
        self._is_over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Connection:
        if self._is_over:
            raise StopAsyncIteration
        if self._ws is not None:
            ws, left = self._ws, self._ws.state is State.OPEN
            await ws.close()
            self._ws = None
            assert ws.close_info is not None  # it was waited for
            await self._wait_for_next(connection_closed(ws.close_info), left=left)
        while True:
            try:
                self._ws = await self._connect.open(self._start, refresh=self._refresh)
            except Exception as error:
                ended = error
            else:
                self._opened(self._ws)
                return self._ws
            await self._wait_for_next(ended, left=False)

    def _opened(self, ws: Connection) -> None:
        reconnect = self._reconnect  # not self, which is to go when the loop is left, and not with the connection
        try:
            reconnect.on_open(trio.current_time())
        except BaseException:  # nobody will ask for the next one
            self.leave()
            raise
        ws.call_when_closed(lambda: reconnect.on_close(trio.current_time()))

    def leave(self) -> None:
        """Begin to close the connection there is."""
        if self._ws is not None:
            self._ws.start_close(Cause.LOCAL_CLOSE.code, "", Cause.LOCAL_CLOSE)

    async def aclose(self) -> None:
        """Close the connection there is, also where everything is being cancelled."""
        self.leave()
        if self._ws is not None:
            # It takes one close timeout, and a moment.
            deadline = trio.current_time() + 2 * self._connect.config.close.timeout
            with trio.CancelScope(deadline=deadline, shield=True):
                await self._ws.wait_closed()

    def __del__(self) -> None:
        with suppress(RuntimeError):  # outside of trio, where nothing lives any more
            self.leave()

    async def _wait_for_next(self, ended: Exception, *, left: bool) -> None:
        """Wait as long as the rules say; raises what has ended it all, or StopAsyncIteration."""
        step = self._reconnect.on_end(
            ended,
            trio.current_time(),
            jitter=random.random(),  # noqa: S311 - nobody gains by guessing it
            wall_now=time.time(),
            left=left,
            secrets=self._approach.secrets,
        )
        if isinstance(step, Stopped):
            self._is_over = True
            raise step.error or StopAsyncIteration
        self._refresh = step.refresh
        await trio.sleep(step.delay)
