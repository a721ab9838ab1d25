from __future__ import annotations

import io
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from enum import Enum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsconnkit.observe.logs import JSONFormatter, TextFormatter, configure

FILTERS = [
    'select(.type | startswith("connection"))',
    'select(.type | startswith("heartbeat"))',
    'select(.type | endswith("error"))',
]


def record_of(
    level: int, message: object, args: tuple[Any, ...] = (), /, *, error: BaseException | None = None, **extra: Any
) -> logging.LogRecord:
    exc_info = None if error is None else (type(error), error, error.__traceback__)
    make: Any = logging.getLogger("tests").makeRecord
    record: logging.LogRecord = make("tests", level, "file.py", 1, message, args, exc_info, extra=extra)
    return record


def strict(text: str) -> dict[str, Any]:
    """Parse JSON as it is defined, which has no NaN."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    line: dict[str, Any] = json.loads(text, parse_constant=refuse)
    return line


def line_of(level: int, message: object, /, **options: Any) -> dict[str, Any]:
    text = JSONFormatter().format(record_of(level, message, **options))
    assert text.isascii()
    assert text.isprintable()
    return strict(text)


def text_of(level: int, message: object, /, **options: Any) -> str:
    """Return the text, without the time, which is checked."""
    time, _, rest = TextFormatter().format(record_of(level, message, **options)).partition(" ")
    assert datetime.fromisoformat(time).utcoffset() == timedelta(0)
    assert len(time) == len("2025-01-31T12:00:00.000+00:00")
    return rest


class Unspeakable:
    def __repr__(self) -> str:
        raise OSError


class Kind(Enum):
    PING = "heartbeat_ping"


CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)
DEEP: Any = None
for _ in range(100_000):
    DEEP = [DEEP]


# JSON


def test_a_line_has_type_timestamp_level_and_message_first() -> None:
    line = line_of(logging.INFO, "said", type="connection_opened", connection_id="abc", path="/ws", user_id="u")
    assert list(line) == ["type", "timestamp", "level", "message", "connection_id", "path", "user_id"]
    del line["timestamp"]
    assert line == {
        "type": "connection_opened",
        "level": "INFO",
        "message": "said",
        "connection_id": "abc",
        "path": "/ws",
        "user_id": "u",
    }


def test_the_timestamp_is_the_record_s_in_iso_8601_and_utc() -> None:
    record = record_of(logging.INFO, "said", timestamp="yesterday")
    at = datetime.fromisoformat(strict(JSONFormatter().format(record))["timestamp"])
    assert at.utcoffset() == timedelta(0)
    assert at.timestamp() == pytest.approx(record.created, abs=1e-5)


@pytest.mark.parametrize(
    ("level", "event_type"),
    [(logging.DEBUG, "log"), (logging.WARNING, "log"), (logging.ERROR, "log_error"), (logging.CRITICAL, "log_error")],
)
def test_records_of_others_get_a_type_by_their_level(level: int, event_type: str) -> None:
    assert line_of(level, "said")["type"] == event_type
    assert line_of(level, "said", type=None)["type"] == event_type


@pytest.mark.parametrize(
    ("value", "event_type"), [("", ""), (5, "5"), (True, "True"), (["a"], "['a']"), (Unspeakable(), "<Unspeakable>")]
)
def test_the_type_is_a_string_whatever_it_was(value: object, event_type: str) -> None:
    assert line_of(logging.INFO, "said", type=value)["type"] == event_type
    assert line_of(logging.INFO, {"type": value})["type"] == event_type


@pytest.mark.parametrize("name", ["connection_id", "user_id"])
def test_who_is_not_known_is_left_out(name: str) -> None:
    assert name not in line_of(logging.INFO, "said", **{name: None})
    assert line_of(logging.INFO, "said", **{name: ""})[name] == ""
    assert line_of(logging.INFO, "said", error_text=None)["error_text"] is None


def test_the_level_is_the_record_s() -> None:
    assert line_of(logging.WARNING, "said", level=5)["level"] == "WARNING"


def test_a_dictionary_is_a_message_of_fields() -> None:
    line = line_of(logging.INFO, {"type": "connection_seen", "connection_id": None, "message": "seen", "count": 2})
    assert list(line) == ["type", "timestamp", "level", "message", "count"]
    assert (line["type"], line["message"], line["count"]) == ("connection_seen", "seen", 2)


def test_a_traceback_stays_on_the_line() -> None:
    line = line_of(logging.ERROR, "said", error=ValueError("wrong\nreally"), type="handler_error")
    assert line["type"] == "handler_error"
    assert "ValueError: wrong\nreally" in line["exc_info"]


def test_what_is_no_json_is_written_as_a_string_and_leaves_the_rest_alone() -> None:
    line = line_of(
        logging.INFO,
        "said",
        code=1000,
        late_by=float("nan"),
        latency=float("inf"),
        circle=CIRCLE,
        deep=DEEP,
        keys={(1, 2): 3},
        speechless=Unspeakable(),
        hopeless=[Unspeakable(), float("nan")],
    )
    assert line["code"] == 1000
    assert (line["late_by"], line["latency"]) == ("nan", "inf")
    assert (line["circle"], line["deep"]) == ("[[...]]", "<list>")
    assert line["keys"] == "{(1, 2): 3}"
    assert isinstance(line["speechless"], str)
    assert line["hopeless"] == "<list>"


def test_names_of_fields_are_strings() -> None:
    record = record_of(logging.INFO, "said")
    record.__dict__.update({5: "five", (1, 2): "pair"})  # type: ignore[dict-item]
    line = strict(JSONFormatter().format(record))
    assert (line["5"], line["(1, 2)"]) == ("five", "pair")


def test_what_has_a_usual_form_in_json_has_that() -> None:
    line = line_of(logging.INFO, "said", kind=Kind.PING, day=date(2025, 1, 31), error=None, address=("127.0.0.1", 5))
    assert (line["kind"], line["day"], line["address"]) == ("heartbeat_ping", "2025-01-31", ["127.0.0.1", 5])


TEXTS = st.text('a1é "=\\\n\r\x1b\u2028\udcff', max_size=6)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=5) | TEXTS | st.builds(Unspeakable),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS | st.integers(), inner, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from(["type", "timestamp", "level", "connection_id", "user_id", "code", "é", "a b", 5, (1, 2)])


@given(st.dictionaries(NAMES, VALUES), TEXTS)
def test_whatever_a_record_brings_makes_a_line_of_each_format(fields: dict[Any, Any], message: str) -> None:
    record = record_of(logging.INFO, "%s", (message,))
    record.__dict__.update(fields)
    text = JSONFormatter().format(record)
    assert text.isascii()
    assert text.isprintable()
    line = strict(text)
    assert isinstance(line["type"], str)
    assert datetime.fromisoformat(line["timestamp"]).utcoffset() == timedelta(0)
    assert line.get("connection_id", "") is not None
    first, *more = TextFormatter().format(record).split("\n")
    assert all(line.startswith("    ") for line in more)
    assert all(line.isprintable() for line in [first, *more])


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
def test_filters_of_jq_work_on_every_line() -> None:
    types: list[Any] = ["connection_opened", "heartbeat_ping", "auth_error", None, 5, Kind.PING, [], Unspeakable()]
    lines = [
        JSONFormatter().format(record_of(logging.INFO, "said", type=event_type, more=more))
        for event_type in types
        for more in (float("nan"), float("inf"), "\udcff", "\x00\u2028", 10**30, CIRCLE)
    ]
    for expression, count in zip([".", *FILTERS], (48, 6, 6, 6), strict=True):
        run = subprocess.run(
            ["jq", "-c", expression],
            input="\n".join(lines),
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=True,
        )
        assert (run.stdout.count("\n"), run.stderr) == (count, "")


# Text


def test_text_is_time_level_message_and_fields() -> None:
    text = text_of(
        logging.INFO,
        "connection_opened abc",
        type="connection_opened",
        connection_id="abc",
        user_id=None,
        path="/ws",
        clean=True,
        error=None,
        late_by=float("nan"),
        remote_address=("127.0.0.1", 5),
    )
    assert text == (
        "INFO     connection_opened abc connection_id=abc path=/ws clean=true late_by=nan "
        'remote_address=["127.0.0.1", 5]'
    )


def test_a_type_that_the_message_does_not_tell_is_a_field() -> None:
    assert text_of(logging.WARNING, "said", type="heard") == "WARNING  said type=heard"
    assert text_of(logging.WARNING, "said") == "WARNING  said"
    assert text_of(logging.ERROR, "said") == "ERROR    said"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("two words", '"two words"'),
        ("", '""'),
        ("a=b", '"a=b"'),
        ('"', '"\\""'),
        ("é", "é"),
        ("a\x1b[31m\u202e", "a\\x1b[31m\\u202e"),
        ("a\nb c", '"a\\nb c"'),
        ("\udcff", "\\udcff"),
    ],
)
def test_values_in_text_are_quoted_where_they_must_be(value: str, shown: str) -> None:
    assert text_of(logging.INFO, "said", field=value) == f"INFO     said field={shown}"


def test_more_lines_than_one_are_indented_in_text() -> None:
    text = text_of(logging.ERROR, "first\nsecond\x1b[2J", error=ValueError("wrong\n2025 INFO forged"), field=1)
    lines = text.split("\n")
    assert lines[0] == "ERROR    first field=1"
    assert lines[1:] == ["    second\\x1b[2J", "    ValueError: wrong", "    2025 INFO forged"]


def test_only_line_feeds_begin_a_line_in_text() -> None:
    text = text_of(logging.INFO, "first\u2028second\x85third\r\x0bfourth\n", field="a\u2028b")
    assert text == 'INFO     first\\u2028second\\x85third\\r\\x0bfourth field="a\\u2028b"'


def test_an_empty_message_is_one_in_text() -> None:
    assert text_of(logging.INFO, "", field=1) == "INFO      field=1"


# configure


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, with nothing on it for the length of a test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


def test_configured_all_loggers_print_from_a_level_on(root: logging.Logger) -> None:
    stream = io.StringIO()
    configure("WARNING", stream=stream)
    logging.getLogger("wsconnkit.connection").info("unheard")
    logging.getLogger("anyone").warning("heard", extra={"type": "heard"})
    assert strict(stream.getvalue())["type"] == "heard"
    assert root.level == logging.WARNING


def test_configured_again_the_last_call_counts(root: logging.Logger) -> None:
    first, last = io.StringIO(), io.StringIO()
    configure(stream=first)
    configure(logging.DEBUG, "text", last)
    root.debug("heard")
    assert first.getvalue() == ""
    assert last.getvalue().endswith("DEBUG    heard\n")


def test_it_prints_json_to_standard_output_from_info_on(
    root: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    configure()
    root.debug("unheard")
    root.info("heard")
    captured = capsys.readouterr()
    assert (strict(captured.out)["message"], captured.err) == ("heard", "")


def test_a_format_or_level_that_does_not_exist_is_refused_and_changes_nothing(root: logging.Logger) -> None:
    wrong: Any = "xml"
    with pytest.raises(ValueError, match="format is 'xml'; it must be 'json' or 'text'"):
        configure(format=wrong)
    with pytest.raises(ValueError, match="LOUD"):
        configure("LOUD")


def test_a_reader_that_went_away_is_no_error_but_another_is(
    root: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise error

    configure(stream=Gone())
    error: OSError = BrokenPipeError()
    root.info("said")
    assert capsys.readouterr().err == ""
    error = OSError("no space left")
    root.info("said")
    assert "no space left" in capsys.readouterr().err


def test_importing_it_configures_nothing() -> None:
    code = "import logging, wsconnkit.observe.logs; assert not logging.getLogger().handlers"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
