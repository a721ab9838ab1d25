"""What a client knows of its server: what it asks for, who it says it is, by which way it comes, and when again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from wsconnkit.machines.backoff import BackoffConfig
from wsconnkit.protocol.clienthandshake import ClientHandshake
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.http import Headers, HeadersLike
from wsconnkit.protocol.proxy import Proxy, environment_proxy, parse_proxy
from wsconnkit.protocol.upgrade import check_subprotocols
from wsconnkit.protocol.uri import parse_uri
from wsconnkit.service.reconnect import OnReconnectEvent, Reconnect, ShouldRetry
from wsconnkit.service.tokens import secrets_of

NewToken = Callable[[], Awaitable[str]]
"""Returns a fresh token."""


class Approach:
    """The arguments of `connect` that are the same for every event loop, checked, and what follows from them.

    has_ssl: whether a context for TLS is given, too.
    has_transport: whether the caller has a transport to the server already.
    """

    def __init__(
        self,
        uri: str,
        *,
        token: str | NewToken | None,
        headers: HeadersLike,
        subprotocols: Sequence[str],
        config: ConnectionConfig | None,
        proxy: str | bool | None,
        has_ssl: bool,
        has_transport: bool,
    ) -> None:
        self.uri = parse_uri(uri)
        self.config = config or ConnectionConfig()
        if has_ssl and not self.uri.secure:
            raise ValueError("ssl is given, but the URI has the scheme ws; use wss, or leave ssl out")
        self._headers = Headers(headers)
        if token is not None and ("Authorization" in self._headers or self.uri.user is not None):
            raise ValueError("token is given together with other credentials, in headers or in the URI; give one")
        self._token = None if callable(token) else token
        self._new_token = token if callable(token) else None
        self._subprotocols = check_subprotocols(subprotocols)
        self._proxy = parse_proxy(proxy) if isinstance(proxy, str) else None
        if not isinstance(proxy, (str, bool, type(None))):
            raise ValueError(
                f"proxy is of type {type(proxy).__name__}; it must be a URL, True for the environment's, or None"
            )
        self._proxy_from_environment = proxy is True and not has_transport
        if self._proxy is not None and has_transport:
            raise ValueError("proxy is given together with a transport of yours; leave one out")
        self.secrets: tuple[str, ...] = ()
        """What was sent and must be in no log, of the latest handshake."""

    async def renew_token(self, *, refresh: bool) -> None:
        """Ask for a token where that is to be done before an attempt; raises what the application raises."""
        if self._new_token is not None and (self._token is None or refresh):
            self._token = None  # it was refused, and is not to be sent again should there be no other by now
            token: object = await self._new_token()
            if not isinstance(token, str):
                raise TypeError(f"token returned {type(token).__name__}; it must be a str")
            self._token = token

    def handshake(self, now: float) -> ClientHandshake:
        """Return a new handshake, which begins now."""
        headers = self._headers
        if self._token is not None:
            headers = Headers([*headers, ("Authorization", f"Bearer {self._token}")])
        handshake = ClientHandshake(self.uri, self.config, now=now, headers=headers, subprotocols=self._subprotocols)
        self.secrets = secrets_of(handshake.request)
        if self.uri.password:
            self.secrets += (self.uri.password,)
        return handshake

    def proxy(self, host: str, port: int) -> Proxy | None:
        """Return the proxy by which to reach `host` this time, None for none.

        Raises InvalidProxy as the environment may.
        """
        if self._proxy_from_environment:
            return environment_proxy(host, port, secure=self.uri.secure)
        return self._proxy

    def reconnect(
        self,
        backoff: BackoffConfig | None,
        *,
        should_retry: ShouldRetry | None = None,
        on_event: OnReconnectEvent | None = None,
    ) -> Reconnect:
        """Return the rules by which to come back."""
        scheme, path = "wss" if self.uri.secure else "ws", self.uri.resource.partition("?")[0]
        return Reconnect(
            backoff or BackoffConfig(),
            where=f"{scheme}://{self.uri.host_header}{path}",
            can_refresh=self._new_token is not None,
            should_retry=should_retry,
            on_event=on_event,
        )
