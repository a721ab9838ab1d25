from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import pytest

from wsconnkit.managed.streaming import MessageFrames
from wsconnkit.protocol.events import Message


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Return what a coroutine returns that waits for nothing."""
    with pytest.raises(StopIteration) as returned:
        coroutine.send(None)
    return returned.value.value


class Frames:
    """Gives frames, and then the end."""

    def __init__(self, *frames: Message) -> None:
        self.left = list(frames)

    async def __call__(self) -> Message:
        if not self.left:
            raise EOFError
        return self.left.pop(0)


def test_it_ends_with_the_final_frame_and_leaves_those_of_the_next_message() -> None:
    async def main() -> None:
        frames = Frames(Message("a", 1, False), Message("b", 1, True), Message("c", 1, True))
        message = MessageFrames(frames)
        assert [data async for data in message] == ["a", "b"]
        assert [data async for data in message] == []
        assert [frame.data for frame in frames.left] == ["c"]

    run(main())


def test_left_early_it_goes_on_where_it_was() -> None:
    async def main() -> None:
        message = MessageFrames(Frames(Message(b"a", 1, False), Message(b"b", 1, True)))
        async for data in message:
            assert data == b"a"
            break
        assert [data async for data in message] == [b"b"]

    run(main())


def test_the_end_of_the_connection_goes_on_to_whoever_iterates() -> None:
    async def main() -> None:
        message = MessageFrames(Frames(Message("a", 1, False)))
        assert await message.__anext__() == "a"
        with pytest.raises(EOFError):
            await message.__anext__()

    run(main())
