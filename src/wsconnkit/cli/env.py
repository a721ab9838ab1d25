"""The settings of `wsconnkit serve` from environment variables; times there are in milliseconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from wsconnkit.machines.framesize import FrameLimits
from wsconnkit.machines.heartbeat import HeartbeatConfig
from wsconnkit.protocol.config import CloseConfig, ConnectionConfig
from wsconnkit.protocol.deflate import CompressionConfig

_MAX_INTEGER = 2**31 - 1
_FLAGS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
_LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """What a server is started with."""

    port: int
    path: str
    log_level: str
    config: ConnectionConfig


class BadSettings(ValueError):
    """Values that are not allowed; `problems` names each variable, its value and what is allowed."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def parse_settings(variables: Mapping[str, str | None]) -> ServeSettings:
    """Return the settings in `variables`, defaults where there are none. Raises BadSettings, once for all of them."""
    reader = _Reader(variables)
    max_size = reader.integer("MAX_FRAME_SIZE", 1024 * 1024, unit="bytes")
    compression = CompressionConfig(
        level=reader.integer("COMPRESSION_LEVEL", 6, high=9),
        threshold=reader.integer("COMPRESSION_THRESHOLD", 1024, low=0, unit="bytes"),
    )
    settings = ServeSettings(
        port=reader.integer("WEBSOCKET_PORT", 3001, low=0, high=65535),
        path=reader.path("WEBSOCKET_PATH", "/ws"),
        log_level=reader.log_level("LOG_LEVEL", "INFO"),
        config=ConnectionConfig(
            heartbeat=HeartbeatConfig(
                interval=reader.seconds("PING_INTERVAL", 30_000),
                timeout=reader.seconds("PONG_TIMEOUT", 5_000),
                max_missed=reader.integer("MAX_MISSED_PONGS", 3),
            ),
            limits=FrameLimits(
                max_frame_size=max_size,
                max_message_size=max_size,
                warn_threshold=reader.integer("FRAME_WARN_THRESHOLD", 512 * 1024, unit="bytes"),
            ),
            compression=compression if reader.flag("COMPRESSION_ENABLED", True) else None,
            close=CloseConfig(timeout=reader.seconds("CLOSE_TIMEOUT", 5_000)),
            idle_timeout=reader.seconds("IDLE_TIMEOUT", 300_000),
        ),
    )
    if reader.problems:
        raise BadSettings(reader.problems)
    return settings


class _Reader:
    """Reads one variable after the other; a bad one gives its default and a problem."""

    def __init__(self, variables: Mapping[str, str | None]) -> None:
        self._variables = variables
        self.problems: list[str] = []

    def integer(self, name: str, default: int, *, low: int = 1, high: int = _MAX_INTEGER, unit: str = "") -> int:
        text = self._text(name, str(default))
        # Digits only: int() would also take "1_000" and digits of other scripts. Ten are enough for the highest.
        if text.isascii() and text.isdecimal() and len(text) <= 10 and low <= int(text) <= high:
            return int(text)
        self._refuse(name, f"an integer, {low} to {high}{unit and ' ' + unit}")
        return default

    def seconds(self, name: str, default: int) -> float:
        return self.integer(name, default, unit="milliseconds") / 1000

    def flag(self, name: str, default: bool) -> bool:
        text = self._text(name, str(default)).lower()
        if text not in _FLAGS:
            self._refuse(name, "true or false (also 1, yes, on, 0, no, off)")
        return _FLAGS.get(text, default)

    def path(self, name: str, default: str) -> str:
        text = self._text(name, default)
        if is_path(text):
            return text
        self._refuse(name, PATH_RULE)
        return default

    def log_level(self, name: str, default: str) -> str:
        text = self._text(name, default).upper()
        if text in _LOG_LEVELS:
            return text
        self._refuse(name, f"one of {', '.join(_LOG_LEVELS)}")
        return default

    def _text(self, name: str, default: str) -> str:
        # A dotenv file has None for a name without a value.
        return (self._variables.get(name, default) or "").strip()

    def _refuse(self, name: str, allowed: str) -> None:
        self.problems.append(f"{name} is {self._variables[name] or ''!r}; it must be {allowed}")


PATH_RULE = "a path that starts with '/', without spaces, '?' and '#'"


def is_path(text: str) -> bool:
    """Tell whether `text` can be the path that a server serves."""
    return text.startswith("/") and not any(char in "?#" or char.isspace() for char in text)
