"""Looks at each message before the application gets it."""

from __future__ import annotations

from collections.abc import Callable

from wsconnkit.protocol.events import Message

Judge = Callable[["str | bytes"], bool]
"""Called with a message; True says that it was for the judge and not for the application."""


class Screen:
    """Shows each message to `judges`, in their order, and passes on what none of them takes.

    A fragmented text is held until it is whole, at most `max_message_size` bytes; a fragmented binary message is judged
    by its first frame, and passed on or dropped frame by frame.
    """

    def __init__(self) -> None:
        self.judges: list[Judge] = []
        self._held: list[Message] = []
        self._verdict: bool | None = None
        """Whether the binary message under way was taken; None between messages."""

    def pass_on(self, frame: Message) -> list[Message]:
        """Return the frames that the application may have now."""
        if isinstance(frame.data, bytes):
            if self._verdict is None:
                self._verdict = self._is_taken(frame.data)
            taken = self._verdict
            if frame.final:
                self._verdict = None
            return [] if taken else [frame]
        self._held.append(frame)
        if not frame.final:
            return []
        frames, self._held = self._held, []
        text = frame.data if len(frames) == 1 else "".join(str(held.data) for held in frames)
        return [] if self._is_taken(text) else frames

    def _is_taken(self, message: str | bytes) -> bool:
        return any(judge(message) for judge in self.judges)
