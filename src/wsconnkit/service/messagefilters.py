"""Shows each message to filters before the application gets it."""

from __future__ import annotations

from collections.abc import Callable

from wsconnkit.protocol.events import Message

MessageFilter = Callable[["str | bytes"], bool]
"""Called with a message; True says that it was for the filter and not for the application."""


class MessageFilters:
    """Shows each message to `filters`, in their order, and passes on what none of them takes.

    A fragmented text is held until it is whole, at most `max_message_size` bytes; of a fragmented binary message the
    filters see the first frame, and it is passed on or dropped frame by frame.

    within: a message is under way, which the application has in part, so that it gets the rest.
    """

    def __init__(self, *, within: bool = False) -> None:
        self.filters: list[MessageFilter] = []
        self._held: list[Message] = []
        self._verdict = False if within else None
        """Whether the message under way was taken, where that is known; None between messages."""

    def apply(self, frame: Message) -> list[Message]:
        """Return the frames that the application may have now."""
        if isinstance(frame.data, bytes) or self._verdict is not None:
            taken = self._is_taken(frame.data) if self._verdict is None else self._verdict
            self._verdict = None if frame.final else taken
            return [] if taken else [frame]
        self._held.append(frame)
        if not frame.final:
            return []
        frames, self._held = self._held, []
        text = frame.data if len(frames) == 1 else "".join(str(held.data) for held in frames)
        return [] if self._is_taken(text) else frames

    def _is_taken(self, message: str | bytes) -> bool:
        return any(takes(message) for takes in self.filters)
