"""Close many connections without a herd: one after the other over a window, the rest aborted at a deadline.

    drain = Drain([(ws, ws.id, "alice")], window=10.0, grace=5.0, now=0.0)
    while (at := drain.next_timeout()) is not None:
        ...                                     # until `at`: drain.on_closed(ws, info, now) for each that ends
        orders = drain.handle_timeout(now)      # close those, abort those
    print(drain.report(now))                    # 'drained 1 connection in 0.2 s: 1 closed'

Clients that come back at once then come back spread over the window.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import Generic, NamedTuple, TypeVar

from wsconnkit.machines.closecodes import CloseCode
from wsconnkit.protocol.closeinfo import Cause, CloseInfo
from wsconnkit.protocol.frames import check_close

C = TypeVar("C", bound=Hashable)

WINDOW, GRACE = 10.0, 15.0
"""Seconds, unless the caller says otherwise: together less than the 30 after which Kubernetes kills."""
CODE, REASON = CloseCode.SERVICE_RESTART, "server shutdown"
"""What is told to clients, unless the caller says otherwise: that they may come back."""

FAREWELL = 0.1
"""Seconds from the deadline to the abort where some are told to close only then, so that they hear why."""
ABORT_WAIT = 1.0
"""Seconds after the abort in which connections say that they have ended; nobody waits longer."""


class Outcome(Enum):
    """How a connection came through a drain; each has exactly one."""

    CLOSED = "closed"
    """We closed it and the peer answered."""
    UNANSWERED = "unanswered"
    """We closed it and the peer did not answer within the close timeout."""
    LEFT = "left"
    """It ended by itself, or the peer ended it."""
    ABORTED = "aborted"
    """It had not ended by the deadline: it was told to close only then, or dropped."""


class Drained(NamedTuple):
    """One connection's end; `info` is None when it did not even say that it was aborted."""

    id: str
    user: str | None
    outcome: Outcome
    info: CloseInfo | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainReport:
    """What a drain came to.

    connections: those that have ended, in the order of their turns. duration: seconds.
    """

    connections: tuple[Drained, ...]
    duration: float

    @property
    def counts(self) -> dict[Outcome, int]:
        """Connections by outcome, every outcome included."""
        counts = dict.fromkeys(Outcome, 0)
        for drained in self.connections:
            counts[drained.outcome] += 1
        return counts

    def __str__(self) -> str:
        total = len(self.connections)
        parts = ", ".join(f"{count} {outcome.value}" for outcome, count in self.counts.items() if count)
        text = f"drained {total} connection{'' if total == 1 else 's'} in {self.duration:.1f} s"
        return f"{text}: {parts}" if parts else text


@dataclass(frozen=True, slots=True)
class Orders(Generic[C]):
    """What to do now: begin to close those, abort those."""

    close: tuple[C, ...] = ()
    abort: tuple[C, ...] = ()


@dataclass(slots=True)
class _Turn:
    id: str
    user: str | None
    due_at: float
    busy: bool = False
    told: bool = False
    late: bool = False
    drained: Drained | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainConfig:
    """How a server drains.

    window: seconds over which the closes are spread.
    grace: seconds after it in which work in flight may end, and peers may answer the close.
    code, reason: what clients are told; by default that they may come back.

    Raises ValueError for times that are negative or not finite, LocalProtocolError for what cannot be sent.
    """

    window: float = WINDOW
    grace: float = GRACE
    code: int = CODE
    reason: str = REASON

    def __post_init__(self) -> None:
        check_times(self.window, self.grace)
        check_close(self.code, self.reason)

    def replaced(
        self, *, window: float | None, grace: float | None, code: int | None, reason: str | None
    ) -> DrainConfig:
        """Return the same with what is not None in place of what was; raises as the class does."""
        return DrainConfig(
            window=self.window if window is None else window,
            grace=self.grace if grace is None else grace,
            code=self.code if code is None else code,
            reason=self.reason if reason is None else reason,
        )


