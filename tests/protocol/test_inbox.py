from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from wsconnkit.protocol.config import OVERHEAD, QueueConfig
from wsconnkit.protocol.events import Message
from wsconnkit.protocol.inbox import Inbox


def make(*, max_messages: int = 256, max_bytes: int = 1 << 20) -> Inbox:
    return Inbox(QueueConfig(max_messages=max_messages, max_bytes=max_bytes))


def room(frames: int, size: int) -> int:
    """The bytes that so many frames take that have `size` bytes together."""
    return frames * OVERHEAD + size


def frame(data: str | bytes, *, final: bool = True) -> Message:
    return Message(data, len(data.encode() if isinstance(data, str) else data), final)


def test_an_empty_inbox_has_nothing_to_give() -> None:
    inbox = make()
    assert inbox.get_message() is None
    assert inbox.get_frame() is None
    assert (inbox.messages, inbox.full, inbox.low) == (0, False, True)
    assert (inbox.size, inbox.is_unfinished) == (0, False)


def test_messages_come_out_in_order_with_their_types() -> None:
    inbox = make()
    for data in ("text", b"bytes", "", b""):
        inbox.put(frame(data))
    assert [inbox.get_message() for _ in range(5)] == ["text", b"bytes", "", b"", None]


def test_fragments_become_one_message() -> None:
    inbox = make()
    for data, final in (("a", False), ("é", False), ("", True), (b"x", False), (b"y", True)):
        inbox.put(frame(data, final=final))
    assert inbox.messages == 2
    assert inbox.get_message() == "aé"
    assert inbox.get_message() == b"xy"


def test_an_unfinished_message_is_not_given_as_a_message_but_frame_by_frame() -> None:
    inbox = make()
    inbox.put(frame(b"a", final=False))
    assert inbox.get_message() is None
    assert inbox.get_frame() == frame(b"a", final=False)
    assert inbox.get_frame() is None


def test_the_rest_of_a_message_begun_frame_by_frame_is_dropped_before_the_next_message() -> None:
    inbox = make()
    inbox.put(frame(b"a", final=False))
    assert inbox.get_frame() is not None
    inbox.put(frame(b"b", final=False))
    assert inbox.get_message() is None  # its last frame is still to come, and goes with the rest
    inbox.put(frame(b"c"))
    inbox.put(frame(b"next"))
    assert inbox.get_message() == b"next"
    assert (inbox.messages, inbox.full, inbox.low) == (0, False, True)


def test_a_message_has_its_size_in_bytes_once_it_is_whole() -> None:
    inbox = make()
    assert [inbox.put(frame(data)) for data in ("é", b"abc", "", b"")] == [2, 3, 0, 0]
    fragments: list[tuple[str | bytes, bool]] = [("é", False), ("", False), ("a", True), (b"", False), (b"x", True)]
    assert [inbox.put(frame(data, final=final)) for data, final in fragments] == [None, None, 3, None, 1]


def test_the_size_of_a_message_counts_its_frames_that_were_taken_before_it_was_whole() -> None:
    inbox = make()
    for data in (b"a", b"bb"):
        assert inbox.put(frame(data, final=False)) is None
        assert inbox.get_frame() is not None
    assert inbox.put(frame(b"cccc", final=False)) is None
    assert inbox.get_message() is None  # which drops what was not taken
    assert inbox.put(frame(b"dddddddd")) == 15
    assert inbox.put(frame(b"next")) == 4


def test_a_message_is_unfinished_until_its_last_frame_is_put_whatever_was_taken() -> None:
    inbox = make()
    seen = []
    for data, final in ((b"whole", True), (b"", False), (b"a", False), (b"", True), (b"b", False)):
        inbox.put(frame(data, final=final))
        seen.append(inbox.is_unfinished)
    assert seen == [False, True, True, False, True]
    while inbox.get_frame() is not None:
        assert inbox.is_unfinished


def test_frames_without_payload_take_room_too() -> None:
    # A peer that sends 2 bytes for each would otherwise make us hold a thousand objects for each message.
    inbox = make()
    frames = 0
    while not inbox.full:
        for final in [False] * 1023 + [True]:
            inbox.put(frame(b"", final=final))
        frames += 1024
    assert inbox.size == frames * OVERHEAD
    assert frames == (1 << 20) // OVERHEAD
    while inbox.messages:
        assert inbox.get_message() == b""
    assert (inbox.size, inbox.full, inbox.low) == (0, False, True)


