"""Tell what happens to the standard `logging`, with fields that a JSON formatter can print."""

from __future__ import annotations

import logging
import traceback
from collections import deque
from collections.abc import Iterable
from math import inf
from typing import Any

from wsconnkit.protocol.events import (
    Closed,
    Event,
    FrameSizeWarning,
    HeartbeatPinged,
    HeartbeatStalled,
    UnreadWarning,
)
from wsconnkit.protocol.stats import ConnectionStats
from wsconnkit.service.tokens import redact

_connection = logging.getLogger("wsconnkit.connection")
_server = logging.getLogger("wsconnkit.server")
_client = logging.getLogger("wsconnkit.client")

_MAX_SECRETS = 16
"""The latest tokens in messages that a connection keeps out of its lines."""


_SELDOM = 10.0
"""Seconds between lines that tell of many things of a kind."""


class Seldom:
    """Says when a line is due that tells of many: at once for the first, then in turns of ten seconds for all since."""

    def __init__(self) -> None:
        self._untold = 0
        self._due_at = -inf

    def count(self, now: float) -> int:
        """Count one more; return how many a line is to tell of now, 0 for no line."""
        self._untold += 1
        if now < self._due_at:
            return 0
        told, self._untold = self._untold, 0
        self._due_at = now + _SELDOM
        return told


class ConnectionLog:
    """Logs what happens on one connection.

    user_id: whose it is, where that is known.
    secrets: what must not be in any line, such as the token that it was opened with.
    """

    __slots__ = ("_latest", "_request_secrets", "connection_id", "user_id")

    def __init__(self, connection_id: str, *, user_id: str | None = None, secrets: Iterable[str] = ()) -> None:
        self.connection_id: str = connection_id
        self.user_id: str | None = user_id
        self._request_secrets = tuple(secrets)
        self._latest: deque[str] = deque(maxlen=_MAX_SECRETS)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What is in no line."""
        return (*self._request_secrets, *self._latest)

    def keep_out(self, secret: str) -> None:
        """Let the next lines not have `secret` in them."""
        self._latest.append(secret)

    def opened(self, remote_address: Any, client_ip: str | None, path: str) -> None:
        """The connection has opened; `client_ip` is the address behind trusted proxies."""
        path = redact(path, self.secrets)
        self._log(logging.INFO, "connection_opened", remote_address=remote_address, client_ip=client_ip, path=path)

    def event(self, event: Event, stats: ConnectionStats) -> None:
        """Log what is worth a line: the end, heartbeats, frames near the limit, and messages that nobody takes."""
        if isinstance(event, Closed):
            self._closed(event, stats)
        elif isinstance(event, HeartbeatPinged):
            level = logging.WARNING if event.missed else logging.DEBUG
            self._log(level, "heartbeat_missed" if event.missed else "heartbeat_ping", missed=event.missed)
        elif isinstance(event, HeartbeatStalled):
            self._log(logging.WARNING, "heartbeat_stalled", late_by=event.late_by)
        elif isinstance(event, FrameSizeWarning):
            self._log(logging.WARNING, "frame_size_warning", size=event.size)
        elif isinstance(event, UnreadWarning):
            self._log(logging.WARNING, "unread_warning", age=round(event.age, 3))

    def auth_renewed(self) -> None:
        """A fresh token has taken the place of the one before."""
        self._log(logging.INFO, "auth_renewed")

    def auth_failed(self, reason: str, detail: str) -> None:
        """A token that was to renew the connection's was not good."""
        self._log(logging.WARNING, "auth_failed", reason=reason, detail=redact(detail, self.secrets))

    def auth_error(self, error: Exception) -> None:
        """A token could not be verified, whether it is good or not."""
        self._log(logging.ERROR, "auth_error", error)

    def rate_limited(self, retry_after: float, violations: int) -> None:
        """A message was refused because there were too many."""
        self._log(logging.WARNING, "rate_limited", retry_after=retry_after, violations=violations)

    def handler_error(self, error: BaseException) -> None:
        """A handler raised."""
        self._log(logging.ERROR, "handler_error", error)

    def handler_stuck(self) -> None:
        """A handler goes on after its connection has ended and it was cancelled."""
        self._log(logging.ERROR, "handler_stuck_error")

    def request_error(self, request_id: str, error: BaseException) -> None:
        """The handler of a request raised."""
        self._log(logging.ERROR, "request_error", error, request_id=redact(request_id, self.secrets))

    def _closed(self, event: Closed, stats: ConnectionStats) -> None:
        info = event.info
        inbound, outbound = stats.compression.inbound, stats.compression.outbound
        if inbound.messages_compressed or inbound.errors or outbound.messages_compressed:
            self._log(
                logging.INFO,
                "compression_summary",
                messages_in=inbound.messages_compressed,
                messages_out=outbound.messages_compressed,
                percent_saved_in=round(inbound.percent_saved, 1),
                percent_saved_out=round(outbound.percent_saved, 1),
                errors=inbound.errors,
            )
        self._log(
            logging.INFO,
            "connection_closed",
            code=info.code,
            reason=redact(info.reason, self.secrets),
            cause=info.cause.value,
            initiator=info.initiator.value,
            phase=info.phase.value,
            clean=info.clean,
            error=None if info.error is None else str(info.error),
        )

    def _log(self, level: int, event_type: str, exception: BaseException | None = None, **fields: Any) -> None:
        fields = {"connection_id": self.connection_id, "user_id": self.user_id, **fields}
        _log(_connection, level, event_type, exception, self.secrets, **fields)


