"""Context managers with a nursery of their own: `async with it` for a block, or `nursery.start(it.run)`."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import trio

from wsconnkit.trio.runtime import Runtime

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup


class _Closable(Protocol):
    async def close(self) -> None: ...

    async def wait_closed(self) -> None: ...


T = TypeVar("T", bound=_Closable)


class _Block(NamedTuple):
    """What one block owns."""

    it: Any
    nursery: trio.Nursery
    manager: AbstractAsyncContextManager[trio.Nursery]


class NurseryContext(ABC, Generic[T]):
    """Gives a connection or a server: `async with context as it`, or `it = await nursery.start(context.run)`.

    Each block has one of its own, also where blocks are nested, and those of several tasks.
    """

    _blocks: tuple[_Block, ...] = ()

    @abstractmethod
    async def _begin(self, runtime: Runtime) -> T:
        """Return what is given, with its tasks in `runtime`."""

    async def _end(self, it: T, raised: BaseException | None) -> None:
        """End it at the end of a block, which may have raised."""
        await it.close()

    async def run(self, *, task_status: trio.TaskStatus[T] = trio.TASK_STATUS_IGNORED) -> None:
        """Run it to its end, for `nursery.start`, which returns it; cancelled, end it."""
        async with self as it:
            task_status.started(it)
            await it.wait_closed()

    async def __aenter__(self) -> T:
        manager = trio.open_nursery()
        nursery = await manager.__aenter__()
        try:
            it = await self._begin(Runtime(nursery))
            self._blocks += (_Block(it, nursery, manager),)
        except BaseException as error:
            nursery.cancel_scope.cancel()
            await _leave(manager, error)
            raise
        return it

    @trio.lowlevel.enable_ki_protection  # Ctrl-C comes where it waits
    async def __aexit__(self, exc_type: object, raised: BaseException | None, traceback: object) -> None:
        task = trio.lowlevel.current_task()
        block = next(block for block in reversed(self._blocks) if block.nursery.parent_task is task)
        self._blocks = tuple(other for other in self._blocks if other is not block)
        try:
            await self._end(block.it, raised)
        except BaseException as error:
            block.nursery.cancel_scope.cancel()  # else it may wait for what nobody ends
            is_lesser = raised is not None and isinstance(error, trio.Cancelled)
            await _leave(block.manager, raised if is_lesser else error)
            if not is_lesser:
                raise
        else:
            await _leave(block.manager, raised)


async def _leave(manager: AbstractAsyncContextManager[trio.Nursery], raised: BaseException | None) -> None:
    """Wait for the end of the nursery; cancellations of its tasks do not replace what was `raised`."""
    try:
        # What was raised goes on as it is; a nursery that knew of it would wrap it in a group.
        await manager.__aexit__(None, None, None)
    except BaseExceptionGroup as group:
        if raised is None or group.split(trio.Cancelled)[1] is not None:
            raise
