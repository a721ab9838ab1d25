"""Whatever is cancelled, and whenever: a strict peer, which is `websockets` without I/O, never sees an error.

A program is a list of steps; each starts a call of a connection of ours, lets others have some turns, and cancels it
or lets it be. The peer keeps to the protocol, reads when it is told to, and parses all that comes.
"""

from __future__ import annotations

import random
from contextlib import suppress
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosedOK
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.protocol import State as JudgeState
from websockets.uri import parse_uri

from wsconnkit.protocol.config import CloseConfig, ConnectionConfig, QueueConfig, SlowConsumer
from wsconnkit.protocol.deflate import CompressionConfig
from wsconnkit.protocol.errors import ConcurrencyError, ConnectionClosed

from .driver import CANCELLED, DRIVERS, Driver, Task, Wire
from .raw import Arrivals, info


class Step(NamedTuple):
    action: str
    size: int
    turns: int
    """Turns of others after which the call is cancelled; 0 lets it be."""


OURS = ["send", "send", "send", "send_nowait", "broadcast", "recv", "ping", "close"]
ITS = ["judge sends", "judge pings", "judge reads", "pass"]
STEPS = st.builds(
    Step,
    st.sampled_from([*OURS, *ITS]),
    st.sampled_from([0, 10, 3_000, 70_000, 700_000]),
    st.integers(0, 6),
)


class Judge:
    """A client that keeps to the protocol, and keeps what it was sent."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._protocol = ClientProtocol(
            parse_uri("ws://127.0.0.1/"),
            extensions=[ClientPerMessageDeflateFactory(client_no_context_takeover=False)],
            max_size=None,
        )
        self._parts: list[bytes] = []
        self.messages: list[bytes] = []
        self.is_at_end = False

    async def open(self) -> None:
        self._protocol.send_request(self._protocol.connect())
        await self.flush()
        while self._protocol.state is JudgeState.CONNECTING:
            self._protocol.receive_data(await self._wire.receive())
            self._protocol.events_received()
        assert self._protocol.handshake_exc is None

    async def flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                await self._wire.send(data)
            else:
                await self._wire.end()

    async def send(self, message: bytes) -> None:
        if self._protocol.state is JudgeState.OPEN:
            self._protocol.send_binary(message)
            await self.flush()

    async def ping(self) -> None:
        if self._protocol.state is JudgeState.OPEN:
            self._protocol.send_ping(b"judge")
            await self.flush()

    async def read(self) -> None:
        """Take what comes once, or the end."""
        data = await self._wire.receive()
        if data:
            self._protocol.receive_data(data)
        else:
            self.is_at_end = True
            self._protocol.receive_eof()
        for event in self._protocol.events_received():
            assert isinstance(event, Frame)
            if event.opcode in (Opcode.BINARY, Opcode.TEXT, Opcode.CONT):
                self._parts.append(bytes(event.data))
                if event.fin:
                    self.messages.append(b"".join(self._parts))
                    self._parts.clear()
        await self.flush()
        assert self._protocol.parser_exc is None or self.is_at_end

    def check(self) -> None:
        """Nothing was wrong, to the very end."""
        assert isinstance(self._protocol.close_exc, ConnectionClosedOK)
        assert self._parts == []


def message(size: int, number: int) -> bytes:
    """Bytes that compress by about a half, and differ from those of other numbers."""
    source = random.Random(number)
    return b"%d " % number + bytes(source.choices(b"0123456789abcdef", k=size))


async def carry_out(driver: Driver, program: list[Step], config: ConnectionConfig) -> None:
    arrivals = Arrivals(driver)
    async with driver.serve(arrivals, config=config) as server, driver.tasks() as start:
        wire = await driver.dial(server)
        judge = Judge(wire)
        await judge.open()
        ws = await arrivals.next()
        calls: list[tuple[bytes | None, Task]] = []
        taken: set[bytes] = set()
        reading: Task | None = None
        for number, step in enumerate(program):
            sent = None
            if step.action == "judge sends":
                await judge.send(b"%d" % number)
            elif step.action == "judge pings":
                await judge.ping()
            elif step.action == "judge reads":
                if reading is None or reading.done:
                    reading = start(judge.read)
            elif step.action == "send_nowait":
                if ws.send_nowait(message(step.size, number)):
                    taken.add(message(step.size, number))
            elif step.action == "broadcast":
                if driver.adapter.broadcast([ws], message(step.size, number)):
                    taken.add(message(step.size, number))
            elif step.action == "send":
                sent = message(step.size, number)
                calls.append((sent, start(lambda sent=sent: ws.send(sent))))  # type: ignore[misc]
            elif step.action != "pass":
                calls.append((None, start(getattr(ws, step.action))))
            for _ in range(step.turns):
                await driver.turn()
            if step.turns and calls:
                calls[-1][1].cancel()
        for _, call in calls:
            call.cancel()
        must_arrive = []
        for sent, call in calls:
            with suppress(ConnectionClosed, ConcurrencyError):
                if await call.join() is not CANCELLED and sent is not None:
                    must_arrive.append(sent)
        closing = start(ws.close)
        if reading is not None:
            await reading.join()
        while not judge.is_at_end:
            await judge.read()
        await wire.close()
        await closing.join()
        judge.check()
        assert info(ws).clean
        # Each message whole and at most once, and those surely whose `send` returned, unless the policy is to drop.
        arrived = set(judge.messages)
        assert len(arrived) == len(judge.messages) == ws.stats.messages_sent
        assert arrived <= {sent for sent, _ in calls} | taken
        if config.queue.slow_consumer is SlowConsumer.BLOCK:
            assert set(must_arrive) <= arrived
        assert ws.stats.messages_dropped >= len(taken - arrived)


PATIENT = QueueConfig(max_unsent_age=None)
DROPPING = QueueConfig(max_unsent_age=None, max_unsent_bytes=100_000, slow_consumer=SlowConsumer.DROP_OLDEST)
TAKEOVER = CompressionConfig(threshold=0, level=1, server_context_takeover=True, client_context_takeover=True)
CLOSING = CloseConfig(timeout=1000)
CONFIGS = {
    "plain": ConnectionConfig(compression=None, close=CLOSING, queue=PATIENT),
    "takeover": ConnectionConfig(compression=TAKEOVER, close=CLOSING, queue=PATIENT),
    "takeover, dropping": ConnectionConfig(compression=TAKEOVER, close=CLOSING, queue=DROPPING),
}


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("kind", DRIVERS, ids=lambda kind: kind.name)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(program=st.lists(STEPS, max_size=15))
def test_cancelling_at_random_points_never_breaks_the_protocol(
    kind: type[Driver], config: str, program: list[Step]
) -> None:
    driver = kind()

    async def main() -> None:
        await carry_out(driver, program, CONFIGS[config])

    driver.run(main)
