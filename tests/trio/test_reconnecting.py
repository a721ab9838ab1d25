"""What is trio's own in clients that come back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from wsconnkit.machines.backoff import BackoffConfig
from wsconnkit.service.reconnect import ReconnectEvent, Retrying, Stopped
from wsconnkit.trio import ReconnectingClient, connect

Run = Callable[[Callable[[], Awaitable[None]]], None]


async def too_slow() -> str:
    with trio.fail_after(5):
        await trio.sleep_forever()
    raise AssertionError


def test_a_function_for_the_token_that_runs_out_of_its_time_is_asked_again(run_virtual: Run) -> None:
    async def main() -> None:
        events: list[ReconnectEvent] = []
        backoff = BackoffConfig(max_attempts=3)
        connections = aiter(connect("ws://127.0.0.1:1/", token=too_slow, backoff=backoff, on_event=events.append))
        with pytest.raises(TimeoutError, match="no token"):
            await anext(connections)
        assert [type(event) for event in events] == [Retrying, Retrying, Stopped]

    run_virtual(main)


def test_sending_is_a_checkpoint_also_where_there_is_room(run_virtual: Run) -> None:
    async def main() -> None:
        async with ReconnectingClient("ws://127.0.0.1:1/", token=too_slow) as client:
            with trio.testing.assert_checkpoints():
                await client.send("a")
            with trio.CancelScope() as scope:
                scope.cancel()
                await client.send("b")
            assert client.queued == (1, 1)

    run_virtual(main)


def test_what_would_make_a_stream_is_refused_where_there_is_one() -> None:
    stream, _ = trio.testing.memory_stream_pair()
    with pytest.raises(ValueError, match=r"^stream is given together with host, port, for making one; leave one out$"):
        connect("ws://127.0.0.1/", stream=stream, host="127.0.0.1", port=1)
