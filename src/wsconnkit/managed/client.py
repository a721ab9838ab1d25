"""Connect to WebSocket servers, once or again and again."""

from __future__ import annotations

import ssl as ssl_module
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, Generic, NamedTuple, TypeVar

from typing_extensions import Self

from wsconnkit.environment import proxies
from wsconnkit.machines.closing import State
from wsconnkit.managed.connection import Connection
from wsconnkit.managed.opening import OpeningHandshake
from wsconnkit.managed.runtime import Runtime, TaskTimeout, as_error
from wsconnkit.protocol.closeinfo import Cause
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.errors import ConnectionClosed, HandshakeInterrupted, connection_closed
from wsconnkit.protocol.proxy import Proxy
from wsconnkit.protocol.uri import URI
from wsconnkit.service.arguments import check_names
from wsconnkit.service.connectoptions import ConnectArguments, ConnectOptions
from wsconnkit.service.reconnect import Reconnect, Stopped

C = TypeVar("C", bound=Connection)


class Route(NamedTuple):
    """The way to a server.

    ssl, proxy_ssl: there where the server, and the proxy, are reached by TLS.
    server_hostname: whom the server's certificate must be for.
    """

    uri: URI
    config: ConnectionConfig
    ssl: ssl_module.SSLContext | None
    server_hostname: str
    proxy: Proxy | None
    proxy_ssl: ssl_module.SSLContext | None


def unreachable(errors: Sequence[OSError]) -> OSError:
    """Return what to raise where all the addresses of a host have failed: each tells its own."""
    if not errors:
        return OSError("the host has no address")
    texts = list(dict.fromkeys(error.strerror or str(error) for error in errors))
    if len(texts) == 1:
        return errors[0]
    number = errors[0].errno if len({error.errno for error in errors}) == 1 else None
    return OSError("; ".join(texts)) if number is None else OSError(number, "; ".join(texts))


