"""Messages in both directions: whole, fragmented, compressed, over limits."""

from __future__ import annotations

import os
import zlib
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from wsconnkit.machines.closing import State
from wsconnkit.machines.framesize import FrameLimits
from wsconnkit.protocol.closeinfo import Cause, Initiator
from wsconnkit.protocol.config import OVERHEAD, CloseConfig, ConnectionConfig, QueueConfig
from wsconnkit.protocol.deflate import CompressionConfig
from wsconnkit.protocol.errors import ConcurrencyError, ConnectionClosedError, ConnectionClosedOK, LocalProtocolError
from wsconnkit.protocol.frames import Opcode, encode_frame

from .driver import Driver
from .raw import BRIEF, MASK, PLAIN, Arrivals, echo, info, pair, raw_client

MANY_PINGS = ConnectionConfig(compression=None, limits=FrameLimits(max_control_frames_per_second=None))
TAKEOVER = CompressionConfig(threshold=1, server_context_takeover=True, client_context_takeover=True)


@pytest.mark.parametrize("message", ["", "text", "é" * 40_000, b"", os.urandom(700_000), "a" * 900_000])
def test_messages_come_back_with_their_type(driver: Driver, message: str | bytes) -> None:
    async def main() -> None:
        async with driver.serve(echo) as server, driver.connect(server) as ws:
            for _ in range(3):
                await ws.send(message)
                assert await ws.recv() == message

    driver.run(main)


def test_many_messages_keep_their_order(driver: Driver) -> None:
    async def main() -> None:
        async with driver.serve(echo) as server, driver.connect(server) as ws, driver.tasks() as start:

            async def send() -> None:
                for i in range(1000):
                    await ws.send(str(i))

            start(send)
            assert [await ws.recv() for _ in range(1000)] == [str(i) for i in range(1000)]

    driver.run(main)


def test_bytes_like_objects_are_sent_as_binary_and_other_types_refused(driver: Driver) -> None:
    async def main() -> None:
        async with driver.serve(echo) as server, driver.connect(server) as ws:
            await ws.send(bytearray(b"one"))
            await ws.send(memoryview(b"two"))
            assert [await ws.recv(), await ws.recv()] == [b"one", b"two"]
            with pytest.raises(TypeError, match="message is of type int"):
                await ws.send(3)
            assert ws.state is State.OPEN

    driver.run(main)


def test_a_fragmented_message_is_put_together_around_a_ping(driver: Driver) -> None:
    async def main() -> None:
        async with driver.serve(echo, config=PLAIN) as server, raw_client(driver, server) as raw:
            await raw.send(Opcode.TEXT, "é".encode()[:1], fin=False)
            await raw.send(Opcode.PING, b"between")
            await raw.send(Opcode.CONTINUATION, "é".encode()[1:] + b"ne", fin=False)
            await raw.send(Opcode.CONTINUATION)
            assert await raw.read() == (Opcode.PONG, b"between", True, False)
            assert await raw.read() == (Opcode.TEXT, "éne".encode(), True, False)

    driver.run(main)


def test_a_message_is_received_frame_by_frame(driver: Driver) -> None:
    async def main() -> None:
        arrivals = Arrivals(driver)
        async with driver.serve(arrivals) as server, raw_client(driver, server) as raw:
            ws = await arrivals.next()
            await raw.send(Opcode.BINARY, b"one ", fin=False)
            stream = ws.recv_streaming()
            assert await anext(stream) == b"one "  # before the last has been sent
            await raw.send(Opcode.CONTINUATION, b"two", fin=True)
            assert [part async for part in stream] == [b"two"]
            await raw.send(Opcode.TEXT, b"whole")
            assert [part async for part in ws.recv_streaming()] == ["whole"]

    driver.run(main)


def test_reading_goes_on_when_the_rest_of_a_message_is_dropped_that_was_too_much_to_hold(driver: Driver) -> None:
    async def main() -> None:
        arrivals = Arrivals(driver)
        config = ConnectionConfig(compression=None, queue=QueueConfig(max_bytes=10 * OVERHEAD))
        async with driver.serve(arrivals, config=config) as server, raw_client(driver, server) as raw:
            ws = await arrivals.next()
            await raw.send(Opcode.BINARY, b"first", fin=False)
            assert await anext(ws.recv_streaming()) == b"first"
            for _ in range(20):  # more than the server reads, so that the last is read only when there is room again
                await raw.send(Opcode.CONTINUATION, fin=False)
            await driver.until(lambda: ws.queued_bytes[0] == 10 * OVERHEAD)
            await raw.send(Opcode.CONTINUATION)
            await raw.send(Opcode.TEXT, b"next")
            assert await ws.recv() == "next"

    driver.run(main)


