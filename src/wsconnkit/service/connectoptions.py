"""The options of a client: the handshake that it sends, its token, its proxy, and its rules for reconnecting."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from ssl import SSLContext
from typing import Any

from typing_extensions import TypedDict

from wsconnkit.machines.backoff import BackoffConfig
from wsconnkit.protocol.clienthandshake import ClientHandshake
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.hosts import ascii_name
from wsconnkit.protocol.http import Headers, HeadersLike
from wsconnkit.protocol.proxy import Proxy, environment_proxy, is_loopback, parse_proxy
from wsconnkit.protocol.upgrade import check_subprotocols
from wsconnkit.protocol.uri import URI, parse_uri
from wsconnkit.service.arguments import check_async, check_type, is_list
from wsconnkit.service.reconnect import OnReconnectEvent, Reconnect, ShouldRetry
from wsconnkit.service.tokens import secrets_of

NewToken = Callable[[], Awaitable[str]]
"""Returns a fresh token."""


class ConnectArguments(TypedDict, total=False):
    """The keyword arguments of `connect` that are the same for every event loop."""

    token: str | NewToken | None
    headers: HeadersLike
    subprotocols: Sequence[str]
    config: ConnectionConfig | None
    ssl: SSLContext | None
    server_hostname: str | None
    proxy: str | bool | None
    proxy_ssl: SSLContext | None
    backoff: BackoffConfig | None
    should_retry: ShouldRetry | None
    on_event: OnReconnectEvent | None


class ConnectOptions:
    """The arguments of `connect` that are the same for every event loop, checked, and what follows from them.

    has_transport: whether the caller has a transport to the server already.

    Raises TypeError for a value of a wrong type, ValueError for what cannot be.
    """

    def __init__(
        self,
        uri: str,
        *,
        token: str | NewToken | None = None,
        headers: HeadersLike = (),
        subprotocols: Sequence[str] = (),
        config: ConnectionConfig | None = None,
        ssl: SSLContext | None = None,
        server_hostname: str | None = None,
        proxy: str | bool | None = True,
        proxy_ssl: SSLContext | None = None,
        backoff: BackoffConfig | None = None,
        should_retry: ShouldRetry | None = None,
        on_event: OnReconnectEvent | None = None,
        has_transport: bool = False,
    ) -> None:
        check_type("uri", uri, isinstance(uri, str), "a str")
        check_type("token", token, _is(token, str) or callable(token), "a str, an async function, or None")
        if callable(token):
            check_async("token", token, "a str, or an async function")
        check_type("config", config, _is(config, ConnectionConfig), "a ConnectionConfig, or None")
        for name, context in (("ssl", ssl), ("proxy_ssl", proxy_ssl)):
            check_type(name, context, _is(context, SSLContext), "an SSLContext, or None for the default one")
        check_type("server_hostname", server_hostname, _is(server_hostname, str), "a str, or None")
        check_type("proxy", proxy, _is(proxy, (str, bool)), "a URL, True for the environment's, or None")
        check_type("backoff", backoff, _is(backoff, BackoffConfig), "a BackoffConfig, or None")
        for name, function in (("should_retry", should_retry), ("on_event", on_event)):
            check_type(name, function, function is None or callable(function), "a function, or None")
        self.uri: URI = parse_uri(uri)
        self.config: ConnectionConfig = config or ConnectionConfig()
        for name, value in (("ssl", ssl), ("server_hostname", server_hostname)):
            if value is not None and not self.uri.secure:
                raise ValueError(f"{name} is given, but the URI has the scheme ws; use wss, or leave {name} out")
        self.ssl = ssl
        self.proxy_ssl = proxy_ssl
        self.server_hostname: str | None = None if server_hostname is None else ascii_name(server_hostname)
        self._headers = _headers(headers)
        if token is not None and ("Authorization" in self._headers or self.uri.user is not None):
            raise ValueError("token is given together with other credentials, in headers or in the URI; give one")
        self._token = None if callable(token) else token
        self._new_token = token if callable(token) else None
        self._subprotocols = check_subprotocols(subprotocols)
        self._proxy = parse_proxy(proxy) if isinstance(proxy, str) else None
        self._proxy_from_environment = proxy is True and not has_transport
        if self._proxy is not None and has_transport:
            raise ValueError("proxy is given together with a transport of yours; leave one out")
        self._backoff = backoff or BackoffConfig()
        self._should_retry = should_retry
        self._on_event = on_event
        self.secrets: tuple[str, ...] = ()
        """What was sent and must be in no log, of the latest handshake."""
        self.handshake(0.0)  # raises for what a request cannot have

    async def renew_token(self, *, refresh: bool) -> None:
        """Ask for a token where that is to be done before an attempt; raises what the application raises."""
        if self._new_token is not None and (self._token is None or refresh):
            self._token = None  # it was refused, and is not to be sent again should there be no other by now
            token: object = await self._new_token()
            if not isinstance(token, str):
                raise TypeError(f"token returned {type(token).__name__}; it must be a str")
            self._token = token

    def handshake(self, now: float, *, random_bytes: Callable[[int], bytes] = os.urandom) -> ClientHandshake:
        """Return a new handshake, which begins now; its key comes from `random_bytes`."""
        headers = self._headers
        if self._token is not None:
            headers = Headers([*headers, ("Authorization", f"Bearer {self._token}")])
        handshake = ClientHandshake(
            self.uri,
            self.config,
            now=now,
            headers=headers,
            subprotocols=self._subprotocols,
            random_bytes=random_bytes,
        )
        self.secrets = secrets_of(handshake.request)
        if self.uri.password:
            self.secrets += (self.uri.password,)
        return handshake

    def proxy(self, host: str, port: int, environment: Callable[[], Mapping[str, str]]) -> Proxy | None:
        """Return the proxy by which to reach `host` this time, None for none.

        environment: returns the proxies that the environment names; called where that counts.

        Raises InvalidProxy as the environment may.
        """
        if self._proxy_from_environment and not is_loopback(host):
            return environment_proxy(host, port, secure=self.uri.secure, proxies=environment())
        return self._proxy

    def reconnect(self) -> Reconnect:
        """Return the rules for reconnecting."""
        return Reconnect(
            self._backoff,
            where=self.uri.shown,
            can_refresh=self._new_token is not None,
            should_retry=self._should_retry,
            on_event=self._on_event,
        )


def _headers(headers: HeadersLike) -> Headers:
    given: object = headers.items() if isinstance(headers, Mapping) else headers
    pairs: list[Any] = list(given) if isinstance(given, Iterable) and not isinstance(given, (str, bytes)) else [given]
    is_good = all(is_list(pair, str) and len(pair) == 2 for pair in pairs)
    check_type("headers", headers, is_good, 'str by str, as in {"Name": "value"} or [("Name", "value")]')
    return Headers(pairs)


def _is(value: object, kind: type | tuple[type, ...]) -> bool:
    return value is None or isinstance(value, kind)
