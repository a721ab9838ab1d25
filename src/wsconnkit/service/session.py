"""What a server knows about one of its connections: whose it is, how long that holds, how much it may send."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from wsconnkit.protocol.closeinfo import Cause
from wsconnkit.protocol.connection import ConnectionStats
from wsconnkit.protocol.events import Closed, Event
from wsconnkit.service.admission import Admission
from wsconnkit.service.envelope import encode_envelope, error_reply, parse_envelope, request_id_of
from wsconnkit.service.log import ConnectionLog
from wsconnkit.service.principal import AuthenticationError, AuthFailure, Principal
from wsconnkit.service.tally import Tally

_FOREVER = 10 * 365 * 86400.0
"""Seconds after which a token need not be looked at again, which timers can still express."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Send `text`, if that is possible at once."""

    text: str


@dataclass(frozen=True, slots=True)
class Renew:
    """Verify `token`, then call `renewed` or `not_renewed`."""

    token: str
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
        tally: Tally,
        reauthenticate: bool,
        now: float,
        wall_now: float,
    ) -> None:
        self.log = log
        self.ip = ip
        self._admission = admission
        self.tally = tally
        """Where what happens on the connection is counted."""
        self._reauthenticate = reauthenticate
        self._renewing = False
        self._violations = 0
        self._was_limited = False
        self.principal = principal
        """Who the connection belongs to."""
        self._expires_at = _expires_at(principal, now, wall_now)

    @property
    def user(self) -> str | None:
        """The principal's subject."""
        return None if self.principal is None else self.principal.subject

    @property
    def judges_messages(self) -> bool:
        """Whether `on_message` wants to see messages."""
        return self._reauthenticate or self._admission.limits_messages

    def on_message(self, message: str | bytes, now: float, wall_now: float) -> Action | None:
        """Return what to do about a message that the application must not get, None for all others."""
        wait = self._admission.on_message(user=self.user, tier=self._tier, ip=self.ip, now=now)
        if wait:
            return self._on_too_many(message, wait, wall_now)
        self._was_limited = False
        if self._reauthenticate and isinstance(message, str) and '"auth"' in message:
            return self._on_auth(message, wall_now)
        return None

    def renewed(self, principal: Principal, request_id: str | None, now: float, wall_now: float) -> Reply:
        """A fresh token was verified; return the answer to it."""
        if principal.subject != self.user:
            return self.not_renewed(AuthenticationError(AuthFailure.INVALID, "another subject"), request_id, wall_now)
        self._renewing = False
        self.principal = principal
        self._expires_at = _expires_at(principal, now, wall_now)
        self.log.auth_renewed()
        expires_at = None if principal.expires_at is None else int(principal.expires_at * 1000)
        return Reply(encode_envelope("response", request_id, {"expiresAt": expires_at}, wall_now))

    def not_renewed(self, error: Exception, request_id: str | None, wall_now: float) -> Reply:
        """A fresh token could not be verified; the one before goes on. Return the answer to it."""
        self._renewing = False
        if isinstance(error, AuthenticationError):
            self.log.auth_failed(error.failure.value, error.detail)
            return Reply(error_reply(request_id, "auth_failed", error.failure.value, wall_now))
        self.log.auth_error(error)
        return Reply(error_reply(request_id, "auth_unavailable", "the token could not be verified", wall_now))

    def next_timeout(self) -> float | None:
        """Return when the token will have expired, on the monotonic clock, or None. Changes nothing."""
        return self._expires_at

    def handle_timeout(self, now: float) -> End | None:
        """Return the close of a connection whose token has expired, else None."""
        if self._expires_at is None or now < self._expires_at:
            return None
        self._expires_at = None
        return End(Cause.AUTH_EXPIRED, "token expired")

    def on_event(self, event: Event, stats: ConnectionStats) -> None:
        """Count an event of the connection."""
        self.tally.on_event(event)
        if isinstance(event, Closed):
            self.tally.on_closed(event.info, stats)

    @property
    def _tier(self) -> str | None:
        return None if self.principal is None else self.principal.tier

    def _on_too_many(self, message: str | bytes, wait: float, wall_now: float) -> Action:
        self._violations += 1
        self.tally.on_limited("message")
        if not self._was_limited:
            self._was_limited = True  # a flood of messages must not become a flood of lines
            self.log.rate_limited(wait, self._violations)
        if self._violations == self._admission.config.max_violations:
            return End(Cause.RATE_LIMIT, "rate limit exceeded")
        retry_after = round(wait, 3)
        request_id = request_id_of(message)
        return Reply(error_reply(request_id, "rate_limited", "too many messages", wall_now, retryAfter=retry_after))

    def _on_auth(self, message: str, wall_now: float) -> Action | None:
        envelope = parse_envelope(message)
        if envelope is None or envelope.type != "auth":
            return None
        token = envelope.payload.get("token") if isinstance(envelope.payload, dict) else None
        if not (isinstance(token, str) and token):
            return self.not_renewed(AuthenticationError(AuthFailure.MISSING), envelope.request_id, wall_now)
        if self._renewing:
            busy = "another token is being verified"
            return Reply(error_reply(envelope.request_id, "auth_failed", busy, wall_now))
        self._renewing = True
        self.log.keep_out(token)
        return Renew(token, envelope.request_id)


def _expires_at(principal: Principal | None, now: float, wall_now: float) -> float | None:
    """Return when the token of `principal` will have expired, on the monotonic clock, or None."""
    valid_until = None if principal is None else principal.valid_until
    return None if valid_until is None else now + min(valid_until - wall_now, _FOREVER)
