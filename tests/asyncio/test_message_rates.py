"""How many messages a connection, a user and an address may send, counted message by message over real sockets."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from typing import Any

import pytest

from wsconnkit.asyncio import Connection, serve
from wsconnkit.machines.closing import State
from wsconnkit.machines.ratelimit import RateLimit
from wsconnkit.managed.answering import Request
from wsconnkit.protocol.closeinfo import Cause
from wsconnkit.protocol.config import ConnectionConfig, QueueConfig
from wsconnkit.protocol.frames import Opcode, encode_frame
from wsconnkit.protocol.upgrade import UpgradeRequest
from wsconnkit.service.admission import AdmissionConfig, Rates
from wsconnkit.service.envelope import RequestError
from wsconnkit.service.principal import Principal
from wsconnkit.service.router import RequestRouter

from .issuer import by_secret, hs256
from .peers import Collector, RawClient, Run, bearer, info, opened, port

MASK = b"\x01\x02\x03\x04"
FIVE_A_MINUTE = RateLimit(5, 60)
PER_IP = AdmissionConfig(per_ip=Rates(messages=FIVE_A_MINUTE))


def request(number: int) -> str:
    return json.dumps({"type": "request", "requestId": f"r-{number}", "payload": {"action": "x"}, "timestamp": 0})


def refusal(text: str | bytes) -> tuple[Any, float]:
    """Return the requestId and the retryAfter of a reply to a message that was too many."""
    answer = json.loads(text)
    assert set(answer) == {"type", "requestId", "payload", "timestamp"}
    payload = answer["payload"]
    assert (answer["type"], payload["code"], payload["message"]) == ("error", "rate_limited", "too many messages")
    assert set(payload) == {"code", "message", "retryAfter"}
    return answer["requestId"], payload["retryAfter"]


def test_of_a_burst_exactly_as_many_are_delivered_as_the_rate_says(
    run_virtual: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        collector = Collector()
        async with serve(collector, "127.0.0.1", 0, admission=PER_IP) as server:
            async with RawClient.open(server) as client:
                client.send(*(request(number) for number in range(20)))
                replies = [refusal(text) for text in await client.receive(15)]
                assert replies == [(f"r-{number}", 12.0) for number in range(5, 20)]
                assert collector.messages == [request(number) for number in range(5)]
                assert server.stats.rate_limited == {"message": 15}
                await asyncio.sleep(11.5)
                client.send(request(20))
                assert [refusal(text) for text in await client.receive(1)] == [("r-20", 0.5)]
                await asyncio.sleep(0.5)
                client.send(request(21), request(22))
                assert [refusal(text) for text in await client.receive(1)] == [("r-22", 12.0)]
                assert collector.messages == [*(request(number) for number in range(5)), request(21)]

    with caplog.at_level(logging.WARNING, "wsconnkit"):
        run_virtual(main())
    # The first, second, fourth …: a flood of messages is no flood of lines.
    assert [record.__dict__["violations"] for record in caplog.records] == [1, 2, 4, 8, 16]


def test_messages_that_are_no_requests_are_counted_and_answered_without_an_id(run: Run) -> None:
    async def main() -> None:
        collector = Collector()
        async with serve(collector, "127.0.0.1", 0, admission=PER_IP) as server:
            async with RawClient.open(server) as client:
                allowed: list[str | bytes] = ["hello", b"\x00\xff", "", b"", "{}"]
                too_many: list[str | bytes] = ["hello", b'{"type":"request","requestId":"1"}', "{", '{"requestId":"1"}']
                client.send(*allowed, *too_many)
                replies = [refusal(text) for text in await client.receive(4)]
                assert [request_id for request_id, _ in replies] == [None] * 4
                assert collector.messages == allowed

    run(main())


def test_pings_and_pongs_are_no_messages(run: Run) -> None:
    async def main() -> None:
        collector = Collector()
        async with serve(collector, "127.0.0.1", 0, admission=PER_IP) as server:
            async with await opened(server) as client:
                for _ in range(20):
                    assert await client.ping() >= 0
                    (ws,) = server.connections
                    assert await ws.ping() >= 0
                for number in range(5):
                    await client.send(str(number))
                while len(collector.messages) < 5:
                    await asyncio.sleep(0)
        assert server.stats.rate_limited == {}

    run(main())


@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY])
def test_a_message_in_fragments_is_one_message(run_virtual: Run, opcode: Opcode) -> None:
    async def main() -> None:
        collector = Collector()
        admission = AdmissionConfig(per_ip=Rates(messages=RateLimit(2, 60)))
        async with serve(collector, "127.0.0.1", 0, admission=admission) as server:
            async with RawClient.open(server) as client:

                def send(*parts: bytes) -> None:
                    for number, part in enumerate(parts):
                        code = Opcode.CONTINUATION if number else opcode
                        client.writer.write(encode_frame(code, part, fin=number == len(parts) - 1, mask=MASK))
                        client.writer.write(encode_frame(Opcode.PING, b"", mask=MASK))

                send(*(b"%d" % number for number in range(10)))
                send(b"whole")
                body = request(7).encode()
                send(body[:10], body[10:20], body[20:])
                ((request_id, retry_after),) = (refusal(text) for text in await client.receive(1))
                assert (request_id, retry_after) == ("r-7" if opcode is Opcode.TEXT else None, 30.0)
                await asyncio.sleep(30)
                send(b"la", b"st")
                while len(collector.messages) < 3:
                    await asyncio.sleep(0)
                as_sent = [b"0123456789", b"whole", b"last"]
                assert collector.messages == ([text.decode() for text in as_sent] if opcode is Opcode.TEXT else as_sent)

    run_virtual(main())


def test_our_client_is_told_which_request_was_too_many(run_virtual: Run) -> None:
    async def main() -> None:
        router = RequestRouter()

        @router.action("double")
        async def double(request: Request) -> Any:
            return request.payload["n"] * 2

        async with serve(router, "127.0.0.1", 0, admission=PER_IP) as server:
            async with await opened(server) as client:
                asked = [client.request({"action": "double", "n": n}) for n in range(20)]
                answers = await asyncio.gather(*asked, return_exceptions=True)
                assert answers[:5] == [0, 2, 4, 6, 8]
                for error in answers[5:]:
                    assert isinstance(error, RequestError)
                    assert (error.code, error.payload["retryAfter"]) == ("rate_limited", 12.0)
                await asyncio.sleep(12)
                assert await client.request({"action": "double", "n": 21}) == 42

    run_virtual(main())


# Whose messages are counted together.


def test_all_connections_of_a_user_or_an_address_share_one_rate(run_virtual: Run) -> None:
    async def main() -> None:
        collector = Collector()
        admission = AdmissionConfig(
            per_user=Rates(messages=FIVE_A_MINUTE), per_ip=Rates(messages=RateLimit(8, 60)), max_connections_per_user=2
        )
        async with serve(collector, "127.0.0.1", 0, authenticate=by_secret(), admission=admission) as server:
            alice, bob = bearer(hs256()), bearer(hs256(sub="bob"))
            async with (
                RawClient.open(server, headers=alice) as first,
                RawClient.open(server, headers=alice) as second,
                RawClient.open(server, headers=bob) as third,
            ):
                first.send(*(request(number) for number in range(4)))
                while len(collector.messages) < 4:
                    await asyncio.sleep(0)
                second.send(*(request(number) for number in range(10)))
                assert [refusal(text)[1] for text in await second.receive(9)] == [12.0] * 9
                third.send(*(request(number) for number in range(10)))  # what was refused has taken nothing
                assert [refusal(text)[1] for text in await third.receive(7)] == [7.5] * 7
                assert len(collector.messages) == 8

    run_virtual(main())


def test_a_tier_has_a_rate_of_its_own(run: Run) -> None:
    async def authenticate(token: str | None, request: UpgradeRequest) -> Principal:
        return Principal(subject=token or "", tier=token)

    async def main() -> None:
        admission = AdmissionConfig(
            per_user=Rates(messages=RateLimit(2, 3600)),
            tiers={"gold": Rates(messages=RateLimit(6, 3600)), "all": Rates()},
        )
        for tier, count in (("gold", 6), ("all", 10), ("unknown", 2)):
            collector = Collector()
            async with serve(collector, "127.0.0.1", 0, authenticate=authenticate, admission=admission) as server:
                async with RawClient.open(server, headers=bearer(tier)) as client:
                    client.send(*(request(number) for number in range(10)))
                    assert len(await client.receive(10 - count)) == 10 - count
                    while len(collector.messages) < count:
                        await asyncio.sleep(0)
            assert len(collector.messages) == count

    run(main())


def test_a_fresh_token_may_change_the_tier(run_virtual: Run) -> None:
    async def main() -> None:
        admission = AdmissionConfig(
            per_user=Rates(messages=RateLimit(3, 60)), tiers={"gold": Rates(messages=RateLimit(50, 60))}
        )
        collector = Collector()
        async with serve(
            collector, "127.0.0.1", 0, authenticate=by_secret(), admission=admission, reauthenticate=True
        ) as server:
            async with await opened(server, token=hs256()) as client:
                await client.reauthenticate(hs256(tier="gold"))
                for number in range(50):
                    await client.send(str(number))
                while len(collector.messages) < 50:
                    await asyncio.sleep(0)

    run_virtual(main())


def test_a_token_too_many_is_answered_as_a_request_is(run_virtual: Run) -> None:
    async def main() -> None:
        admission = AdmissionConfig(per_user=Rates(messages=RateLimit(1, 60)))
        async with serve(
            Collector(), "127.0.0.1", 0, authenticate=by_secret(), admission=admission, reauthenticate=True
        ) as server:
            async with await opened(server, token=hs256()) as client:
                await client.send("the one that is allowed")
                with pytest.raises(RequestError, match="rate_limited"):
                    await client.reauthenticate(hs256())
                await asyncio.sleep(60)
                await client.reauthenticate(hs256())

    run_virtual(main())


# Those who go on.


@pytest.mark.parametrize("max_violations", [1, 4])
def test_too_many_violations_end_the_connection(run_virtual: Run, max_violations: int) -> None:
    async def main() -> None:
        collector = Collector()
        admission = AdmissionConfig(per_ip=Rates(messages=FIVE_A_MINUTE), max_violations=max_violations)
        async with serve(collector, "127.0.0.1", 0, admission=admission) as server:
            async with RawClient.open(server) as client:
                client.send(*(request(number) for number in range(20)))
                ws = await collector.connections.get()
                replies, end = await client.receive_close()
                assert [refusal(text)[0] for text in replies] == [f"r-{5 + n}" for n in range(max_violations - 1)]
                assert (end.code, end.reason, end.clean) == (1008, "rate limit exceeded", True)
                await ws.wait_closed()
                assert (info(ws).cause, info(ws).sent) == (Cause.RATE_LIMIT, (1008, "rate limit exceeded"))
                assert collector.messages == [request(number) for number in range(5)]
                assert len(server.connections) == 0

    run_virtual(main())


def test_violations_add_up_while_the_connection_lives(run_virtual: Run) -> None:
    async def main() -> None:
        collector = Collector()
        admission = AdmissionConfig(per_ip=Rates(messages=RateLimit(1, 10)), max_violations=3)
        async with serve(collector, "127.0.0.1", 0, admission=admission) as server:
            async with RawClient.open(server) as client:
                for _ in range(2):
                    client.send("allowed", request(1))
                    assert refusal((await client.receive(1))[0]) == ("r-1", 10.0)
                    await asyncio.sleep(10)
                client.send("allowed", request(2))
                replies, end = await client.receive_close()
                assert (replies, end.code) == ([], 1008)
                assert collector.messages == ["allowed"] * 3

    run_virtual(main())


def test_without_a_bound_on_violations_the_connection_stays(run: Run) -> None:
    async def main() -> None:
        collector = Collector()
        async with serve(collector, "127.0.0.1", 0, admission=PER_IP) as server:
            async with RawClient.open(server) as client:
                ws = await collector.connections.get()
                for _ in range(20):
                    client.send(*(request(number) for number in range(100)))
                assert len(await client.receive(1995)) == 1995
                assert ws.state is State.OPEN
                assert len(collector.messages) == 5

    run(main())


@pytest.mark.parametrize("is_read", [True, False], ids=["handler-reads", "handler-waits"])
def test_whoever_floods_and_reads_no_replies_takes_no_memory(
    run: Run, loop: asyncio.AbstractEventLoop, is_read: bool
) -> None:
    count = 30_000
    queue = QueueConfig(write_high_water=16 * 1024, max_unsent_bytes=32 * 1024)

    async def main() -> None:
        here: list[Connection] = []
        received: list[str | bytes] = []

        async def handler(ws: Connection) -> None:
            here.append(ws)
            if is_read:
                async for message in ws:
                    received.append(message)
            else:
                await ws.wait_closed()

        with socket.socket() as listening:
            # Buffers of the kernel that are small, so that they are full soon.
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 * 1024)
            listening.bind(("127.0.0.1", 0))
            config = ConnectionConfig(compression=None, queue=queue)
            async with serve(handler, sock=listening, admission=PER_IP, config=config) as server:
                sock = socket.socket()
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * 1024)
                sock.connect(("127.0.0.1", port(server)))
                async with RawClient.open(server, sock=sock) as client:
                    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
                    most = 0
                    for number in range(0, count, 100):
                        client.send(*(request(number + n) for n in range(100)))
                        await client.writer.drain()
                        await asyncio.sleep(0)
                        most = max(most, sum(here[0].queued_bytes) if here else 0)
                    while server.stats.rate_limited["message"] < count - 5:
                        await asyncio.sleep(0)
                        most = max(most, sum(here[0].queued_bytes))
                    # What answers one read goes out together, up to as much as this.
                    assert most <= queue.write_high_water + queue.max_unsent_bytes + 80 * 1024
                    assert here[0].stats.messages_sent < count / 10
                    assert here[0].state is State.OPEN
                    assert received == ([request(number) for number in range(5)] if is_read else [])
                    here[0].abort()

    run(main())
