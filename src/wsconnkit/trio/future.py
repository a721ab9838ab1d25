"""A value that one task waits for and another one brings."""

from __future__ import annotations

from typing import Generic, TypeVar

import outcome
import trio

T = TypeVar("T")


class Future(Generic[T]):
    """Decided once, with a value or an exception; what comes later is ignored."""

    __slots__ = ("_decided", "_outcome")

    def __init__(self) -> None:
        self._decided = trio.Event()
        self._outcome: outcome.Outcome[T] | None = None

    def set_result(self, value: T) -> None:
        """Bring the value."""
        self._decide(outcome.Value(value))

    def set_exception(self, error: Exception) -> None:
        """Bring the exception that `get` raises."""
        self._decide(outcome.Error(error))

    async def get(self) -> T:
        """Wait for the value."""
        await self._decided.wait()
        assert self._outcome is not None  # it was decided
        return self._outcome.unwrap()

    def _decide(self, decision: outcome.Outcome[T]) -> None:
        if self._outcome is None:
            self._outcome = decision
            self._decided.set()