def test_what_arrived_before_the_end_is_received_after_it(driver: Driver) -> None:
    async def main() -> None:
        async with pair(driver) as (client, server):
            for i in range(5):
                await server.send(str(i))
            await server.close()
            await client.wait_closed()
            assert [await client.recv() for _ in range(5)] == ["0", "1", "2", "3", "4"]
            with pytest.raises(ConnectionClosedOK) as caught:
                await client.recv()
            assert caught.value.info is client.close_info

    driver.run(main)


def test_only_one_task_may_receive(driver: Driver) -> None:
    async def main() -> None:
        async with pair(driver) as (client, server), driver.tasks() as start:
            first = start(client.recv)
            await driver.turn()
            await driver.turn()
            with pytest.raises(ConcurrencyError, match="another task"):
                await client.recv()
            await server.send("for the first")
            assert await first.join() == "for the first"

    driver.run(main)


@pytest.mark.parametrize("takeover", [False, True])
def test_long_messages_go_compressed_and_come_back_whole(driver: Driver, takeover: bool) -> None:
    async def main() -> None:
        config = ConnectionConfig(compression=TAKEOVER if takeover else CompressionConfig())
        async with driver.serve(echo, config=config) as server, driver.connect(server, config=config) as ws:
            messages = ["the same again and again " * 100, b"\0" * 50_000, "short", "the same again and again " * 100]
            for message in messages:
                await ws.send(message)
                assert await ws.recv() == message
            stats = ws.stats.compression
            assert stats.outbound.messages_compressed == stats.inbound.messages_compressed == 3 + takeover
            assert ws.stats.bytes_sent < 2000

    driver.run(main)


def test_a_message_that_inflates_beyond_the_limit_ends_in_1009(driver: Driver) -> None:
    async def main() -> None:
        arrivals = Arrivals(driver)
        config = ConnectionConfig(limits=FrameLimits.strict(), close=CloseConfig(timeout=0.5))
        async with driver.serve(arrivals, config=config) as server:
            async with raw_client(driver, server, config=ConnectionConfig()) as raw:
                ws = await arrivals.next()
                deflater = zlib.compressobj(wbits=-15)
                bomb = deflater.compress(bytes(100_000_000)) + deflater.flush(zlib.Z_SYNC_FLUSH)
                await raw.wire.send(encode_frame(Opcode.BINARY, bomb[:-4], compressed=True, mask=MASK))
                frames = await raw.read_all()
                assert [frame.payload[:2] for frame in frames] == [b"\x03\xf1"]
                await ws.wait_closed()
                assert info(ws).cause is Cause.TOO_BIG

    driver.run(main)


@pytest.mark.parametrize(
    ("data", "code", "cause"),
    [
        (b"\x82\xff" + (1 << 40).to_bytes(8, "big"), 1009, Cause.TOO_BIG),
        (encode_frame(Opcode.TEXT, b"\xff", mask=MASK), 1007, Cause.INVALID_DATA),
        (encode_frame(Opcode.TEXT, b"not masked"), 1002, Cause.PROTOCOL_ERROR),
        (b"\xf1\x80" + MASK, 1002, Cause.PROTOCOL_ERROR),
        (encode_frame(Opcode.CONTINUATION, b"of what?", mask=MASK), 1002, Cause.PROTOCOL_ERROR),
    ],
)
def test_what_breaks_the_protocol_or_a_limit_ends_with_its_code(
    driver: Driver, data: bytes, code: int, cause: Cause
) -> None:
    async def main() -> None:
        arrivals = Arrivals(driver)
        async with driver.serve(arrivals, config=BRIEF) as server, raw_client(driver, server) as raw:
            ws = await arrivals.next()
            await raw.wire.send(data)
            (close,) = await raw.read_all()
            assert (close.opcode, close.payload[:2]) == (Opcode.CLOSE, code.to_bytes(2, "big"))
            with pytest.raises(ConnectionClosedError):
                await ws.recv()
            assert (info(ws).code, info(ws).cause, info(ws).initiator) == (code, cause, Initiator.LOCAL)

    driver.run(main)


