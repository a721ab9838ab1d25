from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsconnkit.protocol.config import QueueConfig
from wsconnkit.protocol.connection import ConnectionProtocol
from wsconnkit.protocol.events import Message
from wsconnkit.protocol.frames import Role
from wsconnkit.protocol.inbox import Inbox
from wsconnkit.service.messagefilters import MessageFilter, MessageFilters

SETTINGS = settings(deadline=None)

Parts = list[str] | list[bytes]


def fragments(parts: Sequence[str | bytes]) -> list[Message]:
    """Return the frames of one message."""
    last = len(parts) - 1
    return [
        Message(part, len(part.encode() if isinstance(part, str) else part), at == last)
        for at, part in enumerate(parts)
    ]


def whole(parts: Sequence[str | bytes]) -> str | bytes:
    """Return the message that `parts` make."""
    inbox = Inbox(QueueConfig())
    for frame in fragments(parts):
        inbox.put(frame)
    message = inbox.get_message()
    assert message is not None
    return message


def filters_of(*members: MessageFilter, within: bool = False) -> MessageFilters:
    filters = MessageFilters(within=within)
    filters.filters += members
    return filters


def passed(filters: MessageFilters, *frames: Message) -> list[Message]:
    return [frame for given_frame in frames for frame in filters.apply(given_frame)]


class Recorder:
    """A filter that takes what `takes` says, and remembers what it was shown."""

    def __init__(self, takes: Callable[[str | bytes], bool] = lambda _: False) -> None:
        self.seen: list[str | bytes] = []
        self._takes = takes

    def __call__(self, message: str | bytes) -> bool:
        self.seen.append(message)
        return self._takes(message)


@pytest.mark.parametrize("data", ["hello", b"hello", "", b""])
def test_without_a_filter_every_message_is_passed_on(data: str | bytes) -> None:
    frame = Message(data, len(data))
    assert MessageFilters().apply(frame) == [frame]


@pytest.mark.parametrize("data", ["hello", b"hello", "", b""])
def test_a_message_that_a_filter_takes_is_not_passed_on(data: str | bytes) -> None:
    message_filter = Recorder(lambda _: True)
    assert filters_of(message_filter).apply(Message(data, len(data))) == []
    assert message_filter.seen == [data]


def test_the_filters_are_asked_in_order_until_one_takes_the_message() -> None:
    first, second, third = Recorder(), Recorder(lambda message: message == "b"), Recorder()
    filters = filters_of(first, second, third)
    frames = [*fragments(["a"]), *fragments(["b"]), *fragments([b"c"])]
    assert passed(filters, *frames) == [frames[0], frames[2]]
    assert first.seen == second.seen == ["a", "b", b"c"]
    assert third.seen == ["a", b"c"]


def test_a_fragmented_text_is_held_until_it_is_whole_and_then_filtered_once() -> None:
    message_filter = Recorder()
    filters = filters_of(message_filter)
    frames = fragments(["", "häl", "", "lo", ""])
    assert passed(filters, *frames[:-1]) == []
    assert message_filter.seen == []
    assert filters.apply(frames[-1]) == frames
    assert message_filter.seen == ["hällo"]


def test_a_fragmented_text_that_is_taken_is_gone_whole() -> None:
    filters = filters_of(lambda message: message == "mine")
    assert passed(filters, *fragments(["mi", "ne"])) == []
    other = fragments(["mi", "ne", "!"])
    assert passed(filters, *other) == other


def test_a_fragmented_binary_message_is_filtered_by_its_first_frame_and_passed_on_frame_by_frame() -> None:
    message_filter = Recorder(lambda message: message == b"mine")
    filters = filters_of(message_filter)
    other = fragments([b"your", b"mine", b"mine"])
    assert [filters.apply(frame) for frame in other] == [[frame] for frame in other]
    assert message_filter.seen == [b"your"]
    assert passed(filters, *fragments([b"mine", b"your", b"your"])) == []
    assert message_filter.seen == [b"your", b"mine"]


