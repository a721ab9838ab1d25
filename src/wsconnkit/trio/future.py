"""A value that tasks wait for and another one brings."""

from __future__ import annotations

from typing import Generic, TypeVar

import trio

T = TypeVar("T")


class Future(Generic[T]):
    """Decided once, with a value or an exception; what comes later is ignored. Any number of tasks may `get` it."""

    __slots__ = ("_decided", "_error", "_value")

    _value: T

    def __init__(self) -> None:
        self._decided = trio.Event()
        self._error: Exception | None = None

    def set_result(self, value: T) -> None:
        """Bring the value."""
        if not self._decided.is_set():
            self._value = value
            self._decided.set()

    def set_exception(self, error: Exception) -> None:
        """Bring the exception that `get` raises."""
        if not self._decided.is_set():
            self._error = error
            self._decided.set()

    async def get(self) -> T:
        """Wait for the value."""
        await self._decided.wait()
        if self._error is not None:
            raise self._error
        return self._value
