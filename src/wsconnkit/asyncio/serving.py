"""`serve`: how a server is started."""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence
from functools import partial
from ssl import SSLContext
from typing import Any

from wsconnkit.asyncio.authentication import Authenticate, Authentication
from wsconnkit.asyncio.connection import Connection
from wsconnkit.asyncio.reception import AnswerHTTP, Reception, Rules
from wsconnkit.asyncio.router import answer_requests
from wsconnkit.asyncio.server import Handler, Server
from wsconnkit.asyncio.transport import tls_timeouts
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.upgrade import check_subprotocols
from wsconnkit.service.admission import AdmissionConfig
from wsconnkit.service.endpoint import Endpoint
from wsconnkit.service.pages import MetricsText
from wsconnkit.service.proxies import TrustedProxies
from wsconnkit.service.router import RequestRouter
from wsconnkit.service.tokens import BEARER
from wsconnkit.service.verifier import TokenVerifier


class serve:  # noqa: N801 - it is called like the function that it is to its users
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
        if isinstance(authenticate, type):
            raise TypeError(f"authenticate is the class {authenticate.__name__}; give an instance of it")
        if reauthenticate and authenticate is None:
            raise ValueError("reauthenticate is given without authenticate, which would verify the fresh tokens")
        self._handler = partial(answer_requests, handler) if isinstance(handler, RequestRouter) else handler
        _check("path", path is None or path.startswith("/"), "None, or a path that starts with '/'", path)
        is_authenticator = authenticate is None or callable(getattr(authenticate, "verify", authenticate))
        _check("authenticate", is_authenticator, "an authenticator, or an async function", authenticate)
        _check("http", http is None or callable(http), "an async function", http)
        _check("metrics", metrics is None or callable(metrics), "a function such as render_metrics", metrics)
        is_place = isinstance(endpoints, tuple) and len(endpoints) == 2
        _check("endpoints", isinstance(endpoints, bool) or is_place, "True, False, or (host, port)", endpoints)
        self._new_endpoint = partial(
            Endpoint[Connection], origins=origins, proxies=proxies, admission=admission, reauthenticate=reauthenticate
        )
        self._new_endpoint()  # complains of what is wrong with these
        self._path = path
        self._authenticate = authenticate
        # Browsers want one of the subprotocols that they offer back, and the token must not be it.
        self._subprotocols = check_subprotocols(subprotocols)
        if authenticate is not None and BEARER not in self._subprotocols:
            self._subprotocols += (BEARER,)
        self._http = http
        self._endpoints = endpoints
        self._metrics = metrics
        self._config = config or ConnectionConfig()
        self._kwargs = {"host": host, "port": port, "ssl": ssl, **kwargs}
        if ssl is not None:
            self._kwargs = {**tls_timeouts(self._config), **self._kwargs}
        self._server: Server | None = None

    async def _start(self) -> Server:
        authentication = None if self._authenticate is None else Authentication(self._authenticate)
        endpoint = self._new_endpoint()
        server = Server(self._handler, endpoint, self._config, authentication)
        rules = Rules(
            endpoint=endpoint,
            config=self._config,
            on_connection=server.on_connection,
            path=self._path,
            subprotocols=self._subprotocols,
            authentication=authentication,
            pages=self._endpoints is True,
            metrics=self._metrics,
            http=self._http,
        )
        try:
            await server.listen(Reception(rules), **self._kwargs)
            if isinstance(self._endpoints, tuple):
                host, port = self._endpoints
                rules = Rules(endpoint=endpoint, config=self._config, metrics=self._metrics)
                await server.listen(Reception(rules), host=host, port=port)
        except BaseException:
            await server.close()
            raise
        return server

    def __await__(self) -> Generator[Any, None, Server]:
        return self._start().__await__()

    async def __aenter__(self) -> Server:
        self._server = await self._start()
        return self._server

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None  # __aenter__ made it
        await self._server.close()


def _check(name: str, is_good: bool, wanted: str, value: object) -> None:
    if not is_good:
        raise ValueError(f"{name} is {value!r}; it must be {wanted}")
