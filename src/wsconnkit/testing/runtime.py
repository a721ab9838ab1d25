"""An event loop in memory and in virtual time, whose order of tasks comes from a seed.

    async def main(runtime: Runtime) -> float:
        await runtime.sleep(3600)
        return runtime.now()

    assert run(main, seed=1) == 3600          # returns immediately

It takes turns: all that can run now runs once, in an order that the seed decides. When nothing can, time moves on to
the next timer. Masks, names and waits come from the seed as well, and the clock on the wall moves with the virtual one:
the same seed gives the same bytes at the same times, for the same code.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import partial
from heapq import heappop, heappush
from itertools import count
from math import inf
from random import Random
from typing import Any, TypeVar

from wsconnkit.managed.runqueue import RunQueue
from wsconnkit.managed.runtime import Event as AnyEvent
from wsconnkit.managed.runtime import TaskCancelled, TaskTimeout
from wsconnkit.testing.clock import VirtualClock

T = TypeVar("T")

_EPOCH = 1_000_000_000.0
"""Seconds since the epoch at 0 of the virtual clock."""


class Cancelled(BaseException):
    """Raised once where a cancelled task waits; whoever catches it raises it again."""


class Stalled(Exception):
    """All tasks wait, and there is nothing that could wake one."""


class Future:
    """What one task awaits and another one brings."""

    __slots__ = ("_is_done", "_outcome", "_wake")

    def __init__(self) -> None:
        self._is_done = False
        self._outcome: Any = None
        self._wake: Callable[[], None] | None = None

    def done(self) -> bool:
        """It was brought, or the task that awaited it was cancelled."""
        return self._is_done

    def set_result(self, outcome: Any, /) -> None:
        """Bring it. Raises RuntimeError when it is done."""
        if self._is_done:
            raise RuntimeError("the future is done")
        self._is_done = True
        self._outcome = outcome
        if self._wake is not None:
            self._wake()

    def when_done(self, wake: Callable[[], None]) -> None:
        """Have `wake` called when it is brought."""
        self._wake = wake

    def __await__(self) -> Generator[Future, None, Any]:
        if not self._is_done:
            try:
                yield self
            finally:
                self._is_done = True  # where the wait was cancelled
        return self._outcome


class Event:
    """Set once, for any number of tasks."""

    __slots__ = ("_is_set", "_waiting")

    def __init__(self) -> None:
        self._is_set = False
        self._waiting: dict[Future, None] = {}  # in the order in which they came, unlike a set

    def is_set(self) -> bool:
        """It was set."""
        return self._is_set

    def set(self) -> None:
        """Wake all who wait, now and later."""
        self._is_set = True
        for future in self._waiting:
            _resolve(future)

    async def wait(self, future: Future | None = None) -> None:
        """Wait until it is set, or somebody else has brought `future`."""
        if not self._is_set:
            future = future or Future()
            self._waiting[future] = None
            try:
                await future
            finally:
                del self._waiting[future]


def _resolve(future: Future) -> None:
    if not future.done():
        future.set_result(None)


class _Turn:
    """Awaited, lets all others have their turn."""

    def __await__(self) -> Generator[None, None, None]:
        yield


class Handle:
    """What is to be called."""

    __slots__ = ("_callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Do not call it."""
        self._callback = None

    @property
    def is_cancelled(self) -> bool:
        """It is not to be called, or was."""
        return self._callback is None

    def call(self) -> None:
        """Call it, once."""
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


class Alarm:
    """Calls `ring` at a deadline; one that moves later costs nothing until the old one has passed."""

    __slots__ = ("_at", "_handle", "_ring", "_runtime")

    def __init__(self, runtime: Runtime, ring: Callable[[], None]) -> None:
        self._runtime = runtime
        self._ring = ring
        self._at = inf
        self._handle: Handle | None = None

    def set(self, deadline: float | None) -> None:
        """Ring at `deadline` in virtual time, or before; None leaves everything as it is."""
        if deadline is not None and deadline < self._at:
            self.cancel()
            self._at = deadline
            self._handle = self._runtime.call_at(deadline, self._rings)

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