class Connecting(ABC, Generic[C]):
    """Connect to `uri`: `async with connect(...) as ws`, or `async for ws in connect(...)`.

    uri: ws: or wss:, with credentials where the server wants HTTP Basic ones.
    token: sent as `Authorization: Bearer`; or an async function that returns it, called before the first attempt and
        again before one that follows a 401 or a close with 1008.
    headers: added to the request.
    subprotocols: those spoken, the preferred first.
    ssl: a client-side context for wss; the default one checks the server's certificate.
    server_hostname: whom the server's certificate must be for, if not the URI's host.
    proxy: the URL of an HTTP proxy, True for the one that the environment names, None for a direct connection.
    proxy_ssl: a client-side context for a proxy with https.
    backoff: when `async for` tries again, and how often.
    should_retry: called with the exception that has ended a connection or an attempt, before `async for` tries again:
        True does, False does not, None leaves it to the rules.
    on_event: called with each step of `async for`: Opened, Retrying and Stopped.

    Raises InvalidURI, InvalidStatus when the server refuses, ProxyRefused when the proxy does, InvalidHandshake when
    either answers something else, TimeoutError when the whole takes longer than `config.handshake.timeout` seconds,
    OSError as the network does.

    `async for` gives a connection, and when that has ended and the body is done with it the next one: after a random
    wait, which grows. It ends when either side closes with 1000, and raises what has ended the last one when another
    cannot work, or has not after as many attempts as `backoff` allows. One that the body leaves open is closed.
    """

    _connection_class: type[C]

    def __init__(self, uri: str, *, has_transport: bool, options: Collection[str], **arguments: Any) -> None:
        check_names("connect", arguments, (*ConnectArguments.__annotations__, *options))
        self._options = ConnectOptions(uri, has_transport=has_transport, **arguments)
        self.config: ConnectionConfig = self._options.config

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._options.uri.shown}>"

    @abstractmethod
    def _address(self) -> tuple[str, int]:
        """Return the host and the port of the server, which may not be those of the URI."""

    @abstractmethod
    async def _dial(self, runtime: Runtime, route: Route, opening: OpeningHandshake) -> None:
        """Connect by `route` and let `opening` drive the transport.

        Raises OSError, TimeoutError, and InvalidHandshake as the proxy does.
        """

    @abstractmethod
    def __aiter__(self) -> Connections[C]: ...

    @abstractmethod
    def check_repeatable(self) -> None:
        """Raise ValueError where only one connection can be made."""

    @cached_property
    def _default_ssl(self) -> ssl_module.SSLContext:
        return ssl_module.create_default_context()  # which holds up the loop while it reads certificates: once

    def _route(self) -> Route:
        options = self._options
        proxy = options.proxy(*self._address(), proxies)
        return Route(
            options.uri,
            self.config,
            options.ssl or self._default_ssl if options.uri.secure else None,
            options.server_hostname or options.uri.host,
            proxy,
            options.proxy_ssl or self._default_ssl if proxy is not None and proxy.secure else None,
        )

    async def open(self, runtime: Runtime, *, refresh: bool = False) -> C:
        """Return a new connection.

        refresh: a fresh token is to be asked for first.
        """
        try:
            await runtime.call(self._renew_token, refresh)
        except TimeoutError as error:
            raise TimeoutError("no token within the time that its function has") from error
        except ConnectionClosed as error:  # another connection's, whose close is none of ours
            raise HandshakeInterrupted(f"no token, as its function lost a connection: {error}") from error
        handshake = self._options.handshake(runtime.now(), random_bytes=runtime.random_bytes)
        opened = runtime.future()
        connection: C | None = None

        def on_progress(opening: OpeningHandshake) -> None:
            nonlocal connection
            if opened.done():
                return
            if handshake.error is not None:
                opened.set_result(handshake.error)
            elif handshake.agreement is not None:
                core = handshake.connection(runtime.now(), random_bytes=runtime.random_bytes)
                connection = self._connection_class(runtime, core, self.config, handshake.request, handshake.agreement)
                opening.hand_over(connection)
                opened.set_result(connection)

        def on_dialed(outcome: Any) -> None:
            if isinstance(outcome, TaskTimeout):
                timeout = self.config.handshake.timeout
                outcome = TimeoutError(f"no connection to {self._options.uri.host_header} within {timeout:g} s")
            if isinstance(outcome, BaseException) and not opened.done():
                opened.set_result(as_error(outcome))

        opening = OpeningHandshake(runtime, handshake, on_progress=on_progress, on_end=lambda opening: None)
        dialing = runtime.start(
            self._dial, runtime, self._route(), opening, timeout=self.config.handshake.timeout, on_end=on_dialed
        )
        outcome: C | Exception | None = None
        try:
            outcome = await opened
        finally:
            if outcome is None or isinstance(outcome, Exception):
                dialing.cancel()
                opening.abort()
                if connection is not None:
                    connection.abort()  # it was there when we were cancelled
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def _renew_token(self, refresh: bool) -> None:
        await self._options.renew_token(refresh=refresh)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What the latest handshake has sent and must be in no log."""
        return self._options.secrets

    def connections(self, runtime: Runtime) -> Connections[C]:
        """Return the connections, one after the other, which live in `runtime`; see `check_repeatable`."""
        return Connections(self, self._options.reconnect(), runtime)


class Connections(Generic[C]):
    """What `async for` iterates over: no generator, since those want to be closed by whoever leaves them."""

    def __init__(self, connect: Connecting[C], reconnect: Reconnect, runtime: Runtime) -> None:
        self._connect = connect
        self._reconnect = reconnect
        self._runtime = runtime
        self._refresh = False
        self._ws: C | None = None
        self._is_over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> C:
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
                self._ws = await self._connect.open(self._runtime, refresh=self._refresh)
            except Exception as error:
                ended = error
            else:
                self._on_open(self._ws)
                return self._ws
            await self._wait_for_next(ended, left=False)

    def leave(self) -> None:
        """Begin to close the connection there is."""
        if self._ws is not None:
            self._ws.start_close(Cause.LOCAL_CLOSE.code, "", Cause.LOCAL_CLOSE)

    async def aclose(self) -> None:
        """Close the connection there is, also where everything is being cancelled."""
        self.leave()
        if self._ws is not None:
            # It takes one close timeout, and a moment.
            await self._runtime.wait(self._ws.gone, 2 * self._connect.config.close.timeout, shield=True)

    def __del__(self) -> None:
        with suppress(RuntimeError):  # outside of an event loop, where nothing lives any more
            self.leave()

    def _on_open(self, ws: C) -> None:
        # Not self, which is to go when the loop is left, and not with the connection.
        reconnect, now = self._reconnect, self._runtime.now
        is_told = False
        try:
            reconnect.on_open(now())
            is_told = True
        finally:
            if not is_told:  # and nobody will ask for the next one
                self.leave()
        ws.call_when_closed(lambda: reconnect.on_close(now()))

    async def _wait_for_next(self, ended: Exception, *, left: bool) -> None:
        """Wait as long as the rules say; raises what has ended it all, or StopAsyncIteration."""
        step = self._reconnect.on_end(
            ended,
            self._runtime.now(),
            jitter=self._runtime.random(),
            wall_now=self._runtime.wall_now(),
            left=left,
            secrets=self._connect.secrets,
        )
        if isinstance(step, Stopped):
            self._is_over = True
            raise step.error or StopAsyncIteration
        self._refresh = step.refresh
        await self._runtime.sleep(step.delay)
