"""Awaitable context managers: `async with it` for a block, or `await it` for as long as one likes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator
from typing import Any, Generic, Protocol, TypeVar

from wsconnkit.asyncio.runtime import Runtime


class _Closable(Protocol):
    async def close(self) -> None: ...


T = TypeVar("T", bound=_Closable)


class AwaitableContext(ABC, Generic[T]):
    """Gives a connection or a server: `async with context as it`, or `it = await context`.

    One block at a time: nothing tells which of several in different tasks is left.
    """

    _is_entered = False
    _it: T

    @abstractmethod
    async def _begin(self, runtime: Runtime) -> T:
        """Return what is given."""

    async def _end(self, it: T, raised: BaseException | None) -> None:
        """End it at the end of a block, which may have raised."""
        await it.close()

    def __await__(self) -> Generator[Any, None, T]:
        return self._begin(Runtime()).__await__()

    async def __aenter__(self) -> T:
        if self._is_entered:
            name = type(self).__name__
            raise RuntimeError(f"this {name} is in an `async with` already; call {name} again for another one")
        self._is_entered = True
        try:
            self._it = await self._begin(Runtime())
        except BaseException:
            self._is_entered = False
            raise
        return self._it

    async def __aexit__(self, exc_type: object, raised: BaseException | None, traceback: object) -> None:
        try:
            await self._end(self._it, raised)
        finally:
            self._is_entered = False
