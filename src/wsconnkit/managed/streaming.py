"""A message frame by frame, for every event loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from typing_extensions import Self

from wsconnkit.protocol.events import Message


class MessageFrames:
    """Iterates over the frames of one message, as the peer fragmented it; `recv` skips those that are left.

    receive: returns the next frame; raises when there will be none.
    """

    __slots__ = ("_is_over", "_receive")

    def __init__(self, receive: Callable[[], Awaitable[Message]]) -> None:
        self._receive = receive
        self._is_over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str | bytes:
        if self._is_over:
            raise StopAsyncIteration
        frame = await self._receive()
        self._is_over = frame.final
        return frame.data
