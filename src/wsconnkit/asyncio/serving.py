"""`serve`: how a server is started."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from ssl import SSLContext
from typing import Any

from wsconnkit.asyncio.authentication import Authenticate, Authentication
from wsconnkit.asyncio.connection import Connection
from wsconnkit.asyncio.owner import Owner
from wsconnkit.asyncio.reception import AnswerHTTP, Reception, Rules
from wsconnkit.asyncio.router import answer_requests
from wsconnkit.asyncio.server import Handler, Server
from wsconnkit.asyncio.transport import tls_timeouts
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.service.admission import AdmissionConfig
from wsconnkit.service.pages import MetricsText
from wsconnkit.service.policy import ServerPolicy
from wsconnkit.service.proxies import TrustedProxies
from wsconnkit.service.router import RequestRouter
from wsconnkit.service.serveoptions import ServeOptions
from wsconnkit.service.verifier import TokenVerifier


class serve(Owner[Server]):  # noqa: N801 - it is called like the function that it is to its users
    """Serve `handler` on a host and port: `async with serve(...) as server`, or `server = await serve(...)`.

    handler: called with each connection; when it returns, the connection is closed with 1000, and with 1011 when
        it raises. A `RequestRouter` answers requests.
    host, port: as for `loop.create_server`, like all further keyword arguments (`sock`, `backlog`, …).
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
        **kwargs: Any,
    ) -> None:
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
        self._kwargs = {"host": host, "port": port, "ssl": ssl, **kwargs}
        if ssl is not None:
            self._kwargs = {**tls_timeouts(self._terms.config), **self._kwargs}

    async def _begin(self) -> Server:
        terms = self._terms
        authentication = None if self._authenticate is None else Authentication(self._authenticate)
        endpoint: ServerPolicy[Connection] = terms.new_policy()
        server = Server(self._handler, endpoint, terms.config, authentication)
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
        try:
            await server.listen(Reception(rules), **self._kwargs)
            if terms.pages_at is not None:
                host, port = terms.pages_at
                rules = Rules(endpoint=endpoint, config=terms.config, metrics=self._metrics)
                await server.listen(Reception(rules), host=host, port=port)
        except BaseException:
            await server.close()
            raise
        return server
