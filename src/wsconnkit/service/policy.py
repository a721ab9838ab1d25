"""The policy of one server: which upgrades it admits, which connections it has, and what it has counted."""

from __future__ import annotations

from collections.abc import Collection
from math import ceil
from typing import Any, Generic, NamedTuple, TypeVar

from wsconnkit.protocol.http import Headers, Response
from wsconnkit.protocol.upgrade import HTTPRequest, UpgradeRequest, refusal
from wsconnkit.service.admission import Admission, AdmissionConfig, Refused
from wsconnkit.service.arguments import check_type
from wsconnkit.service.attempts import Attempts
from wsconnkit.service.handshakes import Handshakes, Surplus
from wsconnkit.service.hosts import AllowedHosts
from wsconnkit.service.log import (
    ConnectionLog,
    Seldom,
    log_auth_failed,
    log_handshakes_dropped,
    log_refused,
    log_server_error,
)
from wsconnkit.service.origins import Origins
from wsconnkit.service.principal import AuthenticationError, AuthFailure, KeysUnavailable, Principal, TooManyFailures
from wsconnkit.service.proxies import TrustedProxies, network_key
from wsconnkit.service.registry import Registry
from wsconnkit.service.serverstats import ServerStats
from wsconnkit.service.session import Session
from wsconnkit.service.tokens import secrets_of, token_of

C = TypeVar("C")

_STATUS = {
    Refused.DRAINING: (503, "the server is shutting down"),
    # RFC 9110, section 15.5.20: for what "does not match an origin for which the server has been configured".
    Refused.HOST: (421, "this server does not answer for this host"),
    Refused.ORIGIN: (403, "this origin is not allowed"),
    Refused.MISSING: (401, "missing token"),
    Refused.INVALID: (401, "invalid token"),
    Refused.EXPIRED: (401, "expired token"),
    Refused.FAILED_AUTH: (429, "too many invalid tokens from this address"),
    Refused.UNAVAILABLE: (503, "tokens cannot be verified at the moment"),
    Refused.CAPACITY: (503, "the server has as many connections as it can take"),
    Refused.USER_CAP: (429, "too many connections of this user"),
    Refused.IP_CAP: (429, "too many connections from this address"),
    Refused.RATE: (429, "too many upgrades"),
}
_FAILURES = {
    AuthFailure.MISSING: Refused.MISSING,
    AuthFailure.INVALID: Refused.INVALID,
    AuthFailure.EXPIRED: Refused.EXPIRED,
}
# What a handshake answers by itself.
_BY_STATUS = {404: Refused.PATH, 503: Refused.UNAVAILABLE}


class PendingUpgrade(NamedTuple):
    """A request for a WebSocket that has been neither admitted nor refused."""

    request: UpgradeRequest
    remote_address: Any
    ip: str | None
    """The client's address, through trusted proxies."""
    token: str | None

    def __repr__(self) -> str:
        return f"<PendingUpgrade {self.ip} {self.request!r}>"

    @property
    def network(self) -> str | None:
        """What of the client's address is limited as one."""
        return None if self.ip is None else network_key(self.ip)

    @property
    def who(self) -> dict[str, Any]:
        """The fields of a log line that tell who asks for the upgrade."""
        return {"remote_address": self.remote_address, "client_ip": self.ip}