def log_refused(status: int, reason: str, **who: Any) -> None:
    """Log that an upgrade was refused; `who` asked for it, as far as that is known."""
    _log(_server, logging.INFO, "upgrade_refused", status=status, reason=reason, **who)


def log_handshakes_dropped(count: int, cap: str, client_ip: str | None) -> None:
    """Log that handshakes were ended for newer ones; the latest by which cap, and from where."""
    _log(_server, logging.WARNING, "server_handshakes_dropped", count=count, cap=cap, client_ip=client_ip)


def log_auth_failed(reason: str, detail: str, secrets: Iterable[str], **who: Any) -> None:
    """Log that the token of an upgrade was not good; `who` sent it, as far as that is known."""
    _log(_server, logging.WARNING, "auth_failed", reason=reason, detail=redact(detail, secrets), **who)


def log_auth_limited(tokens: int, ip: str, retry_after: float) -> None:
    """Log that so many tokens were not looked at since the last line; the latest came from `ip`."""
    _log(_server, logging.WARNING, "auth_limited", tokens=tokens, client_ip=ip, retry_after=round(retry_after, 3))


def log_server_error(event_type: str, error: BaseException, secrets: Iterable[str] = ()) -> None:
    """Log that what the application gave to the server raised."""
    _log(_server, logging.ERROR, event_type, error, secrets)


def log_draining(connections: int, window: float, grace: float) -> None:
    """Log that a drain has begun."""
    _log(_server, logging.INFO, "server_draining", connections=connections, window=window, grace=grace)


def log_retry(where: str, attempt: int, delay: float, error: Exception, secrets: Iterable[str]) -> None:
    """Log that a client makes another attempt in `delay` seconds; `error` has ended what was before."""
    told = _told(error, secrets)
    _log(_client, logging.INFO, "connection_retry", uri=where, attempt=attempt, delay=round(delay, 3), error=told)


def log_stopped(where: str, attempts: int, error: Exception | None, secrets: Iterable[str]) -> None:
    """Log that a client does not come back: it gave up for `error`, or was done."""
    if error is None:
        _log(_client, logging.INFO, "connection_done", uri=where)
    else:
        told = _told(error, secrets)
        _log(_client, logging.WARNING, "connection_gave_up", uri=where, attempts=attempts, error=told)


def _told(error: Exception, secrets: Iterable[str]) -> str:
    return redact(f"{type(error).__name__}: {error}", secrets)


def _log(
    logger: logging.Logger,
    level: int,
    event_type: str,
    exception: BaseException | None = None,
    secrets: Iterable[str] = (),
    **fields: Any,
) -> None:
    if not logger.isEnabledFor(level):
        return
    text = f"{event_type} {fields['connection_id']}" if "connection_id" in fields else event_type
    if exception is not None:
        told = "".join(traceback.format_exception(exception)).rstrip()
        redacted = redact(told, secrets)
        if redacted != told:
            # Exceptions quote what they were given, and handlers would print this one as it is.
            text, exception = f"{text}\n{redacted}", None
    try:
        logger.log(level, "%s", text, exc_info=exception, extra={"type": event_type, **fields})
    except Exception:
        # A handler that fails must not keep us from doing what comes after; logging's own print this as well.
        if logging.raiseExceptions:
            traceback.print_exc()
