"""Two connections in memory, each in a process of its own, driven step by step."""

from __future__ import annotations

import pytest

from wsconnkit.machines.closing import State
from wsconnkit.machines.heartbeat import HeartbeatConfig
from wsconnkit.protocol.closeinfo import Cause
from wsconnkit.protocol.config import ConnectionConfig, QueueConfig
from wsconnkit.protocol.events import HeartbeatStalled, PingReceived
from wsconnkit.testing import Pair
from wsconnkit.testing.pipe import Pipe

PLAIN = ConnectionConfig(compression=None)


def test_bytes_take_their_time_and_nothing_happens_in_between() -> None:
    pair = Pair(PLAIN, PLAIN, latency=0.5)
    pair.client.send("hello")
    pair.advance(0.4)
    assert pair.server.messages == []
    pair.advance(0.1)
    assert pair.server.messages == ["hello"]


def test_what_arrives_can_be_read_in_parts() -> None:
    pair = Pair(PLAIN, PLAIN)
    pair.client.send("hello")
    assert [pair.server.receive(4), pair.server.messages] == [4, []]
    assert [pair.server.receive(), pair.server.messages] == [7, ["hello"]]
    assert pair.server.receive() == 0


def test_an_application_that_takes_nothing_holds_up_the_sender_and_loses_nothing() -> None:
    pair = Pair(PLAIN, ConnectionConfig(compression=None, queue=QueueConfig(max_messages=3)), capacity=1000)
    pair.server.pause()
    sent = [f"{number}" * 500 for number in range(10)]
    for message in sent:
        pair.client.send(message)
    pair.run()
    assert (pair.server.inbox.messages, pair.server.messages) == (3, [])
    assert pair.server.inbound.in_flight == 1000
    pair.server.resume()
    pair.run()
    assert pair.server.messages == sent


def test_a_message_and_the_close_behind_it_arrive_without_time() -> None:
    pair = Pair(PLAIN, PLAIN)
    pair.client.send("bye")
    pair.client.close(4000)
    pair.run()
    assert pair.server.messages == ["bye"]
    for end in pair.endpoints:
        assert end.close_info is not None
        assert (end.close_info.code, end.state) == (4000, State.CLOSED)
    assert pair.clock.now == 0


def test_a_transport_breaks_for_both() -> None:
    pair = Pair(PLAIN, PLAIN, latency=1)
    pair.server.send("on its way")
    pair.client.abort(ConnectionResetError("cut"))
    assert pair.client.close_info is not None
    assert pair.client.close_info.cause is Cause.TRANSPORT_LOST
    assert str(pair.client.close_info.error) == "cut"
    assert pair.server.state is State.OPEN
    pair.advance(1)
    assert pair.server.close_info is not None
    assert pair.server.close_info.cause is Cause.TRANSPORT_LOST
    assert pair.client.messages == []


def test_a_process_that_is_held_up_notices_and_blames_nobody_while_the_other_lives_on() -> None:
    beat = ConnectionConfig(heartbeat=HeartbeatConfig(interval=3, timeout=1, max_missed=3), compression=None)
    pair = Pair(beat, beat, latency=0.1)
    pair.stall(pair.server, 4.9)
    assert pair.clock.now == 4.9
    assert any(isinstance(event, HeartbeatStalled) for event in pair.server.events)
    assert not any(isinstance(event, HeartbeatStalled) for event in pair.client.events)
    assert sum(isinstance(event, PingReceived) for event in pair.server.events) == 2  # of 3.0 and 4.0, while it slept
    pair.advance(60)
    assert [end.state for end in pair.endpoints] == [State.OPEN, State.OPEN]


def test_the_same_seed_gives_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    def bytes_of(seed: int) -> list[tuple[float, bytes]]:
        written: list[tuple[float, bytes]] = []
        write = Pipe.write

        def recorded(pipe: Pipe, data: bytes, now: float) -> int:
            written.append((now, data))
            return write(pipe, data, now)

        with monkeypatch.context() as patch:
            patch.setattr(Pipe, "write", recorded)
            pair = Pair(PLAIN, PLAIN, latency=0.1, seed=seed)
            pair.client.send("hello")
            pair.client.ping()
            pair.server.ping()
            pair.advance(100)
            pair.client.close()
            pair.advance(1)
        return written

    assert bytes_of(1) == bytes_of(1) != bytes_of(2)


def test_who_writes_to_a_peer_that_has_gone_is_told_so_while_nobody_reads() -> None:
    pair = Pair(PLAIN, ConnectionConfig(compression=None, queue=QueueConfig(max_messages=1)), latency=0.1)
    pair.server.pause()
    pair.client.send("nobody takes it")
    pair.advance(0.1)
    pair.client.abort()
    pair.advance(1)
    assert pair.server.state is State.OPEN  # the end is behind what waits
    pair.server.send("hello?")
    pair.advance(0.2)
    assert pair.server.close_info is not None
    assert (pair.server.close_info.cause, str(pair.server.close_info.error)) == (
        Cause.TRANSPORT_LOST,
        "the peer has gone",
    )


def test_a_close_frame_that_waits_for_its_turn_behind_messages_is_found_when_the_transport_breaks() -> None:
    pair = Pair()
    pair.server.pause()
    for i in range(100):  # more than are taken at once
        pair.client.connection.send(str(i), 0.0)
    pair.client.close()
    assert pair.server.receive() > 0
    assert pair.server.inbox.messages < 100
    pair.server.abort(ConnectionResetError())
    info = pair.server.close_info
    assert info is not None
    assert info.cause is Cause.PEER_CLOSE
    pair.server.resume()
    assert pair.server.messages == [str(i) for i in range(100)]


def test_messages_that_come_after_our_close_take_turns_as_all_others_do() -> None:
    pair = Pair()
    pair.server.close()
    for _ in range(1000):
        pair.client.connection.send("late", 0.0)
    pair.client.pump()
    assert pair.server.receive() > 0
    assert 0 < pair.server.connection.stats.messages_discarded < 100
    pair.run()
    assert pair.server.connection.stats.messages_discarded == 1000
    assert pair.server.close_info is not None
    assert pair.server.close_info.ok


def test_of_a_flood_on_a_transport_that_has_ended_no_more_is_looked_at_than_takes_a_moment() -> None:
    pair = Pair(PLAIN, ConnectionConfig(compression=None, queue=QueueConfig(max_messages=100_000)))
    for _ in range(20_000):
        pair.client.send("")
    pair.server.receive()
    assert 0 < len(pair.server.messages) < 100
    pair.server.abort(ConnectionResetError("cut"))
    assert pair.server.close_info is not None
    assert pair.server.close_info.cause is Cause.TRANSPORT_LOST
    assert 1000 < len(pair.server.messages) < 5000
