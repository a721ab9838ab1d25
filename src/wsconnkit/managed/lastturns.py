"""The turns that an application has to answer what came right before an end."""

from __future__ import annotations

from collections.abc import Callable

from wsconnkit.managed.transport import Transport

_TURNS = 4
"""Times that an application must have its turn to answer a message: to receive it, to send, and twice in between."""


class LastTurns:
    """Counts turns of the event loop, the same number on each.

    on_over: called when they are over.
    """

    __slots__ = ("_left", "_on_over")

    def __init__(self, on_over: Callable[[], None]) -> None:
        self._on_over = on_over
        self._left = 0

    def begin(self, transport: Transport, messages: int) -> None:
        """Count those in which so many messages can be answered; safe to repeat."""
        if self._left:
            return
        self._left = _TURNS * (messages + 1)

        def on_turn() -> None:
            self._left -= 1
            if self._left:
                transport.call_soon(on_turn)
            else:
                self._on_over()

        transport.call_soon(on_turn)