def test_too_many_fragments_end_in_1009(driver: Driver) -> None:
    async def main() -> None:
        config = ConnectionConfig(limits=FrameLimits(max_fragments=10), close=CloseConfig(timeout=0.5))
        async with driver.serve(echo, config=config) as server, raw_client(driver, server) as raw:
            await raw.send(Opcode.BINARY, b"x", fin=False)
            for _ in range(10):
                await raw.send(Opcode.CONTINUATION, b"x", fin=False)
            (close,) = await raw.read_all()
            assert close.payload[:2] == b"\x03\xf1"

    driver.run(main)


def test_a_ping_returns_the_latency_and_its_pong_is_the_peers(driver: Driver) -> None:
    async def main() -> None:
        async with pair(driver) as (client, server):
            await client.send("nobody takes this yet")
            assert 0 <= await client.ping() < 100
            assert client.latency is not None
            assert await client.ping(b"payload") >= 0
            with pytest.raises(LocalProtocolError, match="126 bytes"):
                await client.ping(bytes(126))
            assert await server.recv() == "nobody takes this yet"

    driver.run(main)


def test_a_pong_answers_the_pings_before_its_own_too(driver: Driver) -> None:
    async def main() -> None:
        arrivals = Arrivals(driver)
        async with driver.serve(arrivals) as server, raw_client(driver, server) as raw, driver.tasks() as start:
            ws = await arrivals.next()
            pings = [start(lambda payload=payload: ws.ping(payload)) for payload in (b"1", b"2", b"3")]  # type: ignore[misc]
            payloads = {(await raw.read()).payload for _ in pings}  # type: ignore[union-attr]
            assert payloads == {b"1", b"2", b"3"}
            with pytest.raises(ConcurrencyError, match="this payload"):
                await ws.ping(b"2")
            for payload in sorted(payloads):
                await raw.send(Opcode.PONG, payload)
            for ping in pings:
                assert await ping.join() >= 0

    driver.run(main)


@pytest.mark.parametrize("size", [10, 100_000])
def test_a_slow_application_holds_the_sender_back_and_misses_nothing(driver: Driver, size: int) -> None:
    async def main() -> None:
        config = ConnectionConfig(queue=QueueConfig(max_messages=4, max_bytes=300_000), compression=None)
        async with pair(driver, config, PLAIN) as (client, server), driver.tasks() as start:
            messages = [bytes([i]) * size for i in range(60)]

            async def send_all() -> None:
                for message in messages:
                    await client.send(message)

            sending = start(send_all)
            most = 4 * (size + OVERHEAD)
            await driver.until(lambda: server.queued_bytes[0] >= min(most, 300_000))
            await driver.sleep(1)
            assert server.queued_bytes[0] <= most
            assert [await server.recv() for _ in messages] == messages
            await sending.join()

    driver.run(main)


def test_fragments_without_payload_fill_the_inbox_too_and_hold_the_sender_back(driver: Driver) -> None:
    async def main() -> None:
        arrivals = Arrivals(driver)
        config = replace(PLAIN, queue=QueueConfig(max_bytes=200_000))
        async with driver.serve(arrivals, config=config) as server, raw_client(driver, server) as raw:
            ws = await arrivals.next()
            first, middle, last = (
                encode_frame(opcode, b"", fin=fin, mask=MASK)
                for opcode, fin in ((Opcode.BINARY, False), (Opcode.CONTINUATION, False), (Opcode.CONTINUATION, True))
            )
            async with driver.tasks() as start:
                sending = start(partial(raw.wire.send, (first + middle * 998 + last) * 20))
                await driver.until(lambda: ws.queued_bytes[0] >= 2 * 1000 * OVERHEAD)
                await driver.sleep(1)
                assert ws.queued_bytes[0] == 2 * 1000 * OVERHEAD
                assert [await ws.recv() for _ in range(20)] == [b""] * 20
                assert ws.queued_bytes[0] == 0
                await sending.join()

    driver.run(main)


def test_the_numbers_of_a_connection_are_those_of_its_messages(driver: Driver) -> None:
    async def main() -> None:
        async with pair(driver, PLAIN, PLAIN) as (client, server):
            for _ in range(3):
                await client.send("12345")
                await server.recv()
            await server.send(b"1")
            await client.recv()
            assert (client.stats.messages_sent, client.stats.messages_received) == (3, 1)
            assert (server.stats.messages_sent, server.stats.messages_received) == (1, 3)
            assert client.stats.bytes_sent == server.stats.bytes_received == 3 * (2 + 4 + 5)
            assert server.stats.bytes_sent == client.stats.bytes_received == 2 + 1

    driver.run(main)