class Task:
    """A coroutine that is driven to its end, which is told; see `Runtime.start`."""

    def __init__(
        self,
        runtime: Runtime,
        coroutine: Coroutine[Future | None, None, Any],
        *,
        name: str,
        shield: bool,
        timeout: float | None,
        on_end: Callable[[Any], None] | None,
    ) -> None:
        self.name = name
        self.shield = shield
        self._runtime = runtime
        self._coroutine = coroutine
        self._on_end = on_end
        self._is_cancelled = self._is_late = False
        self._must_throw = False
        self._is_running = False
        self._has_ended = False
        self._next: Handle | None = None
        self._timer = None if timeout is None else runtime.call_at(runtime.now() + timeout, self._on_timeout)
        self._wake()

    def cancel(self) -> None:
        """Break it off; safe to repeat, and after its end."""
        self._is_cancelled = True
        self._throw()

    def _on_timeout(self) -> None:
        self._is_late = True
        self._throw()

    def _throw(self) -> None:
        if not self._has_ended:
            self._must_throw = True
            if not self._is_running:
                self._wake()

    def _wake(self) -> None:
        if self._next is None:
            self._next = self._runtime.call_soon(self._step)

    def _step(self) -> None:
        self._next = None
        must_throw, self._must_throw = self._must_throw, False
        self._is_running = True
        try:
            awaited = self._coroutine.throw(Cancelled()) if must_throw else self._coroutine.send(None)
        except StopIteration as stop:
            self._end(stop.value)
        except Cancelled:
            self._end(TaskTimeout() if self._is_late and not self._is_cancelled else TaskCancelled())
        except Exception as error:
            if self._on_end is None:
                self._runtime.fail(error)
            self._end(error)
        except BaseException as error:
            self._runtime.fail(error)
            self._end(TaskCancelled())
        else:
            if awaited is None or self._must_throw:
                self._wake()
            else:
                awaited.when_done(self._wake)
        finally:
            self._is_running = False

    def _end(self, outcome: Any) -> None:
        self._has_ended = True
        self._runtime.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._on_end is not None:
            self._on_end(outcome)


