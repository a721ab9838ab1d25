"""What owns a connection or a server for a block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator
from typing import Any, Generic, Protocol, TypeVar


class _Closable(Protocol):
    async def close(self) -> None: ...


T = TypeVar("T", bound=_Closable)


class Owner(ABC, Generic[T]):
    """Gives a connection or a server: `async with owner as it`, or `it = await owner`.

    One block at a time: nothing tells which of several in different tasks is left.
    """

    _is_entered = False
    _it: T

    @abstractmethod
    async def _begin(self) -> T:
        """Return what is given."""

    def __await__(self) -> Generator[Any, None, T]:
        return self._begin().__await__()

    async def __aenter__(self) -> T:
        if self._is_entered:
            name = type(self).__name__
            raise RuntimeError(f"this {name} is in an `async with` already; call {name} again for another one")
        self._is_entered = True
        try:
            self._it = await self._begin()
        except BaseException:
            self._is_entered = False
            raise
        return self._it

    async def __aexit__(self, *exc: object) -> None:
        try:
            await self._it.close()
        finally:
            self._is_entered = False
