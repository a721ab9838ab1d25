"""When a connection wants to be woken, and why."""

from __future__ import annotations

from enum import Enum

from wsconnkit.machines.deadlines import Deadlines


class Timer(Enum):
    """Why a connection wants to be woken."""

    HEARTBEAT = "heartbeat"
    IDLE = "idle"
    CLOSE = "close"
    UNSENT = "unsent"
    """A message has waited for too long, or the peer has taken nothing for as long."""
    END = "end"
    """The peer ended the connection behind messages in the same read, which may be answered first."""


class Timers:
    """The deadlines of one connection but for its heartbeat's.

    idle_timeout: seconds without a message, or None.
    close_timeout: seconds that the whole closing may take.
    """

    __slots__ = ("_close_timeout", "_deadlines", "_idle_timeout", "_unsent_at", "watches_idle")

    def __init__(self, *, idle_timeout: float | None, close_timeout: float, now: float) -> None:
        self._idle_timeout = idle_timeout
        self._close_timeout = close_timeout
        self._deadlines: Deadlines[Timer] = Deadlines()
        self._unsent_at: float | None = None
        self.watches_idle = False
        """Messages call `restart_idle`."""
        self.resume_idle(now)

    def restart_idle(self, now: float) -> None:
        """A message has come or gone; only while `watches_idle`."""
        assert self._idle_timeout is not None
        self._deadlines.set(Timer.IDLE, now + self._idle_timeout)

    def pause_idle(self) -> None:
        """Silence says nothing from now on."""
        self.watches_idle = False
        self._deadlines.clear(Timer.IDLE)

    def resume_idle(self, now: float) -> None:
        """The idle timeout begins anew, if there is one."""
        if self._idle_timeout is not None:
            self.watches_idle = True
            self.restart_idle(now)

    def end_idle(self) -> None:
        """The connection ends: nothing is idle any more."""
        self._idle_timeout = None
        self.pause_idle()

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
