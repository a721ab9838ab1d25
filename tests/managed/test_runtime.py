"""What every event loop must give to `managed`: one contract, for asyncio, uvloop, trio and the in-memory runtime."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing
import uvloop

import wsconnkit.asyncio.runtime
import wsconnkit.testing.runtime
import wsconnkit.trio.runtime
from wsconnkit.managed.runtime import Future, Runtime, TaskCancelled, TaskTimeout
from wsconnkit.testing.eventloop import VirtualTimeLoop

from ..watchdog import run_watched

Main = Callable[[Runtime], Awaitable[None]]
Run = Callable[[Main], None]

TICK = 0.02
"""Seconds that are long enough to be told apart where time is real."""


def on_asyncio(loop: asyncio.AbstractEventLoop, main: Main) -> None:
    async def with_runtime() -> None:
        await main(wsconnkit.asyncio.runtime.Runtime())

    try:
        if isinstance(loop, VirtualTimeLoop):
            run_watched(loop, with_runtime())
        else:
            loop.run_until_complete(with_runtime())
        loop.run_until_complete(asyncio.sleep(0))
        assert asyncio.all_tasks(loop) == set()
    finally:
        loop.close()


def on_trio(main: Main) -> None:
    async def with_nursery() -> None:
        async with trio.open_nursery() as nursery:
            await main(wsconnkit.trio.runtime.Runtime(nursery))
            nursery.cancel_scope.cancel()

    trio.run(with_nursery, clock=trio.testing.MockClock(autojump_threshold=0))


RUNS: dict[str, Run] = {
    "asyncio": lambda main: on_asyncio(VirtualTimeLoop(), main),
    "uvloop": lambda main: on_asyncio(uvloop.new_event_loop(), main),
    "trio": on_trio,
    "memory": lambda main: wsconnkit.testing.runtime.run(main),
}


@pytest.fixture(params=list(RUNS))
def run(request: pytest.FixtureRequest) -> Run:
    return RUNS[request.param]


async def turns(runtime: Runtime, count: int = 10) -> None:
    for _ in range(count):
        await runtime.sleep(0)


async def wait_for(future: Future) -> Any:
    return await future


class Ends:
    """Keeps how tasks end."""

    def __init__(self) -> None:
        self.outcomes: list[Any] = []

    def __call__(self, outcome: Any) -> None:
        self.outcomes.append(outcome)

    @property
    def types(self) -> list[type]:
        return [type(outcome) for outcome in self.outcomes]


# Futures and events.


def test_a_future_brings_its_outcome_before_and_after_somebody_waits(run: Run) -> None:
    async def main(runtime: Runtime) -> None:
        early, late = runtime.future(), runtime.future()
        assert not early.done()
        early.set_result("early")
        assert early.done()
        assert await early == "early"
        ends = Ends()
        runtime.start(wait_for, late, on_end=ends)
        await turns(runtime)
        assert ends.outcomes == []
        late.set_result("late")
        await turns(runtime)
        assert ends.outcomes == ["late"]

    run(main)


def test_a_future_whose_waiter_was_cancelled_is_done(run: Run) -> None:
    async def main(runtime: Runtime) -> None:
        future, ends = runtime.future(), Ends()
        task = runtime.start(wait_for, future, on_end=ends)
        await turns(runtime)
        assert not future.done()
        task.cancel()
        await turns(runtime)
        assert future.done()
        assert ends.types == [TaskCancelled]

    run(main)


def test_an_event_wakes_all_now_and_later(run: Run) -> None:
    async def main(runtime: Runtime) -> None:
        event, ends = runtime.event(), Ends()
        for _ in range(3):
            runtime.start(event.wait, on_end=ends)
        await turns(runtime)
        assert (event.is_set(), ends.outcomes) == (False, [])
        event.set()
        event.set()
        await event.wait()
        await turns(runtime)
        assert (event.is_set(), len(ends.outcomes)) == (True, 3)

    run(main)


def test_waiting_has_a_time_limit(run: Run) -> None:
    async def main(runtime: Runtime) -> None:
        event = runtime.event()
        start = runtime.now()
        assert not await runtime.wait(event, TICK)
        assert runtime.now() - start >= TICK * 0.99
        assert not await runtime.wait(event, 0)
        event.set()
        assert await runtime.wait(event, 0)
        assert await runtime.wait(event)

    run(main)


def test_a_cancellation_is_raised_at_once_or_with_a_shield_when_the_event_is_set(run: Run) -> None:
    async def main(runtime: Runtime) -> None:
        event = runtime.event()
        passed: list[str] = []

        async def wait(name: str, shield: bool) -> None:
            await runtime.wait(event, shield=shield)
            passed.append(name)
            await runtime.sleep(0)
            passed.append("not reached")

        plain, shielded = Ends(), Ends()
        tasks = [
            runtime.start(wait, "plain", False, on_end=plain),
            runtime.start(wait, "shielded", True, on_end=shielded),
        ]
        await turns(runtime)
        for task in tasks:
            task.cancel()
        await turns(runtime)
        assert (plain.types, shielded.types) == ([TaskCancelled], [])
        event.set()
        await turns(runtime)
        assert shielded.types == [TaskCancelled]
        assert "not reached" not in passed
        assert "plain" not in passed

    run(main)


# Alarms.


def test_an_alarm_rings_once_at_the_earliest_of_its_deadlines(run: Run) -> None:
    async def main(runtime: Runtime) -> None:
        rings: list[float] = []
        start = runtime.now()
        alarm = runtime.alarm(lambda: rings.append(runtime.now() - start))
        alarm.set(start + 4 * TICK)
        alarm.set(start + 2 * TICK)
        alarm.set(start + 3 * TICK)
        alarm.set(None)
        await runtime.sleep(6 * TICK)
        assert len(rings) == 1
        assert rings[0] >= 2 * TICK * 0.99
        alarm.set(runtime.now() + TICK)  # and again
        await runtime.sleep(3 * TICK)
        assert len(rings) == 2

    run(main)


def test_a_cancelled_alarm_does_not_ring_and_can_be_set_again(run: Run) -> None:
    async def main(runtime: Runtime) -> None:
        rings: list[str] = []
        alarm = runtime.alarm(lambda: rings.append("ring"))
        alarm.cancel()
        alarm.set(runtime.now() + TICK)
        await runtime.sleep(0)
        alarm.cancel()
        alarm.cancel()
        await runtime.sleep(3 * TICK)
        assert rings == []
        alarm.set(runtime.now())  # due already
        await runtime.sleep(TICK)
        assert rings == ["ring"]

    run(main)


# Tasks.


def test_nothing_of_a_task_runs_before_start_returns(run: Run) -> None:
    async def main(runtime: Runtime) -> None:
        seen: list[str] = []

        async def note() -> None:
            seen.append("task")

        runtime.start(note)
        seen.append("caller")
        await turns(runtime)
        assert seen == ["caller", "task"]

    run(main)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
def test_nothing_of_a_task_runs_before_start_returns_where_tasks_are_eager() -> None:
    async def main(runtime: Runtime) -> None:
        if sys.version_info >= (3, 12):
            asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        seen: list[str] = []

        async def note() -> None:
            seen.append("task")

        runtime.start(note)
        seen.append("caller")
        await turns(runtime)
        assert seen == ["caller", "task"]

    RUNS["asyncio"](main)


def test_the_end_of_a_task_is_told_once_with_what_it_returned_or_raised(run: Run) -> None:
    async def main(runtime: Runtime) -> None:
        async def give(value: object) -> object:
            return value

        async def fail() -> None:
            raise ValueError("no")

        good, bad = Ends(), Ends()
        runtime.start(give, 42, on_end=good, theirs=True, name="give")
        task = runtime.start(fail, on_end=bad, shield=True)
        await turns(runtime)
        task.cancel()
        await turns(runtime)
        assert good.outcomes == [42]
        assert bad.types == [ValueError]

    run(main)


def test_a_task_is_cancelled_before_it_began_while_it_waits_and_not_after_its_end(run: Run) -> None:
    async def main(runtime: Runtime) -> None:
        cleaned: list[str] = []

        async def wait(name: str) -> None:
            try:
                await runtime.event().wait()
            finally:
                cleaned.append(name)

        unborn, waiting, ended = Ends(), Ends(), Ends()
        runtime.start(wait, "unborn", on_end=unborn).cancel()
        task = runtime.start(wait, "waiting", on_end=waiting)
        over = runtime.start(runtime.sleep, 0, on_end=ended)
        await turns(runtime)
        for _ in range(2):
            task.cancel()
            over.cancel()
        await turns(runtime)
        assert (unborn.types, waiting.types, ended.outcomes) == ([TaskCancelled], [TaskCancelled], [None])
        assert "waiting" in cleaned

    run(main)


def test_a_task_whose_time_is_over_is_cancelled_and_tells_so(run: Run) -> None:
    async def main(runtime: Runtime) -> None:
        async def clean_up_badly() -> None:
            try:
                await runtime.event().wait()
            finally:
                raise KeyError

        late, in_time, worse = Ends(), Ends(), Ends()
        runtime.start(runtime.sleep, 100 * TICK, timeout=TICK, on_end=late)
        runtime.start(runtime.sleep, 0, timeout=100 * TICK, on_end=in_time)
        runtime.start(clean_up_badly, timeout=TICK, on_end=worse)
        await runtime.sleep(4 * TICK)
        assert (late.types, in_time.outcomes, worse.types) == ([TaskTimeout], [None], [KeyError])
        assert isinstance(late.outcomes[0], TimeoutError)

    run(main)


@pytest.mark.parametrize("how", ["call", "start"])
def test_the_timeouts_of_every_loop_come_out_as_the_built_in_one(run: Run, how: str) -> None:
    async def main(runtime: Runtime) -> None:
        own = trio.TooSlowError if isinstance(runtime, wsconnkit.trio.runtime.Runtime) else asyncio.TimeoutError

        async def late() -> None:
            raise own

        if isinstance(runtime, wsconnkit.testing.runtime.Runtime):
            return  # it has none of its own
        ends = Ends()
        if how == "call":
            with pytest.raises(TimeoutError):
                await runtime.call(late)
        else:
            runtime.start(late, on_end=ends)
            await turns(runtime)
            assert len(ends.outcomes) == 1
            assert isinstance(ends.outcomes[0], TimeoutError)

    run(main)


def test_a_call_of_the_application_returns_and_raises_as_it_does(run: Run) -> None:
    async def main(runtime: Runtime) -> None:
        async def double(value: int) -> int:
            return 2 * value

        async def fail() -> None:
            raise ValueError("no")

        assert await runtime.call(double, 21) == 42
        with pytest.raises(ValueError, match="no"):
            await runtime.call(fail)

    run(main)


def test_chance_and_the_clock_on_the_wall(run: Run) -> None:
    async def main(runtime: Runtime) -> None:
        numbers = {runtime.random() for _ in range(10)}
        assert len(numbers) == 10
        assert all(0 <= number < 1 for number in numbers)
        assert [len(runtime.random_bytes(size)) for size in (0, 4, 16)] == [0, 4, 16]
        assert runtime.random_bytes(16) != runtime.random_bytes(16)
        before = runtime.wall_now()
        await runtime.sleep(TICK)
        assert 0 < before <= runtime.wall_now()

    run(main)


def test_a_blocking_function_and_a_callback_from_elsewhere(run: Run) -> None:
    async def main(runtime: Runtime) -> None:
        assert runtime.is_running()
        called: list[str] = []
        runtime.call_soon_threadsafe(lambda: called.append("called"))
        assert called == []
        event = runtime.event()
        runtime.call_soon_threadsafe(event.set)
        await event.wait()
        assert called == ["called"]
        if not isinstance(runtime, wsconnkit.asyncio.runtime.Runtime | wsconnkit.trio.runtime.Runtime):
            assert await runtime.in_thread(lambda: 42) == 42

    run(main)


# Threads, which may last longer than the loop.


def whole_asyncio(main: Main) -> None:
    async def with_runtime() -> None:
        await main(wsconnkit.asyncio.runtime.Runtime())

    asyncio.run(with_runtime())


def whole_uvloop(main: Main) -> None:
    async def with_runtime() -> None:
        await main(wsconnkit.asyncio.runtime.Runtime())

    uvloop.run(with_runtime())


def whole_trio(main: Main) -> None:
    async def with_nursery() -> None:
        async with trio.open_nursery() as nursery:
            await main(wsconnkit.trio.runtime.Runtime(nursery))
            nursery.cancel_scope.cancel()

    trio.run(with_nursery)


on_whole_loops = pytest.mark.parametrize("run_whole", [whole_asyncio, whole_uvloop, whole_trio])


@on_whole_loops
def test_what_a_thread_returns_or_raises_is_handed_over(run_whole: Callable[[Main], None]) -> None:
    where = contextvars.ContextVar("where", default="nowhere")

    async def main(runtime: Runtime) -> None:
        where.set("here")
        assert await runtime.in_thread(where.get) == "here"
        assert await runtime.in_thread(threading.current_thread) is not threading.current_thread()
        with pytest.raises(ZeroDivisionError):
            await runtime.in_thread(lambda: 1 // 0)

    run_whole(main)


@pytest.mark.parametrize("how", ["cancelled", "left"])
@on_whole_loops
def test_a_loop_ends_though_a_thread_does_not(run_whole: Callable[[Main], None], how: str) -> None:
    begun, may_end, has_ended = threading.Event(), threading.Event(), threading.Event()

    def block() -> None:
        begun.set()
        may_end.wait(30)
        has_ended.set()

    async def main(runtime: Runtime) -> None:
        ends = Ends()
        task = runtime.start(runtime.in_thread, block, on_end=ends)
        while not begun.is_set():
            await runtime.sleep(0)
        if how == "cancelled":
            task.cancel()
            while not ends.types:
                await runtime.sleep(0)
            assert ends.types == [TaskCancelled]

    run_whole(main)
    assert not has_ended.is_set()
    may_end.set()  # and what it brings, after the end of the loop, troubles nobody
    assert has_ended.wait(30)


@on_whole_loops
def test_the_interpreter_ends_though_a_thread_does_not(run_whole: Callable[[Main], None]) -> None:
    code = f"""if True:
        import threading
        from tests.managed.test_runtime import {run_whole.__name__} as run

        async def main(runtime):
            begun = threading.Event()
            runtime.start(runtime.in_thread, lambda: begun.set() or threading.Event().wait(), on_end=lambda _: None)
            while not begun.is_set():
                await runtime.sleep(0)

        run(main)
    """
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


# What only structured loops have.


def test_on_trio_a_cancellation_around_leaves_what_is_shielded_and_all_ends_are_told() -> None:
    async def main() -> None:
        plain, shielded = Ends(), Ends()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                runtime = wsconnkit.trio.runtime.Runtime(nursery)
                runtime.start(trio.sleep, 5, on_end=plain)
                runtime.start(trio.sleep, 5, shield=True, on_end=shielded)
                await trio.sleep(1)
                scope.cancel()
        assert trio.current_time() == pytest.approx(start + 5)
        assert plain.types == [TaskCancelled]
        assert shielded.outcomes == [None]

    start = 0.0
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_on_trio_errors_beside_a_cancellation_are_the_outcome_and_the_cancellation_goes_on() -> None:
    async def main() -> None:
        ends = Ends()

        async def fail_when_cancelled() -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError

        async def both() -> None:
            async with trio.open_nursery() as inner:
                inner.start_soon(fail_when_cancelled)
                inner.start_soon(trio.sleep_forever)

        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                wsconnkit.trio.runtime.Runtime(nursery).start(both, on_end=ends)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        assert scope.cancelled_caught
        (outcome,) = ends.outcomes
        assert isinstance(outcome, Exception)
        assert not isinstance(outcome, TaskCancelled)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
