"""What owns the tasks of a connection or a server, in a nursery of its own."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import trio

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup


class _Closable(Protocol):
    async def close(self) -> None: ...

    async def wait_closed(self) -> None: ...


T = TypeVar("T", bound=_Closable)


class _Run(NamedTuple):
    """What one block owns."""

    it: _Closable
    nursery: trio.Nursery
    manager: AbstractAsyncContextManager[trio.Nursery]


class Owner(ABC, Generic[T]):
    """Gives a connection or a server: `async with owner as it`, or `it = await nursery.start(owner.run)`.

    Each block has one of its own, also where blocks are nested, and those of several tasks.
    """

    _runs: tuple[_Run, ...] = ()

    @abstractmethod
    async def _begin(self, nursery: trio.Nursery) -> T:
        """Return what is given, with its tasks in `nursery`."""

    async def run(self, *, task_status: trio.TaskStatus[T] = trio.TASK_STATUS_IGNORED) -> None:
        """Run it to its end, for `nursery.start`, which returns it; cancelled, end it."""
        async with self as it:
            task_status.started(it)
            await it.wait_closed()

    async def __aenter__(self) -> T:
        manager = trio.open_nursery()
        nursery = await manager.__aenter__()
        try:
            it = await self._begin(nursery)
            self._runs += (_Run(it, nursery, manager),)
        except BaseException as error:
            nursery.cancel_scope.cancel()
            await _leave(manager, error)
            raise
        return it

    @trio.lowlevel.enable_ki_protection  # Ctrl-C comes where it waits
    async def __aexit__(self, exc_type: object, raised: BaseException | None, traceback: Any) -> None:
        task = trio.lowlevel.current_task()
        run = next(run for run in reversed(self._runs) if run.nursery.parent_task is task)
        self._runs = tuple(other for other in self._runs if other is not run)
        try:
            await run.it.close()
        except BaseException as error:
            run.nursery.cancel_scope.cancel()  # else it may wait for what nobody ends
            is_lesser = raised is not None and isinstance(error, trio.Cancelled)
            await _leave(run.manager, raised if is_lesser else error)
            if not is_lesser:
                raise
        else:
            await _leave(run.manager, raised)


async def _leave(manager: AbstractAsyncContextManager[trio.Nursery], raised: BaseException | None) -> None:
    """Wait for the end of the nursery; cancellations of its tasks do not replace what was `raised`."""
    try:
        # What was raised goes on as it is; a nursery that knew of it would wrap it in a group.
        await manager.__aexit__(None, None, None)
    except BaseExceptionGroup as group:
        if raised is None or group.split(trio.Cancelled)[1] is not None:
            raise
