"""Log records as JSON, one object a line, each with a type and a timestamp."""

from __future__ import annotations

import logging
import sys
from typing import Any

from pythonjsonlogger.json import JsonFormatter


class JSONLines(JsonFormatter):
    """Formats records; one that brings no `type` of its own gets `log`, or `log_error` from ERROR on."""

    def __init__(self) -> None:
        super().__init__("{levelname}{message}", style="{", rename_fields={"levelname": "level"}, timestamp=True)

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        """Fill in `log_data`, the fields that every line has first."""
        fields: dict[str, Any] = {}
        super().add_fields(fields, record, message_dict)
        default = "log_error" if record.levelno >= logging.ERROR else "log"
        log_data.update(type=fields.pop("type", default), timestamp=fields.pop("timestamp"))
        if fields.get("connection_id", "") is None:
            del fields["connection_id"]
        log_data.update(fields)


def log_to_stdout(level: str) -> None:
    """Print the records of all loggers from `level` on to standard output."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JSONLines())
    logging.basicConfig(level=level, handlers=[handler])
    # A reader of the log that went away is no reason for tracebacks.
    logging.raiseExceptions = False