def test_the_verdict_on_a_binary_message_ends_with_it() -> None:
    filters = filters_of(lambda message: message == b"mine")
    frames = [*fragments([b"mine", b"1"]), *fragments([b"2"]), *fragments([b"mine"]), *fragments([b"3", b"4"])]
    assert [frame.data for frame in passed(filters, *frames)] == [b"2", b"3", b"4"]


def test_an_empty_first_frame_of_a_binary_message_is_what_is_filtered() -> None:
    message_filter = Recorder(lambda message: message == b"mine")
    frames = fragments([b"", b"mine"])
    assert passed(filters_of(message_filter), *frames) == frames
    assert message_filter.seen == [b""]


def test_a_filter_that_comes_during_a_text_has_its_say_at_its_end() -> None:
    filters = MessageFilters()
    filters.apply(Message("he", 2, final=False))
    late = Recorder(lambda _: True)
    filters.filters.append(late)
    assert filters.apply(Message("llo", 3)) == []
    assert late.seen == ["hello"]


@pytest.mark.parametrize("is_taken", [False, True])
def test_a_filter_that_comes_during_a_binary_message_does_not_change_what_became_of_it(is_taken: bool) -> None:
    filters = filters_of(lambda message: is_taken and message == b"he")
    first, last = fragments([b"he", b"llo"])
    assert filters.apply(first) == ([] if is_taken else [first])
    late = Recorder(lambda _: not is_taken)
    filters.filters[:] = [late]
    assert filters.apply(last) == ([] if is_taken else [last])
    assert late.seen == []
    assert passed(filters, last) == ([last] if is_taken else [])
    assert late.seen == [b"llo"]


def test_a_filter_may_bring_another_one_along() -> None:
    filters = MessageFilters()
    newcomer = Recorder()

    def host(message: str | bytes) -> bool:
        if newcomer not in filters.filters:
            filters.filters.append(newcomer)
        return message == "mine"

    filters.filters.append(host)
    assert passed(filters, *fragments(["mine"])) == []
    assert newcomer.seen == []
    assert passed(filters, *fragments(["yours"])) == fragments(["yours"])
    assert newcomer.seen == ["yours"]


def test_what_is_held_when_the_connection_ends_is_of_no_message_and_is_not_passed_on() -> None:
    client = ConnectionProtocol(Role.CLIENT, now=0.0)
    server = ConnectionProtocol(Role.SERVER, now=0.0)
    client.send("whole", 0.0)
    client.send("ha", 0.0, final=False)
    client.send("lf", 0.0, final=False)
    client.close(1000, "", 0.0)
    server.receive_data(client.data_to_send(), 0.0)
    filters = MessageFilters()
    events = [*server.events()]
    server.handle_timeout(0.0)
    server.receive_eof(0.0)
    events += server.events()
    frames = [event for event in events if isinstance(event, Message)]
    assert [frame.data for frame in frames] == ["whole", "ha", "lf"]
    assert passed(filters, *frames) == frames[:1]


@pytest.mark.parametrize("parts", [["mi", "ne"], ["", "mi", "", "ne", ""], [b"mi", b"ne"], [b"", b"mine", b""]])
@pytest.mark.parametrize("is_taken", [False, True])
def test_of_a_message_that_the_application_has_in_part_it_gets_the_rest(parts: Parts, is_taken: bool) -> None:
    message_filter = Recorder(lambda _: is_taken)
    filters = filters_of(message_filter, within=True)
    rest = fragments(parts)
    assert [filters.apply(frame) for frame in rest] == [[frame] for frame in rest]
    assert message_filter.seen == []
    following = [*fragments(["mi", "ne"]), *fragments([b"mine"])]
    assert passed(filters, *following) == ([] if is_taken else following)
    assert message_filter.seen == ["mine", b"mine"]


parts = st.lists(st.text(max_size=5), min_size=1, max_size=4) | st.lists(st.binary(max_size=5), min_size=1, max_size=4)
verdicts = st.lists(st.booleans(), max_size=3)


