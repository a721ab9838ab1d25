from __future__ import annotations

from typing import Any

import pytest

from wsconnkit.cli.env import BadSettings, is_path, parse_settings
from wsconnkit.machines.framesize import FrameLimits
from wsconnkit.machines.heartbeat import HeartbeatConfig
from wsconnkit.protocol.config import CloseConfig, ConnectionConfig
from wsconnkit.protocol.deflate import CompressionConfig

DEFAULTS = {
    "WEBSOCKET_PORT": "3001",
    "WEBSOCKET_PATH": "/ws",
    "PING_INTERVAL": "30000",
    "PONG_TIMEOUT": "5000",
    "MAX_MISSED_PONGS": "3",
    "COMPRESSION_ENABLED": "true",
    "COMPRESSION_LEVEL": "6",
    "COMPRESSION_THRESHOLD": "1024",
    "MAX_FRAME_SIZE": "1048576",
    "FRAME_WARN_THRESHOLD": "524288",
    "IDLE_TIMEOUT": "300000",
    "CLOSE_TIMEOUT": "5000",
    "LOG_LEVEL": "INFO",
}
INTEGERS = {
    "WEBSOCKET_PORT": (0, 65535),
    "PING_INTERVAL": (1, 2**31 - 1),
    "PONG_TIMEOUT": (1, 2**31 - 1),
    "MAX_MISSED_PONGS": (1, 2**31 - 1),
    "COMPRESSION_LEVEL": (1, 9),
    "COMPRESSION_THRESHOLD": (0, 2**31 - 1),
    "MAX_FRAME_SIZE": (1, 2**31 - 1),
    "FRAME_WARN_THRESHOLD": (1, 2**31 - 1),
    "IDLE_TIMEOUT": (1, 2**31 - 1),
    "CLOSE_TIMEOUT": (1, 2**31 - 1),
}


def test_what_is_not_given_is_as_if_the_defaults_were() -> None:
    settings = parse_settings({})
    assert settings == parse_settings(DEFAULTS)
    assert (settings.port, settings.path, settings.log_level) == (3001, "/ws", "INFO")
    assert settings.config == ConnectionConfig(idle_timeout=300.0)


def test_each_variable_reaches_its_setting_and_milliseconds_become_seconds() -> None:
    settings = parse_settings(
        {
            "WEBSOCKET_PORT": "0",
            "WEBSOCKET_PATH": "/a/b",
            "PING_INTERVAL": "1500",
            "PONG_TIMEOUT": "250",
            "MAX_MISSED_PONGS": "2",
            "COMPRESSION_LEVEL": "9",
            "COMPRESSION_THRESHOLD": "0",
            "MAX_FRAME_SIZE": "1000",
            "FRAME_WARN_THRESHOLD": "500",
            "IDLE_TIMEOUT": "2500",
            "CLOSE_TIMEOUT": "1",
            "LOG_LEVEL": "debug",
        }
    )
    assert (settings.port, settings.path, settings.log_level) == (0, "/a/b", "DEBUG")
    assert settings.config == ConnectionConfig(
        heartbeat=HeartbeatConfig(interval=1.5, timeout=0.25, max_missed=2),
        limits=FrameLimits(max_frame_size=1000, max_message_size=1000, warn_threshold=500),
        compression=CompressionConfig(level=9, threshold=0),
        close=CloseConfig(timeout=0.001),
        idle_timeout=2.5,
    )


@pytest.mark.parametrize(
    ("text", "enabled"),
    [
        *((text, True) for text in ("true", "TRUE", "1", "yes", "on", " on ")),
        *((text, False) for text in ("false", "False", "0", "no", "off")),
    ],
)
def test_compression_is_switched_in_the_usual_words(text: str, enabled: bool) -> None:
    assert (parse_settings({"COMPRESSION_ENABLED": text}).config.compression is not None) is enabled


@pytest.mark.parametrize(("name", "bounds"), INTEGERS.items())
def test_integers_are_taken_within_their_bounds_only(name: str, bounds: tuple[int, int]) -> None:
    low, high = bounds
    for value in bounds:
        parse_settings({name: str(value)})
    for text in (str(low - 1), str(high + 1), "abc", "", "1.5", "1_0", "٣", "9" * 5000, "0x10", "+1"):
        with pytest.raises(BadSettings) as caught:
            parse_settings({name: text})
        (problem,) = caught.value.problems
        assert problem.startswith(f"{name} is {text!r}; it must be an integer, {low} to {high}")


@pytest.mark.parametrize(
    ("name", "text", "allowed"),
    [
        ("WEBSOCKET_PATH", "ws", "a path that starts with '/', without spaces, '?' and '#'"),
        ("COMPRESSION_ENABLED", "maybe", "true or false (also 1, yes, on, 0, no, off)"),
        ("LOG_LEVEL", "LOUD", "one of DEBUG, INFO, WARNING, ERROR, CRITICAL"),
        ("PING_INTERVAL", "-5", "an integer, 1 to 2147483647 milliseconds"),
        ("MAX_FRAME_SIZE", "1 MB", "an integer, 1 to 2147483647 bytes"),
        ("COMPRESSION_LEVEL", "10", "an integer, 1 to 9"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(name: str, text: str, allowed: str) -> None:
    with pytest.raises(BadSettings) as caught:
        parse_settings({name: text})
    assert caught.value.problems == [f"{name} is {text!r}; it must be {allowed}"]


def test_a_name_without_a_value_is_a_bad_value() -> None:
    variables: dict[str, Any] = {"LOG_LEVEL": None}
    with pytest.raises(BadSettings, match="LOG_LEVEL is ''; it must be one of"):
        parse_settings(variables)


def test_all_bad_values_are_told_at_once() -> None:
    with pytest.raises(BadSettings) as caught:
        parse_settings(dict.fromkeys(DEFAULTS, "?"))
    assert sorted(problem.partition(" is '?'; it must be ")[0] for problem in caught.value.problems) == sorted(DEFAULTS)


@pytest.mark.parametrize(
    ("text", "good"),
    [("/", True), ("/ws", True), ("/a/b%20c", True), ("", False), ("ws", False), ("/a b", False), ("/a?b", False)],
)
def test_a_path_is_what_a_request_can_ask_for(text: str, good: bool) -> None:
    assert is_path(text) is good
