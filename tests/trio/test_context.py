"""Blocks that own a connection or a server: how they begin and end, and what is raised there."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import trio

from wsconnkit.protocol.errors import LocalProtocolError
from wsconnkit.trio import ReconnectingClient, connect, serve
from wsconnkit.trio.context import NurseryContext
from wsconnkit.trio.runtime import Runtime

from .peers import Run, echo, info, uri

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup


class Resource:
    """Takes `seconds` to close, and raises `error` then."""

    def __init__(self, seconds: float = 0, error: BaseException | None = None) -> None:
        self._seconds = seconds
        self._error = error

    async def close(self) -> None:
        await trio.sleep(self._seconds)
        if self._error is not None:
            raise self._error

    async def wait_closed(self) -> None:
        await trio.sleep_forever()


class Owning(NurseryContext[Resource]):
    """Owns a resource, and a task for each of `tasks`."""

    def __init__(self, resource: Resource, *tasks: Any, error: Exception | None = None) -> None:
        self._resource = resource
        self._tasks = tasks
        self._error = error

    async def _begin(self, runtime: Runtime) -> Resource:
        for task in self._tasks:
            runtime.start(task)
        if self._error is not None:
            raise self._error
        return self._resource


async def linger() -> None:
    with trio.CancelScope(shield=True):
        await trio.sleep(1)
    await trio.sleep_forever()


# What is raised.


@pytest.mark.parametrize("tasks", [(), (linger,)], ids=["alone", "task"])
@pytest.mark.parametrize("error", [ValueError("a bug"), KeyboardInterrupt()])
def test_an_error_is_not_lost_where_its_block_is_cancelled(
    run_virtual: Run, tasks: tuple[Any, ...], error: BaseException
) -> None:
    async def main() -> None:
        with pytest.raises(type(error)) as caught, trio.move_on_after(1):
            async with Owning(Resource(10), *tasks):
                raise error
        assert caught.value is error

    run_virtual(main)


def test_an_error_in_the_beginning_is_not_lost_either(run_virtual: Run) -> None:
    async def main() -> None:
        error = ValueError("a bug")
        with pytest.raises(ValueError, match="a bug") as caught, trio.move_on_after(0):
            async with Owning(Resource(), linger, error=error):
                pass
        assert caught.value is error

    run_virtual(main)


@pytest.mark.parametrize("tasks", [(), (linger,)], ids=["alone", "task"])
def test_a_cancelled_block_is_cancelled(run_virtual: Run, tasks: tuple[Any, ...]) -> None:
    async def main() -> None:
        for within in (0, 5):
            with trio.move_on_after(1) as scope:
                async with Owning(Resource(10), *tasks):
                    await trio.sleep(within)
            assert scope.cancelled_caught

    run_virtual(main)


def test_errors_of_tasks_are_raised_also_where_the_block_is_cancelled(run_virtual: Run) -> None:
    async def fail() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ZeroDivisionError

    async def main() -> None:
        with pytest.raises(ExceptionGroup) as caught, trio.move_on_after(1):
            async with Owning(Resource(10), fail):
                raise ValueError("a bug")
        assert [type(each) for each in caught.value.exceptions] == [ZeroDivisionError]

    run_virtual(main)


@pytest.mark.parametrize("error", [ZeroDivisionError(), KeyboardInterrupt()], ids=repr)
def test_a_close_that_fails_leaves_nobody_waiting(run_virtual: Run, error: BaseException) -> None:
    async def main() -> None:
        start = trio.current_time()
        with pytest.raises(type(error)) as caught, trio.move_on_after(5):
            async with Owning(Resource(error=error), trio.sleep_forever):
                raise ValueError("less than that")
        assert caught.value is error
        assert trio.current_time() == start

    run_virtual(main)


# Several blocks.


def test_blocks_of_one_client_may_be_nested(run: Run) -> None:
    async def main() -> None:
        async with serve(echo, "127.0.0.1", 0) as server:
            client = connect(uri(server))
            async with client as outer:
                async with client as inner:
                    await inner.send("inner")
                    assert await inner.recv() == "inner"
                assert info(inner).clean
                await outer.send("outer")
                assert await outer.recv() == "outer"
            assert info(outer).clean

    run(main)


def test_blocks_of_one_client_may_be_in_several_tasks(run: Run) -> None:
    async def main() -> None:
        async with serve(echo, "127.0.0.1", 0) as server:
            client = connect(uri(server))

            async def use(text: str, task_status: trio.TaskStatus[trio.Event]) -> None:
                turn = trio.Event()
                async with client as ws:
                    task_status.started(turn)
                    await turn.wait()
                    await ws.send(text)
                    assert await ws.recv() == text
                assert info(ws).clean

            async with trio.open_nursery() as nursery:
                turns = [await nursery.start(use, text) for text in ("one", "two", "three")]
                for left, turn in enumerate(turns):  # not in the order in which nested blocks are left
                    while len(server.connections) != 3 - left:
                        await trio.sleep(0.001)
                    turn.set()

    run(main)


def test_blocks_of_one_server_may_be_nested(run: Run) -> None:
    async def main() -> None:
        serving = serve(echo, "127.0.0.1", 0)
        async with serving as outer:
            async with serving as inner:
                assert uri(inner) != uri(outer)
                async with connect(uri(inner)) as ws:
                    await ws.ping()
            async with connect(uri(outer)) as ws:
                await ws.ping()

    run(main)


def test_a_client_that_reconnects_has_one_block_and_a_second_one_leaves_it_alone(run: Run) -> None:
    async def main() -> None:
        async with serve(echo, "127.0.0.1", 0) as server, ReconnectingClient(uri(server)) as client:
            with pytest.raises(LocalProtocolError, match="has been started before"):
                async with client:
                    pass
            await client.send("still there")
            assert await client.recv() == "still there"

    run(main)
