"""The running asyncio event loop, as the rest of the package wants it."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future as ThreadFuture
from contextvars import Context, copy_context
from math import inf
from typing import Any, TypeVar

from wsconnkit.managed.runqueue import RunQueue
from wsconnkit.managed.runtime import Event as AnyEvent
from wsconnkit.managed.runtime import TaskCancelled, TaskTimeout

T = TypeVar("T")

_SENDS_PER_TURN = 128


class Event:
    """Set once; lighter than asyncio's, and it can be waited for with a time limit without a task."""

    __slots__ = ("_is_set", "_loop", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._is_set = False
        self._waiting: set[asyncio.Future[None]] | None = None

    def is_set(self) -> bool:
        """It was set."""
        return self._is_set

    def set(self) -> None:
        """Wake all who wait, now and later."""
        self._is_set = True
        for future in self._waiting or ():
            _resolve(future)

    async def wait(self, seconds: float = inf) -> bool:
        """Wait until it is set, at most so many seconds; tell whether it is."""
        if not self._is_set:
            future: asyncio.Future[None] = self._loop.create_future()
            if self._waiting is None:
                self._waiting = set()
            self._waiting.add(future)
            timer = None if seconds == inf else self._loop.call_later(seconds, _resolve, future)
            try:
                await future
            finally:
                self._waiting.discard(future)
                if timer is not None:
                    timer.cancel()
        return self._is_set


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Alarm:
    """Calls `ring` at a deadline; a deadline that moves later costs nothing until the old one has passed."""

    __slots__ = ("_at", "_handle", "_loop", "_ring")

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._ring = ring
        self._at = inf
        # uvloop returns a plain handle for what is due already.
        self._handle: asyncio.Handle | None = None

    def set(self, deadline: float | None) -> None:
        """Ring at `deadline` seconds on the loop's clock, or before; None leaves everything as it is."""
        if deadline is not None and deadline < self._at:
            self.cancel()
            self._at = deadline
            self._handle = self._loop.call_at(deadline, self._rings)

    def cancel(self) -> None:
        """Do not ring."""
        self._at = inf
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _rings(self) -> None:
        self._at = inf
        self._handle = None
        self._ring()


if sys.version_info >= (3, 11):
    _Task = asyncio.Task
else:

    class _Task(asyncio.Task):
        """Knows how often it was cancelled, as all tasks do since Python 3.11."""

        _count = 0

        def cancel(self, msg: Any = None) -> bool:
            self._count += 1
            return super().cancel(msg)

        def cancelling(self) -> int:
            return self._count


def is_cancelled(task: asyncio.Task[Any] | None) -> bool:
    """Whether somebody cancels `task`: else a CancelledError comes of what it awaited, and is an error like others.

    Before Python 3.11 that is known of tasks of ours; others are taken for cancelled.
    """
    cancelling = getattr(task, "cancelling", None)
    return cancelling is None or cancelling() > 0


class Task:
    """A task of asyncio whose end is told; see `Runtime.start`."""

    __slots__ = ("_is_cancelled", "_is_late", "_on_end", "_task", "_timer")

    def __init__(self, on_end: Callable[[Any], None] | None) -> None:
        self._on_end = on_end
        self._is_cancelled = self._is_late = False
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None]

    def start(
        self,
        loop: asyncio.AbstractEventLoop,
        function: Callable[..., Awaitable[Any]],
        args: tuple[Any, ...],
        timeout: float | None,
        name: str | None,
    ) -> None:
        """Begin, in a turn to come."""
        has_factory = loop.get_task_factory() is not None  # which may begin at once
        running = self._run(function, args, has_factory)
        self._task = loop.create_task(running, name=name) if has_factory else _Task(running, loop=loop, name=name)
        if timeout is not None:
            self._timer = loop.call_later(timeout, self._on_timeout)
        self._task.add_done_callback(self._on_done)

    def cancel(self) -> None:
        """Break it off; safe to repeat, and after its end."""
        self._is_cancelled = True
        self._task.cancel()

    async def _run(self, function: Callable[..., Awaitable[Any]], args: tuple[Any, ...], is_eager: bool) -> None:
        if is_eager:
            await asyncio.sleep(0)
        try:
            outcome = await function(*args)
        except asyncio.CancelledError as error:
            outcome = self._meaning_of(error)
        except Exception as error:
            if self._on_end is None:
                raise
            outcome = _built_in(error)
        self._end(outcome)

    def _meaning_of(self, error: asyncio.CancelledError) -> BaseException:
        if self._is_late and not self._is_cancelled:
            return TaskTimeout()
        return TaskCancelled() if self._is_cancelled or is_cancelled(self._task) else error

    def _end(self, outcome: Any) -> None:
        if self._timer is not None:
            self._timer.cancel()
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(outcome)

    def _on_timeout(self) -> None:
        self._is_late = True
        self._task.cancel()

    def _on_done(self, task: asyncio.Task[None]) -> None:
        # For one that was cancelled before it began, in which no line has run; and where something worse was raised.
        self._end(TaskCancelled())


