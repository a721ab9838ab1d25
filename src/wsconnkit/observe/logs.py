"""Log records as JSON, one object a line, each with a type and a timestamp. It needs the extra `logs`."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any, Literal, TextIO

from pythonjsonlogger.json import JsonEncoder, JsonFormatter

from wsconnkit.protocol.printable import printable

_IDS = ("connection_id", "user_id")
_DEFAULT_TYPES = ("log", "log_error")


class JSONFormatter(JsonFormatter):
    """Formats a record with its extra fields as a JSON object on a line of its own, whatever these fields are.

    First come `type`, always a string, `timestamp` (ISO 8601, UTC), `level` and `message`. A record that brings no
    type is a `log`, or a `log_error` from the level ERROR on. `connection_id` and `user_id` are left out where None.
    """

    def __init__(self) -> None:
        super().__init__("{levelname}{message}", style="{", rename_fields={"levelname": "level"}, timestamp=True)

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        """Fill in `log_data`."""
        fields: dict[str, Any] = {}
        super().add_fields(fields, record, message_dict)
        event_type = fields.pop("type", None)
        if event_type is None:
            event_type = _DEFAULT_TYPES[record.levelno >= logging.ERROR]
        log_data["type"] = event_type if isinstance(event_type, str) else _str(event_type)
        log_data["timestamp"] = fields.pop("timestamp")
        log_data.update(fields, level=record.levelname)
        for name in _IDS:
            if log_data.get(name, "") is None:
                del log_data[name]

    def jsonify_log_record(self, log_data: dict[str, Any]) -> str:
        """Return `log_data` as a JSON object."""
        try:
            return _encode(log_data)
        except Exception:
            # Something in it is not JSON: not a number, a circle, a key that is no string.
            return _encode({str(name): _encodable(value) for name, value in log_data.items()})


class TextFormatter(JSONFormatter):
    """Formats a record for people: time, level, message and the extra fields as key=value on one line.

    More lines of the message, and tracebacks, follow with four spaces in front. Control characters are escaped, and
    others that are not to be seen.
    """

    def jsonify_log_record(self, log_data: dict[str, Any]) -> str:
        """Return `log_data` as text."""
        time = log_data.pop("timestamp").isoformat(timespec="milliseconds")
        message, *more = str(log_data.pop("message")).removesuffix("\n").split("\n")
        for name in ("exc_info", "stack_info"):
            if name in log_data:
                more += str(log_data.pop(name)).split("\n")
        if log_data["type"] in _DEFAULT_TYPES or message.startswith(log_data["type"]):
            del log_data["type"]
        line = [time, f"{log_data.pop('level'):<8}", printable(message)]
        line += [f"{printable(str(name))}={_shown(value)}" for name, value in log_data.items() if value is not None]
        return "\n    ".join([" ".join(line), *map(printable, more)])


class _Handler(logging.StreamHandler):  # type: ignore[type-arg] # from Python 3.11 on it has one
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - what logging calls it
        # A reader of the log that went away is no reason for tracebacks.
        if not isinstance(sys.exc_info()[1], BrokenPipeError):
            super().handleError(record)


def configure(
    level: str | int = "INFO",
    format: Literal["json", "text"] = "json",  # noqa: A002 - what logging calls it
    stream: TextIO | None = None,
) -> None:
    """Print the records of all loggers from `level` on to `stream`, in place of what handlers the root logger has.

    stream: standard output where there is none. Raises ValueError for another level or format.
    """
    if format not in ("json", "text"):
        raise ValueError(f"format is {format!r}; it must be 'json' or 'text'")
    handler = _Handler(sys.stdout if stream is None else stream)
    handler.setFormatter(JSONFormatter() if format == "json" else TextFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)


def _encode(value: object) -> str:
    return json.dumps(value, cls=JsonEncoder, allow_nan=False)


def _encodable(value: object) -> object:
    try:
        _encode(value)
    except Exception:
        return _str(value)
    return value


def _str(value: object) -> str:
    try:
        return str(value)
    except Exception:
        return f"<{type(value).__name__}>"


def _shown(value: object) -> str:
    value = _encodable(value)
    if not isinstance(value, str):
        return printable(_encode(value))
    is_word = value and not any(char.isspace() or char in '"=' for char in value)
    return printable(value if is_word else json.dumps(value, ensure_ascii=False))
