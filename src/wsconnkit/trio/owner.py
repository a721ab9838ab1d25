"""What owns the tasks of a connection or a server, in a nursery of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from copy import copy
from typing import Generic, Protocol, TypeVar

import trio


class _Closable(Protocol):
    async def close(self) -> None: ...

    async def wait_closed(self) -> None: ...


T = TypeVar("T", bound=_Closable)


class Owner(ABC, Generic[T]):
    """Gives a connection or a server: `async with owner as it`, or `it = await nursery.start(owner.run)`."""

    @abstractmethod
    async def _begin(self, nursery: trio.Nursery) -> T:
        """Return what is given, with its tasks in `nursery`."""

    async def run(self, *, task_status: trio.TaskStatus[T] = trio.TASK_STATUS_IGNORED) -> None:
        """Run it to its end, for `nursery.start`, which returns it; cancelled, end it."""
        async with copy(self) as it:  # for each run what it owns
            task_status.started(it)
            await it.wait_closed()

    async def __aenter__(self) -> T:
        self._manager = trio.open_nursery()
        nursery = await self._manager.__aenter__()
        try:
            self._it = await self._begin(nursery)
        except BaseException:
            nursery.cancel_scope.cancel()
            await self._manager.__aexit__(None, None, None)
            raise
        return self._it

    async def __aexit__(self, *exc: object) -> None:
        try:
            await self._it.close()
        finally:
            # What the block raised goes on as it is; a nursery that knew of it would wrap it in a group.
            await self._manager.__aexit__(None, None, None)
