"""Who has read more than fits into one pass of the event loop: a queue, and one budget a pass for all in it.

A budget for each connection would not do: ten that flood us would take ten of them before anybody else has a turn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

FRAME_COST = 4096
"""Bytes of payload that cost as much time as a frame does by itself: control frames and empty ones are not free."""
_BUDGET = 32 * FRAME_COST
"""What may be done of a read at once, and in a pass for the only one in the queue."""
_BUDGET_OF_MANY = 8 * FRAME_COST
"""The same while others wait, and in a pass for all in the queue together: whoever does not flood waits for that."""


class RunQueue:
    """Gives turns to whoever asks for one, in that order, as many a pass as the budget allows, but one at least.

    call_soon: has a function called in the next pass.
    """

    def __init__(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        self.budget: int = _BUDGET
        """What may be done at once, without a turn."""
        self._call_soon = call_soon
        self._turns: deque[Callable[[int], int]] = deque()
        self._is_scheduled = False

    def add(self, turn: Callable[[int], int]) -> None:
        """Have `turn(budget)` called once; it returns what it left of the budget."""
        self._turns.append(turn)
        self._schedule()

    def _schedule(self) -> None:
        self.budget = _BUDGET_OF_MANY if self._turns else _BUDGET
        if self._turns and not self._is_scheduled:
            self._is_scheduled = True
            self._call_soon(self._run)

    def _run(self) -> None:
        self._is_scheduled = False
        waiting = len(self._turns)
        budget = max(_BUDGET // waiting, _BUDGET_OF_MANY)
        try:
            for _ in range(waiting):  # whoever comes back waits for the next pass
                budget = self._turns.popleft()(budget)
                if budget <= 0:
                    break
        finally:
            self._schedule()
