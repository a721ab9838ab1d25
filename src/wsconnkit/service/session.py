"""What a server knows about one of its connections: whose it is, how long that holds, how much it may send."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil
from typing import TypeAlias

from wsconnkit.machines.deadlines import Deadlines
from wsconnkit.machines.ratelimit import RateLimit, TokenBucket
from wsconnkit.protocol.closeinfo import Cause
from wsconnkit.protocol.events import Closed, Event
from wsconnkit.protocol.stats import ConnectionStats
from wsconnkit.service.admission import Admission
from wsconnkit.service.envelope import encode_envelope, error_reply, parse_envelope, request_id_of
from wsconnkit.service.log import ConnectionLog
from wsconnkit.service.principal import AuthenticationError, AuthFailure, KeysUnavailable, Principal, TooManyFailures
from wsconnkit.service.serverstats import ServerStats

_FOREVER = 10 * 365 * 86400.0
"""Seconds after which a token need not be looked at again, which timers can still express."""
_FAR = 253402300799.0
"""The end of the year 9999, in seconds since the epoch."""
_CLOCK_LOOK = 60.0
"""Seconds after which to look at the clock on the wall again: it may be set, and it goes on while we are suspended."""
_CLOCK_DRIFT = 1.0
"""Seconds by which the clocks may come to differ before that means anything."""
_VERIFYING = 10.0
"""Seconds that a token may be verified for while the one before has expired."""
_RENEWALS = RateLimit(5, 60)
"""How often one connection may bring a token: each is verified, and a bad one is a line in the log."""
_MAX_TOKEN = 8 * 1024
"""Characters of a token, as many as a header may have."""
_MAX_PARSED = 64 * 1024
"""Characters of a message that is looked into before it may cost anything."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Send `text`, if that is possible at once."""

    text: str


@dataclass(frozen=True, slots=True)
class Renew:
    """Verify `token`, then call `renewed` or `not_renewed`."""

    token: str = field(repr=False)
    request_id: str | None


@dataclass(frozen=True, slots=True)
class End:
    """Close the connection for `cause`, with its code and this `reason`."""

    cause: Cause
    reason: str


Action: TypeAlias = Reply | Renew | End


