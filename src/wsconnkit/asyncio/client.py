"""Connect to WebSocket servers on asyncio, once or again and again."""

from __future__ import annotations

import asyncio
import random
import ssl as ssl_module
import time
from collections.abc import AsyncGenerator, Sequence
from functools import cached_property
from inspect import signature
from typing import Any

from wsconnkit.asyncio.connection import Connection
from wsconnkit.asyncio.dialing import Route, dial
from wsconnkit.asyncio.opening import Opening
from wsconnkit.asyncio.owner import Owner
from wsconnkit.environment import proxies
from wsconnkit.machines.backoff import BackoffConfig
from wsconnkit.machines.closing import State
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.errors import connection_closed
from wsconnkit.protocol.http import HeadersLike
from wsconnkit.service.connectoptions import ConnectOptions, NewToken
from wsconnkit.service.reconnect import OnReconnectEvent, ShouldRetry, Stopped

_KEYWORDS = frozenset(signature(asyncio.BaseEventLoop.create_connection).parameters) - {"self", "protocol_factory"}


class connect(Owner[Connection]):  # noqa: N801 - it is called like the function that it is to its users
    """Connect to `uri`: `async with connect(...) as ws`, `ws = await connect(...)`, or `async for ws in connect(...)`.

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
    Further keyword arguments go to `loop.create_connection` (`sock`, `local_addr`, `server_hostname`, …).

    Raises InvalidURI, InvalidStatus when the server refuses, ProxyRefused when the proxy does, InvalidHandshake when
    either answers something else, TimeoutError when the whole takes longer than `config.handshake.timeout` seconds,
    OSError as the network does.

    `async for` gives a connection, and when that has ended and the body is done with it the next one: after a random
    wait, which grows. It ends when either side closes with 1000, and raises what has ended the last one when another
    cannot work or has not after the attempts that it has. A connection that the body leaves open is closed.
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
        **kwargs: Any,
    ) -> None:
        self._approach = ConnectOptions(
            uri,
            token=token,
            headers=headers,
            subprotocols=subprotocols,
            config=config,
            ssl=ssl,
            server_hostname=kwargs.get("server_hostname"),
            proxy=proxy,
            proxy_ssl=proxy_ssl,
            backoff=backoff,
            should_retry=should_retry,
            on_event=on_event,
            has_transport="sock" in kwargs,
        )
        if unknown := sorted(kwargs.keys() - _KEYWORDS):
            raise TypeError(f"neither connect nor loop.create_connection has an argument {unknown[0]}")
        self.config = self._approach.config
        self._ssl = ssl
        self._proxy_ssl = proxy_ssl
        self._kwargs = kwargs

    @cached_property
    def _default_ssl(self) -> ssl_module.SSLContext:
        return ssl_module.create_default_context()  # which holds up the loop while it reads certificates: once

    async def _begin(self, *, refresh: bool = False) -> Connection:
        try:
            await self._approach.renew_token(refresh=refresh)
        except asyncio.TimeoutError as error:  # before Python 3.11 not the built-in one
            raise TimeoutError("no token within the time that its function has") from error
        loop = asyncio.get_running_loop()
        handshake = self._approach.handshake(loop.time())
        done: asyncio.Future[Connection] = loop.create_future()

        def on_progress(opening: Opening) -> None:
            if done.done():
                return
            if handshake.error is not None:
                done.set_exception(handshake.error)
            elif handshake.agreement is not None:
                core = handshake.connection(loop.time())
                connection = Connection(core, self.config, handshake.request, handshake.agreement)
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
        uri = self._approach.uri
        proxy = self._approach.proxy(self._kwargs.get("host", uri.host), self._kwargs.get("port", uri.port), proxies)
        ssl = self._ssl or self._default_ssl if uri.secure else None
        proxy_ssl = self._proxy_ssl or self._default_ssl if proxy is not None and proxy.secure else None
        route = Route(uri, self.config, ssl, proxy, proxy_ssl, self._kwargs)
        timeout = self.config.handshake.timeout
        connecting = loop.create_task(dial(opening, route))
        # Not wait_for: before Python 3.12 it can swallow a cancellation.
        try:
            await asyncio.wait({connecting}, timeout=timeout)
            timed_out = not connecting.done()
        finally:
            connecting.cancel()
            await asyncio.wait({connecting})
        if timed_out:
            raise TimeoutError(f"no connection to {uri.host_header} within {timeout:g} s")
        await connecting

    def __aiter__(self) -> AsyncGenerator[Connection, None]:
        self.check_repeatable()
        return self._connections()

    def check_repeatable(self) -> None:
        """Raise ValueError where only one connection can be made."""
        if "sock" in self._kwargs:
            raise ValueError("sock is given; it serves one connection, and a client that comes back makes more")

    async def _connections(self) -> AsyncGenerator[Connection, None]:
        loop = asyncio.get_running_loop()
        reconnect = self._approach.reconnect()
        refresh = left = False
        while True:
            try:
                ws = await self._begin(refresh=refresh)
            except Exception as error:
                ended = error
            else:
                try:
                    reconnect.on_open(loop.time())
                    ws.call_when_closed(lambda: reconnect.on_close(loop.time()))
                    yield ws
                finally:
                    left = ws.state is State.OPEN
                    await ws.close()
                assert ws.close_info is not None  # it was waited for
                ended = connection_closed(ws.close_info)
            jitter = random.random()  # noqa: S311 - nobody gains by guessing it
            step = reconnect.on_end(
                ended, loop.time(), jitter=jitter, wall_now=time.time(), left=left, secrets=self._approach.secrets
            )
            if isinstance(step, Stopped):
                if step.error is not None:
                    raise step.error
                return
            refresh = step.refresh
            await asyncio.sleep(step.delay)