class Drain(Generic[C]):
    """The end of `connections`, each with its id and its user.

    window: seconds over which the closes are spread: of n connections the i-th, counted from 0, has its turn
        `window * i / n` after `now`.
    grace: seconds after the window at which everything left is aborted; who was never told to close is told then,
        and the abort comes `FAREWELL` seconds later.

    Raises ValueError for either when it is negative or not finite. A `now` before the last one is clamped; connections
    that are not among them are ignored.
    """

    def __init__(
        self, connections: Iterable[tuple[C, str, str | None]], *, window: float, grace: float, now: float
    ) -> None:
        check_times(window, grace)
        members = {connection: (id_, user) for connection, id_, user in connections}
        self._turns = {
            connection: _Turn(id_, user, now + window * i / len(members))
            for i, (connection, (id_, user)) in enumerate(members.items())
        }
        self._upcoming = deque(self._turns)
        self._left = len(members)
        self._deadline = now + window + grace
        self._give_up_at: float | None = None
        """When not to wait for what was aborted; None before the abort."""
        self._began = self._now = self._done_at = now

    @property
    def done(self) -> bool:
        """Every connection has its outcome."""
        return not self._left

    def next_timeout(self) -> float | None:
        """Return when to call `handle_timeout`; None when done. Changes nothing."""
        if self.done:
            return None
        if self._give_up_at is not None:
            return self._give_up_at
        if self._upcoming:
            return self._turns[self._upcoming[0]].due_at
        return self._deadline

    def handle_timeout(self, now: float) -> Orders[C]:
        """Return which connections to close and which to abort; each is named once for either.

        Early, late and repeated calls are safe.
        """
        self._see(now)
        if self._give_up_at is not None:
            if self._now >= self._give_up_at:
                for turn in self._turns.values():
                    self._end(turn, Outcome.ABORTED, None)
            return Orders()
        if self._now >= self._deadline:
            self._upcoming.clear()
            untold = tuple(c for c, turn in self._turns.items() if not (turn.told or turn.drained))
            if untold:
                for connection in untold:
                    turn = self._turns[connection]
                    turn.told = turn.late = True
                self._deadline = self._now + FAREWELL
                return Orders(close=untold)
            self._give_up_at = self._now + ABORT_WAIT
            return Orders(abort=tuple(connection for connection, turn in self._turns.items() if turn.drained is None))
        close = []
        while self._upcoming and self._turns[self._upcoming[0]].due_at <= self._now:
            connection = self._upcoming.popleft()
            turn = self._turns[connection]
            if not (turn.busy or turn.told or turn.drained):
                turn.told = True
                close.append(connection)
        self._skip_ended()
        return Orders(close=tuple(close))

    def is_due(self, connection: C) -> bool:
        """Its turn to close has come, by the last time that was told; a busy one then takes no new requests."""
        turn = self._turns.get(connection)
        return turn is not None and turn.due_at <= self._now

    def busy(self, connection: C) -> None:
        """Do not close `connection` before it is idle, or the deadline. Safe to repeat."""
        turn = self._turns.get(connection)
        if turn is not None:
            turn.busy = True

    def idle(self, connection: C, now: float) -> bool:
        """Take back `busy`. True: the turn of `connection` has come meanwhile, close it now. Safe to repeat."""
        self._see(now)
        turn = self._turns.get(connection)
        if turn is None:
            return False
        turn.busy = False
        if turn.told or turn.drained or not turn.due_at <= self._now < self._deadline:
            return False
        turn.told = True
        return True

    def on_closed(self, connection: C, info: CloseInfo, now: float) -> None:
        """Take note that `connection` has ended; only the first time counts."""
        self._see(now)
        turn = self._turns.get(connection)
        if turn is None:
            return
        is_aborted = self._give_up_at is not None and not info.clean
        if info.cause is not Cause.DRAIN and not is_aborted:
            outcome = Outcome.LEFT
        elif turn.late or is_aborted:
            outcome = Outcome.ABORTED
        else:
            outcome = Outcome.CLOSED if info.clean else Outcome.UNANSWERED
        self._end(turn, outcome, info)
        self._skip_ended()

    def report(self, now: float) -> DrainReport:
        """Return what it came to so far; once done it stays the same."""
        self._see(now)
        connections = tuple(turn.drained for turn in self._turns.values() if turn.drained)
        return DrainReport(connections=connections, duration=(self._done_at if self.done else self._now) - self._began)

    def _see(self, now: float) -> None:
        self._now = max(now, self._now)

    def _end(self, turn: _Turn, outcome: Outcome, info: CloseInfo | None) -> None:
        if turn.drained is None:
            turn.drained = Drained(turn.id, turn.user, outcome, info)
            self._left -= 1
            self._done_at = self._now

    def _skip_ended(self) -> None:
        # Nobody need wake for the turn of one that has left.
        while self._upcoming and self._turns[self._upcoming[0]].drained:
            self._upcoming.popleft()


def check_times(window: float, grace: float) -> None:
    """Raise ValueError when either is no finite number of seconds, 0 or more."""
    for name, value in (("window", window), ("grace", grace)):
        if not 0 <= value < inf:
            raise ValueError(f"{name} is {value!r}; it must be a finite number of seconds, at least 0")
