from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from wsconnkit.machines.framesize import FrameLimits
from wsconnkit.machines.heartbeat import HeartbeatConfig
from wsconnkit.protocol.config import CloseConfig, ConnectionConfig, HandshakeLimits, QueueConfig
from wsconnkit.protocol.deflate import CompressionConfig

NAN = float("nan")
ALL: list[Callable[..., Any]] = [CloseConfig, QueueConfig, HandshakeLimits, ConnectionConfig]


@pytest.mark.parametrize(
    ("make", "name", "value"),
    [
        *((CloseConfig, "timeout", value) for value in (0, -1.0, NAN)),
        *(
            (QueueConfig, name, value)
            for name in ("max_messages", "max_bytes", "write_high_water")
            for value in (0, -1, 1.5, NAN)
        ),
        *(
            (HandshakeLimits, name, value)
            for name in ("timeout", "max_line", "max_headers", "max_head", "max_body")
            for value in (0, -1, NAN, float("-inf"))
        ),
        *((ConnectionConfig, "idle_timeout", value) for value in (0, -1.0, NAN)),
    ],
)
def test_bad_values_are_refused_by_name(make: Callable[..., Any], name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{name} is {value!r}; it must be"):
        make(**{name: value})


@pytest.mark.parametrize("value", [1.5, 1.0, 0.5, float("inf"), "1", None])
@pytest.mark.parametrize(
    ("make", "name"),
    [
        *((QueueConfig, name) for name in ("max_messages", "max_bytes", "write_high_water")),
        *((HandshakeLimits, name) for name in ("max_line", "max_headers", "max_head", "max_body")),
    ],
)
def test_counts_must_be_integers_of_at_least_1(make: Callable[..., Any], name: str, value: object) -> None:
    # A fraction would pass here and break the slicing of a body, long after construction.
    for wrong in (value, 0, -1):
        with pytest.raises(ValueError, match="it must be") as caught:
            make(**{name: wrong})
        assert str(caught.value) == f"{name} is {wrong!r}; it must be an integer of at least 1"


def test_times_say_that_they_are_seconds_and_need_not_be_whole() -> None:
    for make in (CloseConfig, HandshakeLimits):
        with pytest.raises(ValueError, match="timeout is 0; it must be more than 0 seconds"):
            make(timeout=0)
    assert HandshakeLimits(timeout=0.5).timeout == 0.5


@pytest.mark.parametrize(
    ("make", "name", "value"),
    [
        (CloseConfig, "timeout", 0.001),
        (QueueConfig, "max_messages", 1),
        (QueueConfig, "max_bytes", 1),
        (QueueConfig, "write_high_water", 1),
        (HandshakeLimits, "timeout", 0.001),
        (HandshakeLimits, "max_line", 1),
        (HandshakeLimits, "max_headers", 1),
        (HandshakeLimits, "max_head", 1),
        (HandshakeLimits, "max_body", 1),
        (ConnectionConfig, "idle_timeout", 0.001),
        (ConnectionConfig, "idle_timeout", None),
        (ConnectionConfig, "heartbeat", None),
        (ConnectionConfig, "compression", None),
    ],
)
def test_the_smallest_values_and_none_are_taken(make: Callable[..., Any], name: str, value: float | None) -> None:
    assert getattr(make(**{name: value}), name) == value


@pytest.mark.parametrize("make", ALL)
def test_frozen_slotted_and_keyword_only(make: Callable[..., Any]) -> None:
    config = make()
    name = next(iter(type(config).__dataclass_fields__))
    with pytest.raises(FrozenInstanceError):
        setattr(config, name, 1)
    assert not hasattr(config, "__dict__")
    with pytest.raises(TypeError):
        make(getattr(config, name))


@pytest.mark.parametrize("make", ALL)
def test_equal_by_value_and_hashable(make: Callable[..., Any]) -> None:
    assert make() == make()
    assert hash(make()) == hash(make())


def test_every_part_of_a_connection_has_defaults() -> None:
    config = ConnectionConfig()
    assert config.heartbeat == HeartbeatConfig()
    assert config.limits == FrameLimits()
    assert config.compression == CompressionConfig()
    assert config.close == CloseConfig()
    assert config.queue == QueueConfig()
    assert config.handshake == HandshakeLimits()
    assert config.idle_timeout is None