@SETTINGS
@given(st.lists(st.tuples(parts, verdicts), max_size=8))
def test_the_frames_of_all_messages_that_no_filter_takes_are_passed_on_in_order(
    messages: list[tuple[Parts, list[bool]]],
) -> None:
    saying: list[bool] = []
    asked = 0

    def filter_at(index: int) -> MessageFilter:
        def message_filter(_: str | bytes) -> bool:
            nonlocal asked
            asked += 1
            return index < len(saying) and saying[index]

        return message_filter

    filters = filters_of(*map(filter_at, range(3)))
    for message, saying in messages:
        frames = fragments(message)
        asked = 0
        out = [filters.apply(frame) for frame in frames]
        # All of it or nothing, and by its last frame nothing is held any more.
        assert [frame for some in out for frame in some] == ([] if any(saying) else frames)
        assert asked == (saying.index(True) + 1 if any(saying) else 3)
        if isinstance(message[0], str):
            assert out[:-1] == [[]] * (len(frames) - 1)


@st.composite
def cuttings(draw: st.DrawFn) -> tuple[str, list[str], list[str]]:
    """Give a text, and two ways to cut it in parts."""
    text = draw(st.text(max_size=12))

    def parts_of() -> Iterator[str]:
        cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=4)))
        for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
            yield text[start:end]

    return text, list(parts_of()), list(parts_of())


@SETTINGS
@given(st.lists(cuttings(), max_size=6), st.lists(st.sets(st.text(max_size=12)), max_size=3))
def test_how_a_text_is_fragmented_does_not_change_what_is_said_of_it(
    texts: list[tuple[str, list[str], list[str]]], wanted: list[set[str]]
) -> None:
    def run(messages: Iterable[list[str]]) -> tuple[list[list[str | bytes]], list[str | bytes]]:
        recorders = [Recorder(some.__contains__) for some in wanted]
        filters, inbox = filters_of(*recorders), Inbox(QueueConfig())
        for message in messages:
            for frame in passed(filters, *fragments(message)):
                inbox.put(frame)
        return [recorder.seen for recorder in recorders], list(iter(inbox.get_message, None))

    seen, kept = run(one_way for _, one_way, _ in texts)
    seen_too, kept_too = run(other_way for _, _, other_way in texts)
    assert seen == seen_too
    assert kept == kept_too == [text for text, _, _ in texts if not any(text in some for some in wanted)]


@SETTINGS
@given(st.lists(parts, max_size=5), st.integers(0, 20))
def test_a_filter_that_comes_at_any_time_sees_what_begins_from_then_on_and_loses_nothing(
    messages: list[Parts], before: int
) -> None:
    message_filter = Recorder()
    inbox, filters = Inbox(QueueConfig()), MessageFilters()
    begun = at = 0
    for message in messages:
        begun += at < before
        for frame in fragments(message):
            if at == before:
                filters = filters_of(message_filter, within=inbox.is_unfinished)
            for passed_on in filters.apply(frame) if at >= before else [frame]:
                inbox.put(passed_on)
            at += 1
    assert message_filter.seen == [whole(some) if isinstance(some[0], str) else some[0] for some in messages[begun:]]
    assert list(iter(inbox.get_message, None)) == [whole(message) for message in messages]


@SETTINGS
@given(st.lists(parts, max_size=5), st.integers(1, 40))
def test_messages_go_through_whole_however_they_were_read(messages: list[Parts], chunk: int) -> None:
    client = ConnectionProtocol(Role.CLIENT, now=0.0, random_bytes=bytes)
    server = ConnectionProtocol(Role.SERVER, now=0.0, random_bytes=bytes)
    for message in messages:
        for part in fragments(message):
            client.send(part.data, 0.0, final=part.final)
    data = client.data_to_send()
    filters, inbox = MessageFilters(), Inbox(QueueConfig())
    for at in range(0, len(data), chunk):
        server.receive_data(data[at : at + chunk], 0.0)
        for event in server.events():
            assert isinstance(event, Message)
            for frame in filters.apply(event):
                inbox.put(frame)
    assert [*iter(inbox.get_message, None)] == [whole(message) for message in messages]