def test_a_flood_of_pings_in_one_read_leaves_others_their_turn_and_is_answered_whole(driver: Driver) -> None:
    async def main() -> None:
        arrivals = Arrivals(driver)
        async with driver.serve(arrivals, config=MANY_PINGS) as server, raw_client(driver, server) as raw:
            ws = await arrivals.next()
            ping = encode_frame(Opcode.PING, b"", mask=MASK)
            await raw.wire.send(ping * 5000 + encode_frame(Opcode.TEXT, b"last", mask=MASK))
            assert await ws.recv() == "last"
            pongs = [await raw.read() for _ in range(5000)]
            assert set(pongs) == {(Opcode.PONG, b"", True, False)}

    driver.run(main)


def test_a_flood_of_messages_before_the_end_of_the_transport_is_kept_as_far_as_there_is_room(driver: Driver) -> None:
    async def main() -> None:
        arrivals = Arrivals(driver)
        async with driver.serve(arrivals, config=PLAIN) as server, raw_client(driver, server) as raw:
            ws = await arrivals.next()
            await raw.wire.send(encode_frame(Opcode.TEXT, b"x", mask=MASK) * 200)
            await raw.wire.end()
            await ws.wait_closed()
            assert [await ws.recv() for _ in range(200)] == ["x"] * 200
            with pytest.raises(ConnectionClosedError):
                await ws.recv()
            assert info(ws).cause is Cause.TRANSPORT_LOST

    driver.run(main)


FRAGMENTED = (
    encode_frame(Opcode.TEXT, b"", fin=False, mask=MASK)
    + encode_frame(Opcode.CONTINUATION, b"", fin=False, mask=MASK) * 498
    + encode_frame(Opcode.CONTINUATION, b"", mask=MASK)
)


@pytest.mark.parametrize(
    ("flood", "frames_a_message"), [(encode_frame(Opcode.TEXT, b"x", mask=MASK) * 2000, 1), (FRAGMENTED * 4, 500)]
)
def test_whoever_does_not_flood_waits_for_little_of_what_ten_others_send(
    driver: Driver, flood: bytes, frames_a_message: int
) -> None:
    async def reads(ws: Any) -> None:
        async for _ in ws:
            pass

    async def handler(ws: Any) -> None:
        await (echo if ws.upgrade_request.path == "/echo" else reads)(ws)

    async def main() -> None:
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(driver.serve(handler, config=PLAIN))
            ws = await stack.enter_async_context(driver.connect(server, "/echo", config=PLAIN))

            def received() -> int:
                return sum(server.stats.received.counts)

            flooders = [await stack.enter_async_context(raw_client(driver, server)) for _ in range(10)]
            start = await stack.enter_async_context(driver.tasks())
            for flooder in flooders:
                start(partial(flooder.wire.send, flood))
            await driver.until(received)
            await ws.send("me, too")
            assert await ws.recv() == "me, too"
            # Before, each of the ten had a thousand frames of its own in every pass of the loop.
            assert received() * frames_a_message <= 4000
            await driver.until(lambda: received() == 1 + 20_000 // frames_a_message)

    driver.run(main)


@pytest.mark.parametrize("opcode", [Opcode.PING, Opcode.PONG])
def test_a_peer_that_sends_too_many_control_frames_is_closed_with_1008(driver: Driver, opcode: Opcode) -> None:
    async def main() -> None:
        arrivals = Arrivals(driver)
        async with driver.serve(arrivals, config=BRIEF) as server, raw_client(driver, server) as raw:
            ws = await arrivals.next()
            await raw.wire.send(encode_frame(opcode, b"", mask=MASK) * 101)
            *pongs, close = await raw.read_all()
            assert [pong.opcode for pong in pongs] == ([Opcode.PONG] * 100 if opcode is Opcode.PING else [])
            assert close.payload == b"\x03\xf0more than 100 control frames in a second"
            await ws.wait_closed()
            assert (info(ws).code, info(ws).cause) == (1008, Cause.FLOOD)

    driver.run(main)


def test_pongs_that_we_have_asked_for_are_no_flood(driver: Driver) -> None:
    async def main() -> None:
        async with pair(driver, PLAIN, MANY_PINGS) as (_, server):
            for _ in range(300):
                await server.ping()
            assert server.state is State.OPEN

    driver.run(main)


@pytest.mark.parametrize("payload", ["text", 3, [1]])
def test_the_payload_of_a_ping_is_bytes(driver: Driver, payload: Any) -> None:
    async def main() -> None:
        async with driver.serve(echo) as server, driver.connect(server) as ws:
            with pytest.raises(TypeError, match=r"^payload is .*; it must be bytes, such as b'text', or None"):
                await ws.ping(payload)

    driver.run(main)
