"""What a client does when its connection, or an attempt at one, has ended: come back, when, or never.

reconnect = Reconnect(BackoffConfig(), where="wss://example.org/feed")
reconnect.on_open(now)
...                                                             # until the connection ends: reconnect.on_close(now)
step = reconnect.on_end(error, now, jitter=random(), wall_now=time())
if isinstance(step, Retrying):
    ...                                                         # wait step.delay seconds, then connect again
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ssl import SSLCertVerificationError
from typing import NamedTuple

from wsconnkit.machines.backoff import Backoff, BackoffConfig
from wsconnkit.machines.closecodes import CloseCode, should_retry
from wsconnkit.protocol.closeinfo import Initiator
from wsconnkit.protocol.errors import ConnectionClosed, HandshakeInterrupted, InvalidStatus, ProxyRefused
from wsconnkit.protocol.http import Headers
from wsconnkit.service.log import log_retry, log_stopped

RESTART_WAIT, RESTART_SPREAD = 5.0, 25.0
"""Seconds: after 1012 "a randomized delay of 5 - 30s", which is what the registration of the code asks for."""
MAX_RETRY_AFTER = 3600.0
"""Seconds for which a server is believed that it will not be back before."""

_UNAUTHORIZED_CODES = (CloseCode.POLICY_VIOLATION, 3000)
_RESTART_CODES = (CloseCode.SERVICE_RESTART, CloseCode.TRY_AGAIN_LATER)
_NEVER_MIND = frozenset({501, 505})
_RETRY_STATUSES = frozenset({408, 425, 429}) | (frozenset(range(500, 600)) - _NEVER_MIND)

ShouldRetry = Callable[[Exception], "bool | None"]
"""The application's word on an end or a refusal: True to come back, False not to, None for the rules."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """There is a connection.

    attempts: how many it took in a row, this one and connections before that did not last included.
    """

    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrying:
    """The connection, or an attempt at one, has ended, and another attempt follows.

    attempt: its number in a row: 2 after a first attempt that failed, 1 after a connection that lasted.
    delay: seconds until then.
    refresh: whether a fresh token is asked for first.
    error: what has ended it.
    """

    attempt: int
    delay: float
    refresh: bool
    error: Exception


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """The client does not come back.

    attempts: how many have been made in a row.
    error: why; None after a close with 1000, by either side.
    """

    attempts: int
    error: Exception | None


ReconnectEvent = Opened | Retrying | Stopped
OnReconnectEvent = Callable[[ReconnectEvent], object]


class _Verdict(NamedTuple):
    retry: bool
    unauthorized: bool = False
    at_least: float = 0.0
    spread: float = 0.0


_NEVER = _Verdict(retry=False)
_RETRY = _Verdict(retry=True)
_UNAUTHORIZED = _Verdict(retry=False, unauthorized=True)
_RESTART = _Verdict(retry=True, at_least=RESTART_WAIT, spread=RESTART_SPREAD)


class Reconnect:
    """The rules for one client; each step is logged, and told to `on_event`.

    where: the server, for the log.
    can_refresh: whether there is a way to a fresh token, which makes a refused one worth another attempt.
    should_retry: asked first.
    """

    def __init__(
        self,
        config: BackoffConfig,
        *,
        where: str,
        can_refresh: bool = False,
        should_retry: ShouldRetry | None = None,
        on_event: OnReconnectEvent | None = None,
    ) -> None:
        self._backoff = Backoff(config)
        self._where = where
        self._can_refresh = can_refresh
        self._should_retry = should_retry
        self._on_event = on_event
        self._is_fresh = False  # the token was asked for because the one before was refused, and was not yet accepted

    def on_open(self, now: float) -> Opened:
        """There is a connection."""
        self._backoff.on_open(now)
        self._is_fresh = False
        event = Opened(attempts=self._backoff.attempts)
        self._tell(event)
        return event

    def on_close(self, now: float) -> None:
        """The connection has ended; `on_end` may follow later, when the application is done with it."""
        self._backoff.on_close(now)

    def on_end(
        self,
        error: Exception,
        now: float,
        *,
        jitter: float,
        wall_now: float,
        left: bool = False,
        secrets: Iterable[str] = (),
    ) -> Retrying | Stopped:
        """Return what follows after `error`, with which the connection or an attempt at one has ended.

        jitter: a fresh random number, at least 0 and below 1.
        wall_now: epoch seconds, for a Retry-After that is a date.
        left: the application asks for another connection while this one was open; that we then closed it is no end.
        secrets: what must not be in the log.
        """
        left = left and isinstance(error, ConnectionClosed) and error.info.initiator is Initiator.LOCAL
        is_done = _is_done(error)
        verdict = _RETRY if left else _judge(error, wall_now)
        refresh = verdict.unauthorized and self._can_refresh and not self._is_fresh
        retry = verdict.retry or refresh
        if self._should_retry is not None and not left:
            word = self._should_retry(error)
            retry = retry if word is None else word
            is_done = is_done and not word
        wait = None
        if retry:
            wait = self._backoff.on_failure(now, jitter=jitter, at_least=verdict.at_least, spread=verdict.spread)
        attempts = self._backoff.attempts
        if wait is None:
            stopped = Stopped(attempts=attempts, error=None if is_done and not left else error)
            log_stopped(self._where, attempts, stopped.error, secrets)
            self._tell(stopped)
            return stopped
        self._is_fresh = refresh
        retrying = Retrying(attempt=attempts, delay=wait, refresh=refresh, error=error)
        log_retry(self._where, attempts, wait, error, secrets)
        self._tell(retrying)
        return retrying

    def _tell(self, event: ReconnectEvent) -> None:
        if self._on_event is not None:
            self._on_event(event)


def retry_after(headers: Headers, wall_now: float) -> float:
    """Return the seconds that Retry-After asks to wait (RFC 9110, section 10.2.3), at most an hour; 0.0 without one.

    A date counts from the server's own Date, or else from `wall_now` in epoch seconds. Never raises.
    """
    waits = [0.0]
    for value in headers.get_all("Retry-After"):
        value = value.strip()
        if value.isascii() and value.isdigit():
            waits.append(float(value))
            continue
        until = _epoch(value)
        if until is not None:
            sent = _epoch(headers.get("Date") or "")
            waits.append(until - (wall_now if sent is None else sent))
    return min(max(waits), MAX_RETRY_AFTER)


def _epoch(date: str) -> float | None:
    from email.utils import mktime_tz, parsedate_tz  # which brings calendars and locales along

    try:
        parts = parsedate_tz(date)
        return None if parts is None else float(mktime_tz(parts))
    except (ValueError, OverflowError, TypeError, IndexError):
        return None


def _is_done(error: Exception) -> bool:
    return isinstance(error, ConnectionClosed) and error.info.code == CloseCode.NORMAL_CLOSURE


def _judge(error: Exception, wall_now: float) -> _Verdict:
    if isinstance(error, ConnectionClosed):
        return _judge_code(error.info.code)
    if isinstance(error, (InvalidStatus, ProxyRefused)):
        response = error.response
        # What is no status counts as a 5xx (RFC 9110, section 15).
        if response.status in _RETRY_STATUSES or response.status >= 600:
            return _Verdict(retry=True, at_least=retry_after(response.headers, wall_now))
        # A proxy has credentials of its own.
        return _UNAUTHORIZED if response.status == 401 and isinstance(error, InvalidStatus) else _NEVER
    if isinstance(error, SSLCertVerificationError):
        return _NEVER
    return _RETRY if isinstance(error, (OSError, TimeoutError, HandshakeInterrupted)) else _NEVER


def _judge_code(code: int) -> _Verdict:
    if code in _UNAUTHORIZED_CODES:
        return _UNAUTHORIZED
    if code in _RESTART_CODES:
        return _RESTART
    return _RETRY if should_retry(code) else _NEVER
