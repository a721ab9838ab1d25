"""`serve`: how a server is started."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from ssl import SSLContext

import trio

from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.service.admission import AdmissionConfig
from wsconnkit.service.pages import MetricsText
from wsconnkit.service.policy import ServerPolicy
from wsconnkit.service.proxies import TrustedProxies
from wsconnkit.service.router import RequestRouter
from wsconnkit.service.serveoptions import ServeOptions
from wsconnkit.service.verifier import TokenVerifier
from wsconnkit.trio.authentication import Authenticate, Authentication
from wsconnkit.trio.connection import Connection
from wsconnkit.trio.owner import Owner
from wsconnkit.trio.reception import AnswerHTTP, Reception, Rules
from wsconnkit.trio.router import answer_requests
from wsconnkit.trio.server import Handler, Listener, Server


class serve(Owner[Server]):  # noqa: N801 - it is called like the function that it is to its users
    """Serve `handler`: `async with serve(...) as server`, or `server = await nursery.start(serve(...).run)`.

    handler: called with each connection; when it returns, the connection is closed with 1000, and with 1011 when
        it raises. A `RequestRouter` answers requests.
    host, port: where to listen, one of them at least: no host for all interfaces, and 0 for any port.
    listeners: where to listen instead, of whatever kind: each accepts streams, and is closed at the end. What one of
        them raises ends the server, but for the system's errors that it is short of something.
    path: the only one that is served, None for every path.
    authenticate: a `JWTAuthenticator`, or an async function of a token or None and the `UpgradeRequest`, which returns
        a `Principal`, or a `Response` that refuses, or raises AuthenticationError. None lets everyone in.
    origins: the web pages' origins that may connect besides the server's own; None for all.
    subprotocols: those spoken, the preferred first.
    admission: caps on connections, rates of upgrades and messages.
    proxies: whose word on the client's address is taken.
    reauthenticate: whether a client may send a fresh token in a message.
    http: an async function of an `HTTPRequest` that asks for no WebSocket; returns a `Response`, or None for 404.
    endpoints: whether /healthz, /readyz and /metrics are answered: on the same port, on none, or on that (host, port).
    metrics: `wsconnkit.render_metrics`, or what else makes the text of /metrics.
    ssl: a server-side context, for wss.
    """

    def __init__(
        self,
        handler: Handler | RequestRouter,
        host: str | Sequence[str] | None = None,
        port: int | None = None,
        *,
        listeners: Sequence[trio.abc.Listener[trio.abc.Stream]] | None = None,
        path: str | None = None,
        authenticate: TokenVerifier | Authenticate | None = None,
        origins: Collection[str] | None = (),
        subprotocols: Sequence[str] = (),
        admission: AdmissionConfig | None = None,
        proxies: TrustedProxies | None = None,
        reauthenticate: bool = False,
        http: AnswerHTTP | None = None,
        endpoints: bool | tuple[str, int] = True,
        metrics: MetricsText | None = None,
        config: ConnectionConfig | None = None,
        ssl: SSLContext | None = None,
        backlog: int | None = None,
    ) -> None:
        if listeners is None and host is None and port is None:
            raise ValueError("nowhere to listen: neither host, nor port, nor listeners are given")
        if listeners is not None and not (listeners and host is None and port is None):
            raise ValueError("listeners are none, or given together with host or port; it must be some, alone")
        self._handler = partial(answer_requests, handler) if isinstance(handler, RequestRouter) else handler
        self._terms = ServeOptions(
            handler=self._handler,
            port=port,
            path=path,
            authenticate=authenticate,
            origins=origins,
            subprotocols=subprotocols,
            admission=admission,
            proxies=proxies,
            reauthenticate=reauthenticate,
            http=http,
            endpoints=endpoints,
            metrics=metrics,
            config=config,
            ssl=ssl,
        )
        self._authenticate = authenticate
        self._http = http
        self._metrics = metrics
        self._host, self._port, self._backlog = host, port, backlog
        self._listeners = listeners
        self._ssl = ssl

    async def _begin(self, nursery: trio.Nursery) -> Server:
        terms = self._terms
        authentication = None if self._authenticate is None else Authentication(self._authenticate, nursery)
        endpoint: ServerPolicy[Connection] = terms.new_policy()
        server = Server(self._handler, endpoint, terms.config, authentication, nursery)
        rules = Rules(
            endpoint=endpoint,
            config=terms.config,
            on_connection=server.on_connection,
            path=terms.path,
            subprotocols=terms.subprotocols,
            authentication=authentication,
            pages=terms.has_pages,
            metrics=self._metrics,
            http=self._http,
        )
        listeners = self._listeners
        if listeners is None:
            listeners = await self._open_listeners(self._host, self._port or 0)
        server.listen(Reception(rules, self._ssl), listeners)
        if terms.pages_at is not None:
            host, port = terms.pages_at
            rules = Rules(endpoint=endpoint, config=terms.config, metrics=self._metrics)
            server.listen(Reception(rules), await self._open_listeners(host, port))
        return server

    async def _open_listeners(self, host: str | Sequence[str] | None, port: int) -> list[Listener]:
        hosts = [host] if host is None or isinstance(host, str) else host
        listeners: list[Listener] = []
        try:
            for each in hosts:
                listeners += await trio.open_tcp_listeners(port, host=each or None, backlog=self._backlog)
        except BaseException:
            for listener in listeners:
                await trio.aclose_forcefully(listener)
            raise
        return listeners
