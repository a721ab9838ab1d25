"""trio's event loop and a nursery, as the rest of the package wants them."""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Awaitable, Callable, Generator
from contextvars import copy_context
from math import inf
from typing import Any, TypeVar

import trio

from wsconnkit.managed.runqueue import RunQueue
from wsconnkit.managed.runtime import Event, TaskCancelled, TaskTimeout

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

T = TypeVar("T")

Start = Callable[..., object]
"""Starts an async function with its arguments, and a `name`, in the background."""


class Future:
    """What one task awaits and another one brings, as asyncio's."""

    __slots__ = ("_is_done", "_outcome", "_waiting")

    def __init__(self) -> None:
        self._is_done = False
        self._outcome: Any = None
        self._waiting: trio.lowlevel.Task | None = None

    def done(self) -> bool:
        """It was brought, or the task that awaited it was cancelled."""
        return self._is_done

    def set_result(self, outcome: Any, /) -> None:
        """Bring it; not when it is done."""
        self._outcome = outcome
        self._is_done = True
        if self._waiting is not None:
            trio.lowlevel.reschedule(self._waiting)
            self._waiting = None

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._wait().__await__()

    async def _wait(self) -> Any:
        if self._is_done:
            await trio.lowlevel.checkpoint()
        else:
            self._waiting = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._on_cancelled)
        return self._outcome

    def _on_cancelled(self, raise_cancel: object) -> trio.lowlevel.Abort:
        self._is_done = True
        self._waiting = None
        return trio.lowlevel.Abort.SUCCEEDED


class Alarm:
    """Calls `ring` at a deadline; one that moves later costs nothing until the old one has passed.

    shield: it rings also where what is around is cancelled; whoever made it cancels it then.
    """

    __slots__ = ("_ring", "_scope", "_shield", "_start")

    def __init__(self, start: Start, ring: Callable[[], None], *, shield: bool) -> None:
        self._start = start
        self._ring = ring
        self._shield = shield
        self._scope: trio.CancelScope | None = None

    def set(self, deadline: float | None) -> None:
        """Ring at `deadline` seconds on trio's clock, or before; None leaves everything as it is."""
        if deadline is None:
            return
        if self._scope is None:
            self._scope = trio.CancelScope(deadline=deadline, shield=self._shield)
            self._start(self._wait, self._scope)
        elif deadline < self._scope.deadline:
            self._scope.deadline = deadline

    def cancel(self) -> None:
        """Do not ring."""
        if self._scope is not None:
            self._scope.cancel()
            self._scope = None

    @trio.lowlevel.enable_ki_protection
    async def _wait(self, scope: trio.CancelScope) -> None:
        with scope:
            await trio.sleep_forever()
        if scope is self._scope:  # else it was cancelled
            self._scope = None
            self._ring()


class Task:
    """A task of trio whose end is told; see `Runtime.start`."""

    __slots__ = ("_is_cancelled", "_is_system", "_on_end", "_scope")

    def __init__(
        self, shield: bool, timeout: float | None, on_end: Callable[[Any], None] | None, *, is_system: bool
    ) -> None:
        self._is_system = is_system
        deadline = inf if timeout is None else trio.current_time() + timeout
        self._scope = trio.CancelScope(deadline=deadline, shield=shield)
        self._is_cancelled = False
        self._on_end = on_end

    def cancel(self) -> None:
        """Break it off; safe to repeat, and after its end."""
        self._is_cancelled = True
        self._scope.cancel()

    @trio.lowlevel.enable_ki_protection
    async def run(self, function: Callable[..., Awaitable[Any]], args: tuple[Any, ...]) -> None:
        """Run to the end."""
        outcome: Any = TaskCancelled()
        try:
            with self._scope:
                outcome = await function(*args)
            if self._scope.cancelled_caught and not self._is_cancelled:
                outcome = TaskTimeout()
        except Exception as error:
            if self._on_end is None:
                raise
            outcome = TimeoutError(*error.args) if isinstance(error, trio.TooSlowError) else error
        except SystemExit as error:
            if not self._is_system:
                raise
            outcome = error  # it would end trio itself there
        except BaseExceptionGroup as group:
            errors, others = group.split(Exception)
            if errors is not None:
                outcome = errors
            assert others is not None  # or it would be a group of nothing but exceptions
            raise others from None
        finally:
            if self._on_end is not None:
                self._on_end(outcome)