class Session:
    """The service's view of one connection.

    principal: who opened it, None without authentication.
    ip: what its peer is limited by, None where it has no address.
    reauthenticate: whether a message may bring a fresh token.
    now, wall_now: seconds on the monotonic clock and since the epoch.
    """

    def __init__(
        self,
        log: ConnectionLog,
        principal: Principal | None,
        ip: str | None,
        *,
        admission: Admission,
        server_stats: ServerStats,
        reauthenticate: bool,
        now: float,
        wall_now: float,
    ) -> None:
        self.log = log
        self.ip = ip
        self._admission = admission
        self.server_stats = server_stats
        """Where what happens on the connection is counted."""
        self._reauthenticate = reauthenticate
        self._renewing = False
        self._renewals = TokenBucket(_RENEWALS, now=now)
        self._violations = 0
        self._deadlines: Deadlines[str] = Deadlines()
        self._expires_at: float | None = None
        """When the token will have expired, on the monotonic clock; None where it never does."""
        self._latest: float | None = None
        """When it will have at the latest, whatever the clock on the wall comes to say."""
        self._valid_until: float | None = None
        """When it will have, since the epoch."""
        self._verify_until: float | None = None
        """When not to wait any more for a fresh one that is being verified; None before the token has expired."""
        self._set_principal(principal, now, wall_now)

    @property
    def user(self) -> str | None:
        """The principal's subject."""
        return None if self.principal is None else self.principal.subject

    @property
    def filters_messages(self) -> bool:
        """Whether `on_message` wants to see messages."""
        return self._reauthenticate or self._admission.limits_messages

    def on_message(self, message: str | bytes, now: float, wall_now: float) -> Action | None:
        """Return what to do about a message that the application must not get, None for all others."""
        wait = self._admission.on_message(user=self.user, tier=self._tier, ip=self.ip, now=now)
        if wait:
            return self._on_too_many(message, wait, wall_now)
        if self._reauthenticate and isinstance(message, str) and '"auth"' in message:
            return self._on_auth(message, now, wall_now)
        return None

    def renewed(self, principal: Principal, request_id: str | None, now: float, wall_now: float) -> Reply:
        """A fresh token was verified; return the answer to it."""
        if principal.subject != self.user:
            return self.not_renewed(AuthenticationError(AuthFailure.INVALID, "another subject"), request_id, wall_now)
        self._renewing = False
        self._set_principal(principal, now, wall_now)
        self.log.auth_renewed()
        expires_at = None if principal.expires_at is None else round(max(-_FAR, min(principal.expires_at, _FAR)) * 1000)
        return Reply(encode_envelope("response", request_id, {"expiresAt": expires_at}, wall_now))

    def not_renewed(self, error: Exception, request_id: str | None, wall_now: float) -> Reply:
        """A fresh token could not be verified; the one before goes on. Return the answer to it."""
        self._renewing = False
        if self._expires_at is not None:
            self._deadlines.set("token", self._expires_at)
        if isinstance(error, AuthenticationError):
            return self._failed(error, request_id, wall_now)
        if isinstance(error, TooManyFailures):
            return _limited(request_id, "too many invalid tokens", error.retry_after, wall_now)
        if not isinstance(error, KeysUnavailable):  # of which the log knows
            self.log.auth_error(error)
        return Reply(error_reply(request_id, "auth_unavailable", "the token could not be verified", wall_now))

    def next_timeout(self) -> float | None:
        """Return when to call `handle_timeout`, on the monotonic clock, or None. Changes nothing."""
        return self._deadlines.next_timeout()

    def handle_timeout(self, now: float, wall_now: float) -> End | None:
        """Return the close of a connection whose token has expired, else None. Early and late calls are safe.

        It has when either clock says so: one that is set back makes no token live longer, and one that is set forward,
        or goes on in a suspend, is noticed within a minute. A fresh token that came in time, but has not been read or
        verified yet, is waited for.
        """
        self._follow_clock(now, wall_now)
        over = self._deadlines.handle_timeout(now)
        if "clock" in over:
            self._deadlines.set("clock", now + _CLOCK_LOOK)
        if "token" not in over:
            return None
        if self._renewing:
            if self._verify_until is None:
                self._verify_until = now + _VERIFYING
            if now < self._verify_until:
                self._deadlines.set("token", self._verify_until)
                return None
        self._deadlines.clear("clock")
        return End(Cause.AUTH_EXPIRED, "token expired")

    def on_event(self, event: Event, stats: ConnectionStats) -> None:
        """Count an event of the connection."""
        self.server_stats.on_event(event)
        if isinstance(event, Closed):
            self.server_stats.on_closed(event.info, stats)

    @property
    def _tier(self) -> str | None:
        return None if self.principal is None else self.principal.tier

    def _set_principal(self, principal: Principal | None, now: float, wall_now: float) -> None:
        self.principal = principal
        """Who the connection belongs to."""
        self._valid_until = None if principal is None else principal.valid_until
        self._expires_at = self._latest = self._verify_until = None
        self._deadlines.clear("token")
        self._deadlines.clear("clock")
        if self._valid_until is not None:
            self._latest = now + min(self._valid_until - wall_now, _FOREVER)
            self._expire_at(self._latest)
            self._deadlines.set("clock", now + _CLOCK_LOOK)

    def _expire_at(self, at: float) -> None:
        self._expires_at = at
        self._deadlines.set("token", at)

    def _follow_clock(self, now: float, wall_now: float) -> None:
        """Let the token expire earlier while the clock on the wall has gone further than the other one."""
        if self._latest is None or self._verify_until is not None:
            return
        assert self._expires_at is not None  # they are set together
        assert self._valid_until is not None
        expires_at = min(self._latest, now + self._valid_until - wall_now)
        if abs(expires_at - self._expires_at) > _CLOCK_DRIFT:
            self._expire_at(expires_at)

    def _on_too_many(self, message: str | bytes, wait: float, wall_now: float) -> Action:
        self._violations += 1
        self.server_stats.on_limited("message")
        if self._violations & (self._violations - 1) == 0:
            # The first, second, fourth …: a flood of messages must not become a flood of lines.
            self.log.rate_limited(wait, self._violations)
        if self._violations == self._admission.config.max_violations:
            return End(Cause.RATE_LIMIT, "rate limit exceeded")
        request_id = request_id_of(message) if len(message) <= _MAX_PARSED else None
        return _limited(request_id, "too many messages", wait, wall_now)

    def _on_auth(self, message: str, now: float, wall_now: float) -> Action | None:
        envelope = parse_envelope(message) if len(message) <= _MAX_PARSED else None
        if envelope is None or envelope.type != "auth":
            return None
        _, request_id, payload = envelope
        wait = self._renewals.take(now)
        if wait:
            return _limited(request_id, "too many tokens", wait, wall_now)
        token = payload.get("token") if isinstance(payload, dict) else None
        if not (isinstance(token, str) and token.strip()):
            return self._failed(AuthenticationError(AuthFailure.MISSING), request_id, wall_now)
        if len(token) > _MAX_TOKEN:
            return self._failed(AuthenticationError(AuthFailure.INVALID, "too long"), request_id, wall_now)
        self.log.keep_out(token)
        if self._renewing:
            return Reply(error_reply(request_id, "auth_busy", "another token is being verified", wall_now))
        self._renewing = True
        return Renew(token, request_id)

    def _failed(self, error: AuthenticationError, request_id: str | None, wall_now: float) -> Reply:
        self.log.auth_failed(error.failure.value, error.detail)
        return Reply(error_reply(request_id, "auth_failed", error.failure.value, wall_now))


def _limited(request_id: str | None, text: str, wait: float, wall_now: float) -> Reply:
    retry_after = ceil(wait * 1000) / 1000
    return Reply(error_reply(request_id, "rate_limited", text, wall_now, retryAfter=retry_after))