def test_the_size_is_that_of_all_that_waits_whole_or_not() -> None:
    inbox = make()
    sizes = []
    for data, final in (("é", True), (b"abc", False), (b"d", False), (b"e", True), (b"fg", False)):
        inbox.put(frame(data, final=final))
        sizes.append(inbox.size)
    assert sizes == [room(1, 2), room(2, 5), room(3, 6), room(4, 7), room(5, 9)]
    assert inbox.get_message() == "é"
    sizes = [inbox.size]
    while inbox.get_frame() is not None:
        sizes.append(inbox.size)
    assert sizes == [room(4, 7), room(3, 4), room(2, 3), room(1, 2), 0]


def test_full_at_either_limit_and_low_at_half_of_both() -> None:
    by_count = make(max_messages=4)
    by_size = make(max_bytes=room(4, 8))
    for _ in range(4):
        assert not by_count.full
        assert not by_size.full
        by_count.put(frame(b""))
        by_size.put(frame(b"xx"))
    assert by_count.full
    assert by_size.full
    for inbox in (by_count, by_size):
        inbox.get_message()
        assert (inbox.full, inbox.low) == (False, False)
        inbox.get_message()
        assert (inbox.full, inbox.low) == (False, True)


def test_an_inbox_for_one_message_is_low_only_when_empty() -> None:
    inbox = make(max_messages=1, max_bytes=1)
    inbox.put(frame(b""))
    assert (inbox.full, inbox.low) == (True, False)
    inbox.get_message()
    assert (inbox.full, inbox.low) == (False, True)


def test_an_unfinished_message_never_makes_it_full() -> None:
    # Pausing on it would wait for a last frame that could then never arrive.
    inbox = make(max_messages=1, max_bytes=1)
    for _ in range(5):
        inbox.put(frame(b"xxxx", final=False))
        assert (inbox.full, inbox.low) == (False, True)
    inbox.put(frame(b""))
    assert inbox.full