class Runtime:
    """The event loop of one `run`, and the scope of its tasks, which is cancelled when `main` has ended.

    seed: where all chance comes from.
    """

    sends_per_turn = 1

    def __init__(self, seed: int = 0, clock: VirtualClock | None = None) -> None:
        self.clock: VirtualClock = clock or VirtualClock()
        """What it moves when all wait."""
        self._random = Random(seed)  # noqa: S311 - tests want to repeat what has happened
        self.random: Callable[[], float] = self._random.random
        self.random_bytes: Callable[[int], bytes] = self._random.randbytes
        self.run_queue: RunQueue = RunQueue(self.call_soon)
        self._ready: list[Handle] = []
        self._timers: list[tuple[float, int, Handle]] = []
        self._numbers = count()
        self._tasks: dict[Task, None] = {}
        self._error: BaseException | None = None

    def run(self, main: Callable[[Runtime], Awaitable[T]]) -> T:
        """Run `main(self)` to its end, then cancel and wait for what is left, and return what it returned.

        Raises what it raised, or first what a task raised whose end nobody is told; Stalled where all wait for ever.
        """
        outcomes: list[Any] = []
        self.start(main, self, on_end=outcomes.append, name="main")
        self._run_while(lambda: self._error is None and not outcomes)
        for task in tuple(self._tasks):
            if not task.shield:
                task.cancel()
        self._run_while(lambda: bool(self._tasks or self._ready))
        if self._error is not None:
            raise self._error
        (outcome,) = outcomes
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome  # type: ignore[no-any-return] # what `main` returned

    def run_ready(self) -> bool:
        """Run all that can run without letting time pass; tell whether there was any. Raises as `run` does for tasks.

        With `next_timer` and the clock, this drives it from outside, step by step and beside others.
        """
        has_run = False
        while self._error is None and self._take_turn():
            has_run = True
        if self._error is not None:
            raise self._error
        return has_run

    def next_timer(self) -> float:
        """Return the time of the next timer; `inf` where there is none."""
        while self._timers and self._timers[0][2].is_cancelled:
            heappop(self._timers)
        return self._timers[0][0] if self._timers else inf

    # What the rest of the package asks for.

    def is_running(self) -> bool:
        """It is the event loop that runs here and now, of which there is one."""
        return True

    def now(self) -> float:
        """Return the virtual time in seconds."""
        return self.clock.now

    def wall_now(self) -> float:
        """Return the virtual time in seconds since the epoch; 0 of the clock is 2001-09-09, 01:46:40 UTC."""
        return _EPOCH + self.clock.now

    def future(self) -> Future:
        """Return a new future."""
        return Future()

    def event(self) -> Event:
        """Return a new event."""
        return Event()

    def alarm(self, ring: Callable[[], None]) -> Alarm:
        """Return an alarm."""
        return Alarm(self, ring)

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
        """Run `function(*args)` in a task. Without `on_end`, what it raises ends the run, and is raised by that."""
        name = name or str(getattr(function, "__qualname__", function))
        task = Task(self, self.call(function, *args), name=name, shield=shield, timeout=timeout, on_end=on_end)
        self._tasks[task] = None
        return task

    async def call(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Call the application."""
        return await function(*args)

    async def sleep(self, seconds: float) -> None:
        """Let `seconds` pass; 0 lets others have their turn."""
        if seconds > 0:
            await self.wait(Event(), seconds)
        else:
            await _Turn()

    async def wait(self, event: AnyEvent, seconds: float = inf, *, shield: bool = False) -> bool:
        """Wait for an event, at most so many seconds; tell whether it is set."""
        assert isinstance(event, Event)  # `event` has made it
        cancelled: Cancelled | None = None
        deadline = self.now() + seconds
        while not event.is_set():
            future = Future()
            timer = None if seconds == inf else self.call_at(deadline, partial(_resolve, future))
            try:
                await event.wait(future)
                break
            except Cancelled as error:
                if not shield:
                    raise
                cancelled = error
            finally:
                if timer is not None:
                    timer.cancel()
        if cancelled is not None:
            raise cancelled
        return event.is_set()

    async def in_thread(self, function: Callable[[], T]) -> T:
        """Run a function that blocks, in place."""
        return function()

    def call_soon_threadsafe(self, callback: Callable[[], None]) -> None:
        """Have `callback` called in the next turn; from a signal handler or within a task, there are no threads."""
        self.call_soon(callback)

    # What is behind that.

    def call_soon(self, callback: Callable[[], None]) -> Handle:
        """Call back in the next turn."""
        handle = Handle(callback)
        self._ready.append(handle)
        return handle

    def call_at(self, at: float, callback: Callable[[], None]) -> Handle:
        """Call back at a time."""
        handle = Handle(callback)
        heappush(self._timers, (at, next(self._numbers), handle))
        return handle

    def fail(self, error: BaseException) -> None:
        """End the run, which raises the first such error."""
        self._error = self._error or error

    def discard(self, task: Task) -> None:
        """A task has ended."""
        self._tasks.pop(task, None)

    def _run_while(self, condition: Callable[[], bool]) -> None:
        while condition():
            if not self._take_turn() and not self._let_time_pass():
                names = ", ".join(task.name for task in self._tasks)
                raise Stalled(f"all tasks wait, and nothing will wake them: {names}")

    def _take_turn(self) -> bool:
        """Call all that is to be called now, in any order; tell whether there was something."""
        while self._timers and self._timers[0][0] <= self.now():
            self._ready.append(heappop(self._timers)[2])
        turn, self._ready = self._ready, []
        self._random.shuffle(turn)
        for handle in turn:
            try:
                handle.call()
            except Exception as error:
                self.fail(error)
        return bool(turn)

    def _let_time_pass(self) -> bool:
        """Move on to the next timer; tell whether there is one."""
        at = self.next_timer()
        if at < inf:
            self.clock.now = max(self.now(), at)
        return at < inf


def run(main: Callable[[Runtime], Awaitable[T]], *, seed: int = 0) -> T:
    """Run `main(runtime)` to its end in virtual time and return what it returned; see `Runtime.run`."""
    return Runtime(seed).run(main)