class ServerPolicy(Generic[C]):
    """One server's rules, its connections and its stats, without I/O; `C` is the type of its connections.

    origins: those that browsers may come from besides the server's own; None for all.
    allowed_hosts: those that requests may be for; None for all.
    proxies: whose word on the client's address is taken.
    admission: caps and rates.
    reauthenticate: whether a message may bring a fresh token.
    """

    def __init__(
        self,
        *,
        origins: Collection[str] | None = (),
        allowed_hosts: Collection[str] | None = None,
        proxies: TrustedProxies | None = None,
        admission: AdmissionConfig | None = None,
        reauthenticate: bool = False,
    ) -> None:
        kinds: tuple[tuple[str, object, type], ...] = (
            ("proxies", proxies, TrustedProxies),
            ("admission", admission, AdmissionConfig),
        )
        for name, value, kind in kinds:
            check_type(name, value, value is None or isinstance(value, kind), f"{kind.__name__}, or None")
        self._origins = Origins(origins)
        self._allowed_hosts = AllowedHosts(allowed_hosts)
        self._proxies = proxies or TrustedProxies()
        config = admission or AdmissionConfig()
        self._admission = Admission(config)
        self._reauthenticate = reauthenticate
        self.handshakes: Handshakes[Any] = Handshakes(self._admission.config)
        """Those under way, of all listeners together."""
        self._dropped = Seldom()
        self.connections: Registry[C] = Registry()
        self.stats: ServerStats = ServerStats()
        self.attempts: Attempts = Attempts(config, self.stats)
        """Whose tokens are looked at."""
        self.is_draining = False
        """Whether new connections are refused because the server shuts down."""

    def receive(self, request: UpgradeRequest, remote_address: object) -> PendingUpgrade | Response:
        """Take a request for a WebSocket; return the pending upgrade, or the response that refuses it."""
        upgrade = PendingUpgrade(
            request, remote_address, self._proxies.client_ip(remote_address, request.headers), token_of(request)
        )
        if self.is_draining:
            return self._refuse(Refused.DRAINING, upgrade)
        if not self._allowed_hosts.allows(request):
            return self._refuse(Refused.HOST, upgrade)
        if not self._origins.allows(request):
            return self._refuse(Refused.ORIGIN, upgrade)
        return upgrade

    def begin_handshake(self, handshake: object, remote_address: object) -> None:
        """Count a handshake of a client that has just come; on a trusted proxy the address has no cap."""
        peer = None
        if not self._proxies.trusts(remote_address):
            peer = self._proxies.client_ip(remote_address, Headers())
        self.handshakes.add(handshake, None if peer is None else network_key(peer))

    def on_handshake_dropped(self, surplus: Surplus, *, now: float) -> None:
        """Take note that a handshake was ended for a newer one; a line of the log tells of many."""
        self.stats.on_handshake_dropped(surplus.cap)
        if count := self._dropped.count(now):
            log_handshakes_dropped(count, surplus.cap, surplus.ip)

    def misdirected(self, request: HTTPRequest) -> Response | None:
        """Return the response to a request for a page of the application for another host; it is not counted."""
        return None if self._allowed_hosts.allows(request) else self._response(Refused.HOST)

    def on_refusal(self, response: Response, upgrade: PendingUpgrade) -> None:
        """Take the response with which the application's own authentication refuses an upgrade."""
        self._refused(response, Refused.APPLICATION, upgrade.who)

    def refuse_for(self, error: BaseException, upgrade: PendingUpgrade) -> Response:
        """Return the response to an upgrade whose authentication raised `error`."""
        if isinstance(error, AuthenticationError):
            log_auth_failed(error.failure.value, error.detail, secrets_of(upgrade.request), **upgrade.who)
            return self._refuse(_FAILURES[error.failure], upgrade)
        if isinstance(error, KeysUnavailable):
            return self._refuse(Refused.UNAVAILABLE, upgrade)
        if isinstance(error, TooManyFailures):
            self.stats.on_refused(Refused.FAILED_AUTH)  # the log has a line for many
            return self._response(Refused.FAILED_AUTH, error.retry_after)
        log_server_error("auth_error", error, secrets_of(upgrade.request))
        return self._refused(refusal(500, "internal error"), Refused.UNAVAILABLE, upgrade.who)

    def admit(
        self, upgrade: PendingUpgrade, principal: Principal | None, connection_id: str, *, now: float, wall_now: float
    ) -> Session | Response:
        """Return the session of an upgrade that is admitted, or the response that refuses it.

        A place is reserved for its connection, which the caller gives to `enter`; or the session to `leave`.
        """
        user, tier = (None, None) if principal is None else (principal.subject, principal.tier)
        if self.is_draining:
            return self._refuse(Refused.DRAINING, upgrade, user=user)
        ip = upgrade.network
        refused = self._admission.check(user=user, tier=tier, ip=ip, registry=self.connections, now=now)
        if refused is not None:
            if refused.reason is Refused.RATE:
                self.stats.on_limited("upgrade")
            return self._refuse(refused.reason, upgrade, refused.retry_after, user)
        self.connections.reserve(connection_id, user=user, ip=ip)
        return Session(
            ConnectionLog(connection_id, user_id=user, secrets=secrets_of(upgrade.request)),
            principal,
            ip,
            admission=self._admission,
            server_stats=self.stats,
            reauthenticate=self._reauthenticate and principal is not None,
            now=now,
            wall_now=wall_now,
        )

    def dismiss(self, upgrade: PendingUpgrade | None) -> Response:
        """Return the response to a request that is still unanswered when the server ends.

        upgrade: None for a request that asks for no WebSocket, which is not counted.
        """
        if upgrade is None:
            return self._response(Refused.DRAINING)
        return self._refuse(Refused.DRAINING, upgrade)

    def enter(self, connection: C, session: Session) -> None:
        """Add a connection that was admitted."""
        self.connections.add(connection, id=session.log.connection_id, user=session.user, ip=session.ip)
        self.stats.on_opened()

    def leave(self, session: Session) -> None:
        """Remove a connection that has ended, or that will not come."""
        self.connections.remove(session.log.connection_id)

    def on_handshake_response(self, response: Response, remote_address: object) -> None:
        """Take the response with which the handshake itself refused a request."""
        reason = _BY_STATUS.get(response.status, Refused.REQUEST)
        self._refused(response, reason, {"remote_address": remote_address})

    def _refuse(
        self, reason: Refused, upgrade: PendingUpgrade, retry_after: float | None = None, user: str | None = None
    ) -> Response:
        return self._refused(self._response(reason, retry_after), reason, {**upgrade.who, "user_id": user})

    def _response(self, reason: Refused, retry_after: float | None = None) -> Response:
        status, error = _STATUS[reason]
        headers = {}
        if status == 401:  # RFC 6750, section 3.1
            headers["WWW-Authenticate"] = "Bearer" if reason is Refused.MISSING else 'Bearer error="invalid_token"'
        elif status in (429, 503):
            seconds = self._admission.config.retry_after if retry_after is None else retry_after
            headers["Retry-After"] = str(ceil(seconds))
        return refusal(status, error, headers)

    def _refused(self, response: Response, reason: Refused, who: dict[str, Any]) -> Response:
        self.stats.on_refused(reason)
        log_refused(response.status, reason.value, **who)
        return response