def test_an_unfinished_message_that_is_taken_frame_by_frame_makes_it_full() -> None:
    # It may be longer than all memory: each frame that the application takes makes room for the next.
    inbox = make(max_messages=1, max_bytes=room(4, 8))
    inbox.put(frame(b"xxxx", final=False))
    assert (inbox.full, inbox.low) == (False, True)
    assert inbox.get_frame() == frame(b"xxxx", final=False)
    seen = []
    for data in (b"xxx", b"xx", b"x", b"xx"):
        inbox.put(frame(data, final=False))
        seen.append((inbox.full, inbox.low))
    assert seen == [(False, True), (False, False), (False, False), (True, False)]
    assert inbox.messages == 0
    seen = []
    while inbox.get_frame() is not None:
        seen.append((inbox.full, inbox.low))
    assert seen == [(False, False)] + [(False, True)] * 3  # half of it is left
    inbox.put(frame("é" * 2, final=False))
    inbox.put(frame("é" * (3 * OVERHEAD // 2 + 2), final=False))
    assert inbox.full  # bytes count, not characters


def test_waiting_bytes_begin_to_count_with_the_first_frame_taken() -> None:
    inbox = make(max_bytes=room(4, 16))
    for _ in range(5):
        inbox.put(frame(b"xxxx", final=False))
    assert (inbox.full, inbox.low) == (False, True)
    inbox.get_frame()
    assert (inbox.full, inbox.low) == (True, False)
    # The rest of it goes as a whole, and with it what it counted, finished or not.
    assert inbox.get_message() is None
    assert (inbox.full, inbox.low) == (False, True)
    inbox.put(frame(b"x" * room(3, 16), final=False))
    assert inbox.full
    inbox.put(frame(b""))
    inbox.put(frame(b"next", final=False))
    assert inbox.get_message() is None
    assert (inbox.full, inbox.low) == (False, True)


def test_only_the_message_that_is_being_taken_counts_before_it_is_whole() -> None:
    inbox = make(max_bytes=room(2, 8))
    inbox.put(frame(b"a", final=False))
    inbox.get_frame()
    inbox.put(frame(b"bb"))
    inbox.put(frame(b"x" * 1000, final=False))  # of the next message, of which nothing is taken yet
    assert (inbox.messages, inbox.full, inbox.low) == (1, False, True)
    assert inbox.get_frame() == frame(b"bb")
    assert (inbox.messages, inbox.full, inbox.low) == (0, False, True)
    inbox.put(frame(b"x" * room(1, 8), final=False))
    inbox.get_frame()
    assert (inbox.messages, inbox.full, inbox.low) == (0, True, False)


def test_the_last_frame_of_a_message_being_taken_keeps_what_it_counts() -> None:
    inbox = make(max_bytes=room(2, 8))
    inbox.put(frame(b"a", final=False))
    inbox.get_frame()
    inbox.put(frame(b"x" * 6, final=False))
    assert (inbox.full, inbox.low) == (False, False)
    inbox.put(frame(b"xx"))
    assert (inbox.messages, inbox.full, inbox.low) == (1, True, False)
    inbox.get_frame()
    assert (inbox.messages, inbox.full, inbox.low) == (1, False, True)
    inbox.get_frame()
    assert (inbox.messages, inbox.full, inbox.low) == (0, False, True)


class InboxAgainstModel(RuleBasedStateMachine):
    """The model keeps whole lists of frames and counts them anew each time."""

    def __init__(self) -> None:
        super().__init__()
        self.inbox = make(max_messages=4, max_bytes=room(4, 16))
        self.model: list[list[Message]] = []
        self.within = False
        self.open: str | bytes | None = None  # of the type of the message that is not finished
        self.put_size = 0  # of that message

    def whole(self) -> list[list[Message]]:
        return self.model[:-1] if self.open is not None else self.model

    @rule(size=st.integers(0, 7), final=st.booleans(), text=st.booleans())
    def put(self, size: int, final: bool, text: bool) -> None:
        first = self.open is None
        is_text = text if first else isinstance(self.open, str)
        data: str | bytes = "é" * size if is_text else b"x" * size
        if first:
            self.model.append([])
            self.put_size = 0
        self.model[-1].append(frame(data, final=final))
        self.open = None if final else data
        self.put_size += len(data) * (2 if is_text else 1)
        assert self.inbox.put(frame(data, final=final)) == (self.put_size if final else None)

    @rule()
    def get_frame(self) -> None:
        expected = None
        if self.model and self.model[0]:
            expected = self.model[0].pop(0)
            self.within = not expected.final
            if expected.final:
                del self.model[0]
        assert self.inbox.get_frame() == expected

    @rule()
    def get_message(self) -> None:
        if self.within:
            if self.whole():
                del self.model[0]
                self.within = False
            else:
                self.model[0].clear()
        expected: str | bytes | None = None
        if self.whole():
            parts = [part.data for part in self.model.pop(0)]
            text = [part for part in parts if isinstance(part, str)]
            expected = "".join(text) if text else b"".join(part for part in parts if isinstance(part, bytes))
        assert self.inbox.get_message() == expected

    @precondition(lambda self: self.inbox.full)
    @rule()
    def drain(self) -> None:
        while self.model:
            before = len(self.model)
            self.get_message()
            if len(self.model) == before:
                break
        assert self.inbox.low

    @invariant()
    def counts_agree(self) -> None:
        count = len(self.whole())
        counted = self.whole()
        if self.within and not counted:
            counted = self.model  # the application takes the message that is not finished, frame by frame
        size = sum(part.size + OVERHEAD for message in counted for part in message)
        assert self.inbox.messages == count
        assert self.inbox.size == sum(part.size + OVERHEAD for message in self.model for part in message)
        assert self.inbox.is_unfinished is (self.open is not None)
        assert self.inbox.full is (count >= 4 or size >= room(4, 16))
        assert self.inbox.low is (count <= 2 and size <= room(2, 8))
        assert not (self.inbox.full and self.inbox.low)


def test_agrees_with_a_naive_model_whatever_the_order_of_calls() -> None:
    run_state_machine_as_test(
        InboxAgainstModel, settings=settings(max_examples=100, stateful_step_count=40, deadline=None)
    )
