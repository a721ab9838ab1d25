"""How connections end, from either side."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import pytest

from wsconnkit.machines.closing import State
from wsconnkit.managed.answering import Request
from wsconnkit.protocol.clienthandshake import ClientHandshake
from wsconnkit.protocol.closeinfo import Cause, Initiator
from wsconnkit.protocol.errors import ConnectionClosedError, ConnectionClosedOK, LocalProtocolError
from wsconnkit.protocol.frames import Opcode, encode_frame
from wsconnkit.protocol.uri import parse_uri
from wsconnkit.service.router import RequestRouter

from .driver import Driver
from .raw import BRIEF, MASK, Arrivals, echo, info, pair, raw_client


@pytest.mark.parametrize("closer", ["client", "server"])
@pytest.mark.parametrize(("code", "is_ok"), [(1000, True), (1001, True), (1011, False), (4001, False)])
def test_either_side_closes_and_both_tell_the_same_story(driver: Driver, closer: str, code: int, is_ok: bool) -> None:
    async def main() -> None:
        async with pair(driver) as ends:
            ours, theirs = ends if closer == "client" else ends[::-1]
            await theirs.send("before")
            await ours.close(code, "bye")
            await theirs.wait_closed()
            assert (info(ours).cause, info(ours).initiator) == (Cause.LOCAL_CLOSE, Initiator.LOCAL)
            assert (info(theirs).cause, info(theirs).initiator) == (Cause.PEER_CLOSE, Initiator.PEER)
            for end in ends:
                assert (info(end).code, info(end).reason, info(end).clean, info(end).ok) == (code, "bye", True, is_ok)
                assert info(end).phase is State.CLOSE_EXCHANGED
            for call in (lambda: theirs.send("x"), theirs.ping, theirs.recv):
                with pytest.raises(ConnectionClosedOK if is_ok else ConnectionClosedError) as caught:
                    await call()
                assert caught.value.info is theirs.close_info

    driver.run(main)


def test_iteration_ends_with_a_clean_close_and_raises_after_any_other(driver: Driver) -> None:
    async def main() -> None:
        async with pair(driver) as (client, server), driver.tasks() as start:
            await server.send("one")
            await server.send("two")
            start(lambda: server.close(1001, "bye"))
            assert [message async for message in client] == ["one", "two"]
        async with pair(driver) as (client, server), driver.tasks() as start:
            start(lambda: server.close(4001, "no"))
            with pytest.raises(ConnectionClosedError, match=r"4001.*'no'"):
                async for _ in client:
                    pass

    driver.run(main)


def test_both_close_at_once_and_every_closer_waits_for_the_same_end(driver: Driver) -> None:
    async def main() -> None:
        async with pair(driver) as (client, server), driver.tasks() as start:
            closers = [start(lambda: client.close(4001)), start(lambda: client.close(4001))]
            closers += [start(lambda: server.close(4003)), start(server.wait_closed)]
            for closer in closers:
                await closer.join()
            for ws, code in ((client, 4001), (server, 4003)):
                assert info(ws).clean
                assert info(ws).sent is not None
                assert {info(ws).sent[0], info(ws).rcvd[0]} <= {4001, 4003}  # type: ignore[index]
                assert info(ws).initiator is Initiator.PEER or info(ws).sent == (code, "")
            await client.close()

    driver.run(main)


@pytest.mark.parametrize("code", [999, 1004, 1005, 1006, 1015, 2999, 5000, 1000.0, "1000", None])
def test_a_code_that_cannot_be_sent_changes_nothing(driver: Driver, code: Any) -> None:
    async def main() -> None:
        async with driver.serve(echo) as server, driver.connect(server) as ws:
            with pytest.raises(LocalProtocolError, match="cannot be sent"):
                await ws.close(code)
            with pytest.raises(LocalProtocolError, match="close reason is of type bytes"):
                await ws.close(1000, b"bytes")
            with pytest.raises(LocalProtocolError, match="close reason cannot be sent as UTF-8"):
                await ws.close(1000, "x\ud83dy")
            await ws.send("still open")
            assert await ws.recv() == "still open"

    driver.run(main)


def test_a_reason_is_cut_to_whole_characters(driver: Driver) -> None:
    async def main() -> None:
        async with pair(driver) as (client, server):
            await client.close(4000, "é" * 100)
            await server.wait_closed()
            assert info(server).reason == "é" * 61

    driver.run(main)


def test_the_connection_is_closed_when_the_handler_returns(driver: Driver) -> None:
    async def main() -> None:
        async def handler(ws: Any) -> None:
            await ws.send("goodbye")

        async with driver.serve(handler) as server, driver.connect(server) as ws:
            assert [message async for message in ws] == ["goodbye"]
            assert (info(ws).code, info(ws).cause) == (1000, Cause.PEER_CLOSE)

    driver.run(main)


def test_a_handler_that_raises_closes_with_1011_and_is_logged(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async def handler(ws: Any) -> None:
            await ws.recv()
            raise ValueError("a bug")

        async with driver.serve(handler) as server, driver.connect(server) as ws:
            await ws.send("go")
            with pytest.raises(ConnectionClosedError) as caught:
                await ws.recv()
            assert (caught.value.info.code, caught.value.info.reason) == (1011, "")

    with caplog.at_level(logging.ERROR):
        driver.run(main)
    (record,) = caplog.records
    assert record.__dict__["type"] == "handler_error"
    assert "a bug" in caplog.text


def test_a_client_that_leaves_is_no_error_of_the_handler(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        arrived: list[Any] = []

        async def handler(ws: Any) -> None:
            arrived.append(ws)
            await ws.recv()

        async with driver.serve(handler) as server:
            async with raw_client(driver, server):
                await driver.until(lambda: arrived)
            await arrived[0].wait_closed()
            assert (info(arrived[0]).code, info(arrived[0]).cause) == (1006, Cause.TRANSPORT_LOST)
            assert info(arrived[0]).initiator is Initiator.TRANSPORT

    with caplog.at_level(logging.ERROR):
        driver.run(main)
    assert caplog.records == []


def test_an_abort_ends_both_sides_without_a_handshake(driver: Driver) -> None:
    async def main() -> None:
        async with pair(driver) as (client, server), driver.tasks() as start:
            receiving = start(server.recv)
            pinging = start(server.ping)
            await driver.turn()
            client.abort()
            for task in (receiving, pinging):
                with pytest.raises(ConnectionClosedError) as caught:
                    await task.join()
                assert (caught.value.info.code, caught.value.info.cause) == (1006, Cause.TRANSPORT_LOST)
            await client.wait_closed()
            assert info(client).cause is Cause.TRANSPORT_LOST

    driver.run(main)


@pytest.mark.parametrize("opcode", [Opcode.PING, Opcode.PONG, Opcode.TEXT])
def test_what_arrives_after_we_sent_close_is_not_answered_and_breaks_nothing(driver: Driver, opcode: Opcode) -> None:
    async def main() -> None:
        arrivals = Arrivals(driver)
        async with driver.serve(arrivals) as server, raw_client(driver, server) as raw, driver.tasks() as start:
            ws = await arrivals.next()
            closing = start(lambda: ws.close(4000, "over"))
            close = await raw.read()
            assert close is not None
            assert (close.opcode, close.payload) == (Opcode.CLOSE, b"\x0f\xa0over")
            await raw.send(opcode, b"are you there?")
            await raw.send(Opcode.CLOSE, close.payload)
            assert await raw.read() is None
            await raw.wire.close()
            await closing.join()
            assert (info(ws).code, info(ws).clean, info(ws).cause) == (4000, True, Cause.LOCAL_CLOSE)

    driver.run(main)


@pytest.mark.parametrize(
    ("payload", "echoed", "code"),
    [(b"", b"", 1005), (b"\x03\xe8", b"\x03\xe8", 1000), (b"\x0f\xa1why", b"\x0f\xa1why", 4001)],
)
def test_the_peers_close_is_answered_with_its_code(driver: Driver, payload: bytes, echoed: bytes, code: int) -> None:
    async def main() -> None:
        arrivals = Arrivals(driver)
        async with driver.serve(arrivals, config=BRIEF) as server, raw_client(driver, server) as raw:
            ws = await arrivals.next()
            await raw.send(Opcode.CLOSE, payload)
            (close,) = await raw.read_all()
            assert close.payload == echoed
            await raw.wire.end()
            await ws.wait_closed()
            assert (info(ws).code, info(ws).cause, info(ws).clean) == (code, Cause.PEER_CLOSE, True)

    driver.run(main)


def test_messages_that_came_with_the_peers_close_are_answered_first(driver: Driver) -> None:
    async def main() -> None:
        async with driver.serve(echo, config=BRIEF) as server, raw_client(driver, server) as raw:
            frames = [encode_frame(Opcode.TEXT, str(i).encode(), mask=MASK) for i in range(3)]
            await raw.wire.send(b"".join(frames) + encode_frame(Opcode.CLOSE, b"\x03\xe8", mask=MASK))
            frames_back = await raw.read_all()
            assert [frame.payload for frame in frames_back] == [b"0", b"1", b"2", b"\x03\xe8"]

    driver.run(main)


def test_closing_reads_on_past_messages_that_nobody_takes(driver: Driver) -> None:
    async def main() -> None:
        async with pair(driver, BRIEF, BRIEF) as (client, server):
            for i in range(1000):
                await client.send(str(i))
            await driver.sleep(1)
            await server.close()
            assert info(server).clean
            assert server.stats.messages_discarded == 1000 - 256
            assert [await server.recv() for _ in range(256)] == [str(i) for i in range(256)]

    driver.run(main)


def test_the_server_closes_all_its_connections(driver: Driver) -> None:
    async def main() -> None:
        arrivals = Arrivals(driver)
        async with driver.serve(arrivals) as server, driver.connect(server) as one, driver.connect(server) as two:
            for _ in range(2):
                await arrivals.next()
            await server.close(1012, "restart")
            await server.wait_closed()
            assert not server.connections
            for ws in (one, two):
                await ws.wait_closed()
                assert (info(ws).code, info(ws).reason, info(ws).cause) == (1012, "restart", Cause.PEER_CLOSE)
            assert {info(ws).cause for ws in arrivals.connections} == {Cause.DRAIN}

    driver.run(main)


def test_a_handler_may_close_the_server(driver: Driver) -> None:
    async def main() -> None:
        servers: list[Any] = []

        async def handler(ws: Any) -> None:
            await servers[0].close()

        async with driver.serve(handler, config=BRIEF) as server:
            servers.append(server)
            async with driver.connect(server) as ws:
                await server.wait_closed()
                await ws.wait_closed()
                assert (info(ws).code, info(ws).cause, info(ws).clean) == (1001, Cause.PEER_CLOSE, True)
                assert not server.connections

    driver.run(main)


def test_what_a_block_raises_goes_on_as_it_is_and_the_connection_is_closed(driver: Driver) -> None:
    async def main() -> None:
        arrivals = Arrivals(driver)

        async def block() -> None:
            async with driver.serve(arrivals) as server:
                async with driver.connect(server):
                    await arrivals.next()
                    raise ValueError("out of the blue")

        with pytest.raises(ValueError, match="out of the blue"):
            await block()
        assert info(arrivals.connections[0]).clean

    driver.run(main)


def test_callbacks_of_the_application_stand_in_nobodys_way(driver: Driver) -> None:
    async def main() -> None:
        called: list[str] = []

        async def handler(ws: Any) -> None:
            for name in ("first", "second"):
                ws.call_when_closed(partial(called.append, name))
            await ws.wait_closed()
            ws.call_when_closed(partial(called.append, "late"))

        async with driver.serve(handler) as server:
            async with driver.connect(server):
                pass
            await driver.until(lambda: not len(server.connections))
            await driver.until(lambda: len(called) == 3)
        assert called == ["first", "second", "late"]

    driver.run(main)


# What came with an end is answered before it, if that takes no more than some turns of the loop.


def close_frame(code: int = 1000) -> bytes:
    return encode_frame(Opcode.CLOSE, code.to_bytes(2, "big"), mask=MASK)


@pytest.mark.parametrize("attempt", range(5))
def test_a_request_is_answered_that_comes_in_one_segment_with_a_close(driver: Driver, attempt: int) -> None:
    router = RequestRouter()

    @router.default
    async def answer(request: Request) -> str:
        return "done"

    async def main() -> None:
        async with driver.serve(router, config=BRIEF) as server, raw_client(driver, server) as client:
            request = b'{"type": "request", "requestId": "r1", "payload": {}}'
            await client.wire.send(encode_frame(Opcode.TEXT, request, mask=MASK) + close_frame())
            first, *others = await client.read_all()
            assert (first.opcode, b'"done"' in first.payload) == (Opcode.TEXT, True)
            assert [frame.opcode for frame in others] == [Opcode.CLOSE]

    driver.run(main)


@pytest.mark.parametrize("attempt", range(5))
@pytest.mark.parametrize("end", [close_frame(), b"\xff\x80" + MASK], ids=["close", "error"])
def test_a_message_is_answered_that_comes_with_the_upgrade_and_an_end(driver: Driver, attempt: int, end: bytes) -> None:
    async def main() -> None:
        async with driver.serve(echo, config=BRIEF) as server:
            wire = await driver.dial(server)
            handshake = ClientHandshake(parse_uri("ws://127.0.0.1/"), BRIEF, now=0.0)
            message = encode_frame(Opcode.TEXT, b"early", mask=MASK)
            await wire.send(handshake.data_to_send() + message + end)
            data = b""
            while chunk := await wire.receive():
                data += chunk
            assert b" 101 " in data
            assert b"\x81\x05early" in data
            await wire.close()

    driver.run(main)
