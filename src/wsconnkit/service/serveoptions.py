"""The options of a server, and of a manager without listeners, checked before anything happens."""

from __future__ import annotations

import re
import ssl as ssl_module
from collections.abc import Collection, Sequence
from typing import Any
from urllib.parse import quote

from typing_extensions import TypedDict, Unpack

from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.http import Response
from wsconnkit.protocol.upgrade import UpgradeRequest, check_path, check_subprotocols
from wsconnkit.service.admission import AdmissionConfig
from wsconnkit.service.arguments import check_async, check_port, check_type, check_value, is_list
from wsconnkit.service.drain import DrainConfig
from wsconnkit.service.pages import AnswerHTTP, MetricsText
from wsconnkit.service.policy import ServerPolicy
from wsconnkit.service.proxies import TrustedProxies
from wsconnkit.service.tokens import BEARER
from wsconnkit.service.verifier import Authenticate, TokenVerifier

METRICS_TOKEN = "at least 16 characters of ASCII without spaces"  # noqa: S105 - says what one is


class ManagerArguments(TypedDict, total=False):
    """The keyword arguments of `ManagerOptions`."""

    path: str | None
    authenticate: TokenVerifier | Authenticate | None
    origins: Collection[str] | None
    allowed_hosts: Collection[str] | None
    subprotocols: Sequence[str]
    admission: AdmissionConfig | None
    proxies: TrustedProxies | None
    reauthenticate: bool
    config: ConnectionConfig | None
    drain: DrainConfig | None


class ManagerOptions:
    """The arguments of `Manager`, checked, and what follows from them.

    authenticate: whether it can be called is all that is looked at.
    Raises ValueError for what cannot work, TypeError for a class in place of an authenticator.
    """

    def __init__(
        self,
        *,
        path: str | None = None,
        authenticate: TokenVerifier | Authenticate | None = None,
        origins: Collection[str] | None = (),
        allowed_hosts: Collection[str] | None = None,
        subprotocols: Sequence[str] = (),
        admission: AdmissionConfig | None = None,
        proxies: TrustedProxies | None = None,
        reauthenticate: bool = False,
        config: ConnectionConfig | None = None,
        drain: DrainConfig | None = None,
    ) -> None:
        if isinstance(authenticate, type):
            raise TypeError(f"authenticate is the class {authenticate.__name__}; give an instance of it")
        _check_path(path)
        if authenticate is not None and not isinstance(authenticate, TokenVerifier):
            check_async("authenticate", authenticate, "an authenticator, or an async function")
        kinds: tuple[tuple[str, object, type], ...] = (
            ("config", config, ConnectionConfig),
            ("drain", drain, DrainConfig),
        )
        for name, value, kind in kinds:
            check_type(name, value, value is None or isinstance(value, kind), f"a {kind.__name__}, or None")
        for name, several in (("origins", origins), ("allowed_hosts", allowed_hosts)):
            check_type(name, several, several is None or is_list(several), "a list of str, or None")
        check_type("reauthenticate", reauthenticate, isinstance(reauthenticate, bool), "True or False")
        if reauthenticate and authenticate is None:
            raise ValueError("reauthenticate is given without authenticate, which would verify the fresh tokens")
        self.config: ConnectionConfig = config or ConnectionConfig()
        self.path = path
        self.authenticate = authenticate
        # Browsers want one of the subprotocols that they offer back, and the token must not be it.
        self.subprotocols: tuple[str, ...] = check_subprotocols(subprotocols)
        if authenticate is not None and BEARER not in self.subprotocols:
            self.subprotocols += (BEARER,)
        self.drain: DrainConfig = drain or DrainConfig()
        self._origins = origins
        self._allowed_hosts = allowed_hosts
        self._admission = admission
        self._proxies = proxies
        self._reauthenticate = reauthenticate
        self.new_policy()  # complains of what is wrong with these

    def new_policy(self) -> ServerPolicy[Any]:
        """Return the policy of one run of the server."""
        return ServerPolicy(
            origins=self._origins,
            allowed_hosts=self._allowed_hosts,
            admission=self._admission,
            proxies=self._proxies,
            reauthenticate=self._reauthenticate,
        )

    def check_path(self, request: UpgradeRequest) -> Response | None:
        """Return the response to a request for a WebSocket at a path where there is none."""
        return check_path(request, self.path)


class ServeArguments(ManagerArguments, total=False):
    """The keyword arguments of `serve` that are the same for every event loop."""

    http: AnswerHTTP | None
    endpoints: bool | tuple[str, int]
    metrics: MetricsText | None
    metrics_token: str | None
    ssl: ssl_module.SSLContext | None


class ServeOptions(ManagerOptions):
    """The arguments of `serve` that are the same for every event loop, checked, and what follows from them.

    handler, http, metrics: whether they can be called is all that is looked at.
    manager: the arguments of `ManagerOptions`, which raises for them.
    """

    def __init__(
        self,
        *,
        handler: object,
        port: int | None,
        http: AnswerHTTP | None = None,
        endpoints: bool | tuple[str, int] = True,
        metrics: MetricsText | None = None,
        metrics_token: str | None = None,
        ssl: ssl_module.SSLContext | None = None,
        **manager: Unpack[ManagerArguments],
    ) -> None:
        check_async("handler", handler, "an async function, or a RequestRouter")
        check_port("port", port)
        if http is not None:
            check_async("http", http)
        check_type("metrics", metrics, metrics is None or callable(metrics), "a function such as render_metrics")
        if not (metrics_token is None or is_metrics_token(metrics_token)):  # not shown: it may be a secret all the same
            raise ValueError(f"metrics_token is no token; it must be {METRICS_TOKEN}")
        place: object = endpoints
        is_place = isinstance(place, tuple) and len(place) == 2 and isinstance(place[0], str)
        check_type("endpoints", endpoints, isinstance(endpoints, bool) or is_place, "True, False, or (host, port)")
        if isinstance(endpoints, tuple):
            check_port("the port of endpoints", endpoints[1])
        is_context = ssl is None or isinstance(ssl, ssl_module.SSLContext)
        check_type("ssl", ssl, is_context, "None, or a server-side ssl.SSLContext")
        is_client_side = ssl is not None and ssl.protocol == ssl_module.PROTOCOL_TLS_CLIENT
        check_value("ssl", ssl, not is_client_side, "None, or a server-side ssl.SSLContext")
        super().__init__(**manager)
        self.http = http
        self.metrics = metrics
        self.metrics_token = metrics_token
        self.ssl = ssl
        self.has_pages: bool = endpoints is True
        """Whether the pages for those who watch the server are where the WebSocket is."""
        self.pages_at: tuple[str, int] | None = endpoints if isinstance(endpoints, tuple) else None
        """The host and port that these pages have for themselves."""


def is_metrics_token(value: object) -> bool:
    """Tell whether `value` can be sent as a bearer token and is not quickly guessed."""
    return isinstance(value, str) and len(value) >= 16 and re.fullmatch(r"[!-~]+", value) is not None


def _check_path(path: object) -> None:
    check_type("path", path, path is None or isinstance(path, str), "None, or a str such as '/ws'")
    if path is None:
        return
    text = str(path)
    check_value("path", path, text.startswith("/"), "None, or a path that starts with '/'")
    check_value("path", path, "?" not in text and "#" not in text, "a path alone, without '?' or '#'")
    quoted = quote(text, safe="/%:@!$&'()*+,;=~-._")
    check_value("path", path, text == quoted, f"as it comes in a request: {quoted!r}")
