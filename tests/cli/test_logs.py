from __future__ import annotations

import json
import logging
from datetime import datetime, timedelta
from typing import Any

import pytest

from wsconnkit.cli.logs import JSONLines


def line_of(level: int, message: str, *, error: BaseException | None = None, **extra: Any) -> dict[str, Any]:
    logger = logging.getLogger("tests")
    exc_info = None if error is None else (type(error), error, error.__traceback__)
    record = logger.makeRecord("tests", level, "file.py", 1, message, (), exc_info, extra=extra)
    text = JSONLines().format(record)
    assert "\n" not in text
    line: dict[str, Any] = json.loads(text)
    return line


def test_a_line_has_type_timestamp_level_and_message_first() -> None:
    line = line_of(logging.INFO, "said", type="connection_opened", connection_id="abc", path="/ws")
    assert list(line) == ["type", "timestamp", "level", "message", "connection_id", "path"]
    del line["timestamp"]
    assert line == {
        "type": "connection_opened",
        "level": "INFO",
        "message": "said",
        "connection_id": "abc",
        "path": "/ws",
    }


def test_the_timestamp_is_iso_8601_in_utc() -> None:
    assert datetime.fromisoformat(line_of(logging.INFO, "said")["timestamp"]).utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    ("level", "event_type"),
    [(logging.DEBUG, "log"), (logging.WARNING, "log"), (logging.ERROR, "log_error"), (logging.CRITICAL, "log_error")],
)
def test_records_of_others_get_a_type_by_their_level(level: int, event_type: str) -> None:
    assert line_of(level, "said")["type"] == event_type


def test_a_connection_that_is_not_known_is_left_out() -> None:
    assert "connection_id" not in line_of(logging.INFO, "said", type="upgrade_refused", connection_id=None)


def test_a_traceback_stays_on_the_line() -> None:
    line = line_of(logging.ERROR, "said", error=ValueError("wrong"), type="handler_error")
    assert line["type"] == "handler_error"
    assert "ValueError: wrong" in line["exc_info"]
