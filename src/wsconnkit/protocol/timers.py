"""When a connection wants to be woken, and why."""

from __future__ import annotations

from enum import Enum

from wsconnkit.machines.deadlines import Deadlines

UNREAD_WARNING_SHARE = 0.1
"""Of the time for which the application may leave a full queue: there is a warning after it."""


class Timer(Enum):
    """Why a connection wants to be woken."""

    HEARTBEAT = "heartbeat"
    IDLE = "idle"
    CLOSE = "close"
    UNSENT = "unsent"
    """A message has waited for too long, or the peer has taken nothing for as long."""
    UNREAD_WARNING = "unread_warning"
    """The application has left a full queue for a tenth of the time that it may."""
    UNREAD = "unread"
    """The application has left a full queue for as long as it may."""
    END = "end"
    """The peer ended the connection behind messages in the same read, which may be answered first."""


class Timers:
    """The deadlines of one connection but for its heartbeat's.

    idle_timeout: seconds without a message, or None.
    max_unread_age: seconds for which the application may take nothing from a full queue, or None.
    close_timeout: seconds that the whole closing may take.
    """

    __slots__ = (
        "_close_timeout",
        "_deadlines",
        "_idle_timeout",
        "_max_unread_age",
        "_unread_since",
        "_unsent_at",
        "watches_idle",
    )

    def __init__(
        self, *, idle_timeout: float | None, max_unread_age: float | None, close_timeout: float, now: float
    ) -> None:
        self._idle_timeout = idle_timeout
        self._max_unread_age = max_unread_age
        self._unread_since = now
        self._close_timeout = close_timeout
        self._deadlines: Deadlines[Timer] = Deadlines()
        self._unsent_at: float | None = None
        self.watches_idle: bool = False
        """Messages call `restart_idle`."""
        self.reading_resumed(now)

    def restart_idle(self, now: float) -> None:
        """A message has come or gone; only while `watches_idle`."""
        assert self._idle_timeout is not None
        self._deadlines.set(Timer.IDLE, now + self._idle_timeout)

    def reading_paused(self, now: float) -> None:
        """Silence says nothing from now on, but the application must take something in time."""
        self.watches_idle = False
        self._deadlines.clear(Timer.IDLE)
        self.restart_unread(now)

    def restart_unread(self, now: float) -> None:
        """The application has taken something from a full queue; only while reading is paused."""
        if self._max_unread_age is not None:
            self._unread_since = now
            self._deadlines.set(Timer.UNREAD_WARNING, now + self._max_unread_age * UNREAD_WARNING_SHARE)
            self._deadlines.set(Timer.UNREAD, now + self._max_unread_age)

    def unread_for(self, now: float) -> float:
        """Return the seconds for which the application has taken nothing from a full queue."""
        return now - self._unread_since

    def reading_resumed(self, now: float) -> None:
        """The idle timeout begins anew, if there is one."""
        self._end_unread()
        if self._idle_timeout is not None:
            self.watches_idle = True
            self.restart_idle(now)

    def _end_unread(self) -> None:
        self._deadlines.clear(Timer.UNREAD_WARNING)
        self._deadlines.clear(Timer.UNREAD)

    def stop_watching(self) -> None:
        """The connection ends: nothing is idle or unread any more."""
        self._idle_timeout = self._max_unread_age = None
        self.watches_idle = False
        self._deadlines.clear(Timer.IDLE)
        self._end_unread()

    def set_unsent(self, at: float | None) -> None:
        """Set when the verdict on what is unsent is due, or None."""
        if at == self._unsent_at:
            return  # setting it again would put off the verdict
        self._unsent_at = at
        if at is None:
            self._deadlines.clear(Timer.UNSENT)
        else:
            self._deadlines.set(Timer.UNSENT, at)

    def start_closing(self, now: float) -> None:
        """The closing handshake begins."""
        self._deadlines.set(Timer.CLOSE, now + self._close_timeout)

    def next(self) -> tuple[Timer, float] | None:
        """Return why and when to call `handle_timeout`, or None. Changes nothing."""
        return self._deadlines.next()

    def handle_timeout(self, now: float) -> list[Timer]:
        """Return what is due, as `Deadlines` does."""
        due = self._deadlines.handle_timeout(now)
        if Timer.UNSENT in due:
            self._unsent_at = None
        return due
