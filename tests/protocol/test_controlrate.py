from __future__ import annotations

import pytest

from wsconnkit.protocol.closeinfo import Cause
from wsconnkit.protocol.controlrate import ControlRate
from wsconnkit.protocol.frames import FrameError


def taken(rate: ControlRate, now: float, most: int = 1000) -> int:
    """How many frames pass at `now`, up to `most`."""
    for number in range(most):
        try:
            rate.on_ping(now)
        except FrameError:
            return number
    return most


def test_as_many_as_a_second_allows_may_come_at_once_and_then_as_fast() -> None:
    rate = ControlRate(100)
    assert taken(rate, 5.0) == 100
    assert taken(rate, 5.5) == 50
    assert taken(rate, 7.0) == 100


def test_one_too_many_is_against_the_rules() -> None:
    rate = ControlRate(1)
    rate.on_ping(0.0)
    with pytest.raises(FrameError, match="more than 1 control frames in a second") as caught:
        rate.on_ping(0.5)
    assert (caught.value.code, caught.value.cause) == (1008, Cause.FLOOD)


def test_without_a_limit_any_number_may_come() -> None:
    assert taken(ControlRate(None), 0.0) == 1000


def test_a_pong_that_answers_a_ping_of_ours_does_not_count() -> None:
    rate = ControlRate(1)
    for pings_sent in range(1, 1001):
        rate.on_pong(0.0, pings_sent)
    rate.on_pong(0.0, 1000)
    with pytest.raises(FrameError):
        rate.on_pong(0.0, 1000)


def test_what_may_have_waited_while_we_did_not_read_does_not_count() -> None:
    rate = ControlRate(100)
    rate.reading_paused(1.0)
    rate.reading_resumed(4.0)
    assert taken(rate, 4.0) == 300 + 100
    rate.on_stall(2.5)
    assert taken(rate, 4.0) == 250


def test_without_a_limit_it_does_not_matter_how_long_we_did_not_read() -> None:
    rate = ControlRate(None)
    rate.on_stall(1.0)
    assert taken(rate, 0.0) == 1000
