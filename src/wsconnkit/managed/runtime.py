"""What an event loop must give to the rest of this package, which names none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from math import inf
from typing import Any, Protocol, TypeVar

from wsconnkit.managed.runqueue import RunQueue

T = TypeVar("T")


class TaskCancelled(Exception):
    """The outcome of a task that was cancelled by its `cancel`, or together with everything around it."""


class TaskTimeout(TimeoutError):
    """The outcome of a task whose time was over."""


def as_error(outcome: BaseException) -> Exception:
    """Return what a task has raised as what may be raised in another, which a cancellation of asyncio's would end."""
    if isinstance(outcome, Exception):
        return outcome
    error = RuntimeError(f"it ended with {type(outcome).__name__}")
    error.__cause__ = outcome
    return error


class Future(Protocol):
    """What one task awaits and another one brings; `asyncio.Future` is one, as it is.

    It carries outcomes: a value, or an exception that the waiter raises. (`set_exception` is not used, since asyncio
    complains of exceptions whose waiter has gone.)
    """

    def done(self) -> bool:
        """It was brought, or the task that awaited it was cancelled."""

    def set_result(self, outcome: Any, /) -> None:
        """Bring it; not when it is done."""

    def __await__(self) -> Generator[Any, Any, Any]: ...


class Event(Protocol):
    """Set once, for any number of tasks."""

    def is_set(self) -> bool:
        """It was set."""

    def set(self) -> None:
        """Wake all who wait, now and later."""

    async def wait(self) -> object:
        """Wait until it is set."""


class Alarm(Protocol):
    """Rings at a deadline; one that moves later costs nothing until the old one has passed."""

    def set(self, deadline: float | None) -> None:
        """Ring at `deadline` seconds on the loop's clock, or before; None leaves everything as it is."""

    def cancel(self) -> None:
        """Do not ring."""


class Task(Protocol):
    """What was started."""

    def cancel(self) -> None:
        """Break it off; safe to repeat, and after its end."""


class Runtime(Protocol):
    """An event loop, and a scope in which tasks live: the loop's own life on asyncio, a nursery on trio."""

    sends_per_turn: int
    """Messages sent after which others have their turn: many on asyncio, 1 on trio, where each call is a checkpoint."""
    run_queue: RunQueue
    """Where connections wait that have read more than fits into one pass of the loop."""

    def is_running(self) -> bool:
        """It is the event loop that runs here and now."""

    def now(self) -> float:
        """Return the time in seconds on the loop's clock."""

    def wall_now(self) -> float:
        """Return the time in seconds since the epoch."""

    def random(self) -> float:
        """Return a random number, at least 0 and below 1, that need not be hard to guess."""

    def random_bytes(self, size: int, /) -> bytes:
        """Return as many random bytes, which nobody can guess: for masks and names."""

    def future(self) -> Future:
        """Return a new future."""

    def event(self) -> Event:
        """Return a new event."""

    def alarm(self, ring: Callable[[], None]) -> Alarm:
        """Return an alarm, which goes on where the scope is cancelled: who made it cancels it."""

    def start(
        self,
        function: Callable[..., Awaitable[Any]],
        *args: Any,
        theirs: bool = False,
        shield: bool = False,
        timeout: float | None = None,
        on_end: Callable[[Any], None] | None = None,
        name: str | None = None,
    ) -> Task:
        """Run `function(*args)` beside the caller; nothing of it runs before this returns.

        theirs: it is the application's, and Ctrl-C may interrupt it. Ours it does not.
        shield: it goes on where the scope is cancelled.
        timeout: seconds after which it is cancelled.
        on_end: called once when it has ended, with what it returned or raised: TaskTimeout when its time was over,
            TaskCancelled when it was cancelled, asyncio's CancelledError when what it awaited was. Without it, an
            Exception goes to the loop, as of any task.
        What else than an Exception it raises goes on to the scope, without the exceptions beside it in a group.
        """

    def call(self, function: Callable[..., Awaitable[T]], *args: Any) -> Awaitable[T]:
        """Call the application within a task of ours.

        Ctrl-C may interrupt it there; every loop's own timeout comes out as TimeoutError, a cancellation without the
        errors that it met on its way, and the cancellation of something that it awaited as RuntimeError.
        """

    async def sleep(self, seconds: float) -> None:
        """Let `seconds` pass; 0 lets others have their turn."""

    async def wait(self, event: Event, seconds: float = inf, *, shield: bool = False) -> bool:
        """Wait for an event, at most so many seconds; tell whether it is set.

        shield: a cancellation is raised only afterwards.
        """

    async def in_thread(self, function: Callable[[], T]) -> T:
        """Run a function that blocks; cancelled, it is abandoned."""

    def call_soon_threadsafe(self, callback: Callable[[], None]) -> None:
        """Have `callback` called by the loop, from a signal handler or another thread."""