def _built_in(error: Exception) -> Exception:
    """Return asyncio's own timeout, which it has before Python 3.11, as the built-in one, and others as they are."""
    return TimeoutError(*error.args) if type(error) is asyncio.TimeoutError else error


def _run_in_thread(outcome: ThreadFuture[T], context: Context, function: Callable[[], T]) -> None:
    outcome.set_running_or_notify_cancel()
    try:
        outcome.set_result(context.run(function))
    except BaseException as error:
        outcome.set_exception(error)


class Runtime:
    """The event loop that runs when it is made."""

    sends_per_turn = _SENDS_PER_TURN
    random_bytes: Callable[[int], bytes] = staticmethod(os.urandom)

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        loop = self.loop
        self.now: Callable[[], float] = loop.time
        self.future: Callable[[], asyncio.Future[Any]] = loop.create_future
        self.run_queue: RunQueue = RunQueue(loop.call_soon)

    def wall_now(self) -> float:
        """Return the time in seconds since the epoch."""
        return time.time()

    def random(self) -> float:
        """Return a random number, at least 0 and below 1."""
        return random.random()  # noqa: S311 - nobody gains by guessing it

    def is_running(self) -> bool:
        """It is the event loop that runs here and now."""
        return asyncio.get_running_loop() is self.loop

    def event(self) -> Event:
        """Return a new event."""
        return Event(self.loop)

    def alarm(self, ring: Callable[[], None]) -> Alarm:
        """Return an alarm."""
        return Alarm(self.loop, ring)

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
        """Run `function(*args)` in a task; all are alike here, whether `theirs`, or to `shield`."""
        task = Task(on_end)
        task.start(self.loop, function, args, timeout, name)
        return task

    async def call(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Call the application."""
        try:
            return await function(*args)
        except asyncio.TimeoutError as error:
            raise _built_in(error) from error.__cause__
        except asyncio.CancelledError as error:
            if is_cancelled(asyncio.current_task()):
                raise
            raise RuntimeError("it awaited something that was cancelled") from error

    async def sleep(self, seconds: float) -> None:
        """Let `seconds` pass; 0 lets others have their turn."""
        await asyncio.sleep(seconds)

    async def wait(self, event: AnyEvent, seconds: float = inf, *, shield: bool = False) -> bool:
        """Wait for an event, at most so many seconds; tell whether it is set."""
        assert isinstance(event, Event)  # `event` has made it
        cancelled: asyncio.CancelledError | None = None
        deadline = self.now() + seconds
        while True:
            try:
                await event.wait(max(0.0, deadline - self.now()))
                break
            except asyncio.CancelledError as error:
                if not shield:
                    raise
                cancelled = error  # one that goes on is known to whoever waits for us
        if cancelled is not None:
            raise cancelled
        return event.is_set()

    async def in_thread(self, function: Callable[[], T]) -> T:
        """Run a function that blocks; cancelled, it is abandoned."""
        # Not in the loop's executor, whose threads are waited for when the loop ends, and when the interpreter does.
        outcome: ThreadFuture[T] = ThreadFuture()
        args = (outcome, copy_context(), function)
        threading.Thread(target=_run_in_thread, args=args, daemon=True).start()
        return await asyncio.wrap_future(outcome)

    def call_soon_threadsafe(self, callback: Callable[[], None]) -> None:
        """Have `callback` called by the loop, from a signal handler or another thread."""
        self.loop.call_soon_threadsafe(callback)