class Runtime:
    """trio's loop, and where tasks are started: in a nursery, or as system tasks, which Ctrl-C never interrupts."""

    sends_per_turn = 1
    now: Callable[[], float] = staticmethod(trio.current_time)
    random_bytes: Callable[[int], bytes] = staticmethod(os.urandom)
    future = Future
    event = trio.Event

    async def sleep(self, seconds: float) -> None:
        """Wait, and let others go on."""
        await trio.sleep(seconds)

    def __init__(self, nursery: trio.Nursery | None = None) -> None:
        self.nursery = nursery
        """Where its tasks live; None for system tasks."""
        self._token = trio.lowlevel.current_trio_token()
        self._start: Start = _start_system_task if nursery is None else nursery.start_soon
        self.run_queue: RunQueue = RunQueue(self._call_soon)

    def _call_soon(self, callback: Callable[[], None]) -> None:
        self._start(_call, callback)

    def wall_now(self) -> float:
        """Return the time in seconds since the epoch."""
        return time.time()

    def random(self) -> float:
        """Return a random number, at least 0 and below 1."""
        return random.random()  # noqa: S311 - nobody gains by guessing it

    def is_running(self) -> bool:
        """It is the event loop that runs here and now."""
        return trio.lowlevel.current_trio_token() is self._token

    def alarm(self, ring: Callable[[], None]) -> Alarm:
        """Return an alarm, which goes on where the nursery is cancelled: who made it cancels it.

        As a system task it ends with the loop, which else would wait for it.
        """
        return Alarm(self._start, ring, shield=self.nursery is not None)

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
        """Run `function(*args)` in a task."""
        task = Task(shield, timeout, on_end, is_system=self.nursery is None)
        if theirs and self.nursery is not None:
            function, args = _interruptible, (function, *args)
        self._start(task.run, function, args, name=name)
        return task

    async def call(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Call the application."""
        try:
            return await (function(*args) if self.nursery is None else _interruptible(function, *args))
        except trio.TooSlowError as error:  # which is no TimeoutError
            raise TimeoutError(*error.args) from error.__cause__
        except BaseExceptionGroup as group:
            # Whoever has cancelled would get the errors in it; who does not handle them ends with them, a server whole.
            _, others = group.split(Exception)
            if others is None:
                raise
            raise others from None

    async def wait(self, event: Event, seconds: float = inf, *, shield: bool = False) -> bool:
        """Wait for an event, at most so many seconds; tell whether it is set."""
        with trio.CancelScope(deadline=trio.current_time() + seconds, shield=shield):
            await event.wait()
        return event.is_set()

    async def in_thread(self, function: Callable[[], T]) -> T:
        """Run a function that blocks; cancelled, it is abandoned."""
        return await trio.to_thread.run_sync(function, abandon_on_cancel=True)

    def call_soon_threadsafe(self, callback: Callable[[], None]) -> None:
        """Have `callback` called by the loop, from a signal handler or another thread."""
        self._token.run_sync_soon(callback)


def _start_system_task(function: Callable[..., Awaitable[Any]], *args: Any, name: str | None = None) -> None:
    """Start a task of nobody's, with the caller's context variables, as a task of a nursery has them."""
    trio.lowlevel.spawn_system_task(function, *args, name=name, context=copy_context())


@trio.lowlevel.enable_ki_protection
async def _call(callback: Callable[[], None]) -> None:
    callback()


@trio.lowlevel.disable_ki_protection
async def _interruptible(function: Callable[..., Awaitable[T]], *args: Any) -> T:
    """Call what the application gave: unlike our own tasks, Ctrl-C may interrupt it anywhere."""
    return await function(*args)
