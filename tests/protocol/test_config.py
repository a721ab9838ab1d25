from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from wsconnkit.machines.framesize import FrameLimits
from wsconnkit.machines.heartbeat import HeartbeatConfig
from wsconnkit.protocol.config import CloseConfig, ConnectionConfig, HandshakeLimits, QueueConfig, SlowConsumer
from wsconnkit.protocol.deflate import CompressionConfig

NAN, INF = float("nan"), float("inf")
NO_SECONDS = (0, 0.0, -1.0, -3, NAN, INF, -INF, "5", b"5", [5], 5j)  # and None, where it means nothing
ALL: list[Callable[..., Any]] = [CloseConfig, QueueConfig, HandshakeLimits, ConnectionConfig]


@pytest.mark.parametrize(
    ("make", "name", "value"),
    [
        *(
            (QueueConfig, name, value)
            for name in ("max_messages", "max_bytes", "write_high_water", "max_unsent_bytes")
            for value in (0, -1, 1.5, NAN)
        ),
        *(
            (HandshakeLimits, name, value)
            for name in ("max_line", "max_headers", "max_head", "max_body")
            for value in (0, -1, NAN, -INF)
        ),
    ],
)
def test_bad_values_are_refused_by_name(make: Callable[..., Any], name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{name} is {value!r}; it must be"):
        make(**{name: value})


@pytest.mark.parametrize("value", [1.5, 1.0, 0.5, INF, "1", None])
@pytest.mark.parametrize(
    ("make", "name"),
    [
        *((QueueConfig, name) for name in ("max_messages", "max_bytes", "write_high_water", "max_unsent_bytes")),
        *((HandshakeLimits, name) for name in ("max_line", "max_headers", "max_head", "max_body")),
    ],
)
def test_counts_must_be_integers_of_at_least_1(make: Callable[..., Any], name: str, value: object) -> None:
    # A fraction would pass here and break the slicing of a body, long after construction.
    for wrong in (value, 0, -1):
        with pytest.raises(ValueError, match="it must be") as caught:
            make(**{name: wrong})
        assert str(caught.value) == f"{name} is {wrong!r}; it must be an integer of at least 1"


@pytest.mark.parametrize(
    ("make", "name", "value"),
    [
        *((make, "timeout", value) for make in (CloseConfig, HandshakeLimits) for value in (*NO_SECONDS, None)),
        *((ConnectionConfig, "idle_timeout", value) for value in NO_SECONDS),
        *((QueueConfig, "max_unsent_age", value) for value in NO_SECONDS),
    ],
)
def test_times_must_be_finite_numbers_of_seconds(make: Callable[..., Any], name: str, value: object) -> None:
    # Infinity would overflow a timer, a string the sum with a clock, long after construction.
    with pytest.raises(ValueError, match="it must be") as caught:
        make(**{name: value})
    assert str(caught.value) == f"{name} is {value!r}; it must be a finite number of seconds, more than 0"


@pytest.mark.parametrize("seconds", [0.5, 1, 5e-324, 1e308])
def test_times_need_not_be_whole(seconds: float) -> None:
    assert CloseConfig(timeout=seconds).timeout == seconds
    assert HandshakeLimits(timeout=seconds).timeout == seconds
    assert ConnectionConfig(idle_timeout=seconds).idle_timeout == seconds
    assert QueueConfig(max_unsent_age=seconds).max_unsent_age == seconds


@pytest.mark.parametrize("value", ["block", None, True, SlowConsumer])
def test_a_policy_for_slow_consumers_is_a_member_of_its_enum(value: Any) -> None:
    with pytest.raises(ValueError, match="it must be") as caught:
        QueueConfig(slow_consumer=value)
    assert str(caught.value) == f"slow_consumer is {value!r}; it must be a SlowConsumer"


PARTS: dict[str, type] = {
    "heartbeat": HeartbeatConfig,
    "limits": FrameLimits,
    "compression": CompressionConfig,
    "close": CloseConfig,
    "queue": QueueConfig,
    "handshake": HandshakeLimits,
}


@pytest.mark.parametrize("name", PARTS)
def test_a_part_of_the_wrong_type_is_refused_by_name(name: str) -> None:
    others = [kind() for other, kind in PARTS.items() if other != name]
    assert len(others) == 5
    nothing = [] if name in ("heartbeat", "compression") else [None]
    # The type itself is no more a part than its name is.
    for wrong in (*nothing, *others, 5, 0, True, False, "", "none", {}, (), ConnectionConfig(), PARTS[name]):
        make: Any = ConnectionConfig
        with pytest.raises(ValueError, match="it must be") as caught:
            make(**{name: wrong})
        assert str(caught.value) == f"{name} is {wrong!r}; it must be a {PARTS[name].__name__}"


@pytest.mark.parametrize("name", PARTS)
def test_a_part_may_be_of_a_type_derived_from_its_own(name: str) -> None:
    derived = type("Derived", (PARTS[name],), {})()
    make: Any = ConnectionConfig
    assert getattr(make(**{name: derived}), name) is derived


def test_every_part_is_checked() -> None:
    assert {*PARTS} == {*ConnectionConfig.__dataclass_fields__} - {"idle_timeout"}


@pytest.mark.parametrize(
    ("make", "name", "value"),
    [
        (CloseConfig, "timeout", 0.001),
        (QueueConfig, "max_messages", 1),
        (QueueConfig, "max_bytes", 1),
        (QueueConfig, "write_high_water", 1),
        (QueueConfig, "max_unsent_bytes", 1),
        (QueueConfig, "max_unsent_age", None),
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
