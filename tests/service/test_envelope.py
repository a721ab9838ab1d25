from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wsconnkit.protocol.errors import WsconnkitError
from wsconnkit.service.envelope import (
    MAX_REQUEST_ID,
    Envelope,
    RequestError,
    encode_envelope,
    error_reply,
    parse_envelope,
    request_id_of,
)

# Lone surrogates included: JSON can say them, UTF-8 cannot.
TEXT = st.text(st.characters(exclude_categories=()), max_size=20)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))
REQUEST_IDS = st.none() | st.text(st.characters(exclude_categories=()), min_size=1, max_size=MAX_REQUEST_ID)
NOW = 1700000000.1234

DEEP = '{"type":"request","requestId":"1","payload":' + "[" * 100_000 + "]" * 100_000 + "}"
HUGE_INTEGER = '{"type":"request","requestId":"1","payload":' + "9" * 5000 + "}"


def test_an_envelope_says_its_type_its_request_its_payload_and_when_it_was_made() -> None:
    text = encode_envelope("request", "7", {"action": "getData"}, NOW)
    assert json.loads(text) == {
        "type": "request",
        "requestId": "7",
        "payload": {"action": "getData"},
        "timestamp": 1700000000123,
    }
    assert parse_envelope(text) == Envelope(type="request", request_id="7", payload={"action": "getData"})


@settings(deadline=None)
@given(kind=TEXT, request_id=REQUEST_IDS, payload=JSON, wall_now=st.floats(0, 4e9))
def test_what_is_sent_is_what_arrives_and_always_fits_a_text_message(
    kind: str, request_id: str | None, payload: Any, wall_now: float
) -> None:
    text = encode_envelope(kind, request_id, payload, wall_now)
    assert parse_envelope(text.encode().decode()) == Envelope(kind, request_id, payload)


@pytest.mark.parametrize(
    "message",
    [
        b'{"type":"request","requestId":"1"}',
        "",
        "hello",
        "{",
        "[]",
        '["type"]',
        "null",
        '"type"',
        "\ufeff{}",
        "{}",
        '{"requestId":"1","payload":{}}',
        '{"type":null}',
        '{"type":7}',
        '{"type":["request"]}',
        '{"type":"request"} and more',
        "{'type':'request'}",
        '{"type":"request","payload":NaN}',
        '{"type":"request","payload":[Infinity]}',
        '{"type":"request","payload":-Infinity}',
        '{"type":"request","payload":1e999}',
        '{"type":"request","payload":-1e999}',
        '{"type":"a\nb"}',
        pytest.param(HUGE_INTEGER, id="huge integer"),
        pytest.param(DEEP, id="deep nesting"),
        pytest.param('{"type":' * 100_000, id="deep and unfinished"),
    ],
)
def test_other_messages_are_no_envelopes(message: str | bytes) -> None:
    assert parse_envelope(message) is None
    assert request_id_of(message) is None


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ('{"type":"hello"}', Envelope("hello", None, None)),
        (' \t\r\n{ "type" : "" }\n', Envelope("", None, None)),
        ('{"type":"request","requestId":null,"payload":1.5}', Envelope("request", None, 1.5)),
        ('{"type":"a","type":"b","requestId":"1","requestId":"2"}', Envelope("b", "2", None)),
        ('{"type":"request","requestId":"\\ud800"}', Envelope("request", "\ud800", None)),
        ('{"type":"request","requestId":"1","more":[]}', Envelope("request", "1", None)),
    ],
)
def test_envelopes_that_others_make(message: str, expected: Envelope) -> None:
    assert parse_envelope(message) == expected


@pytest.mark.parametrize("request_id", [7, 1.5, True, "", [], {}, "x" * (MAX_REQUEST_ID + 1), "é" * 1000])
def test_ids_that_are_no_strings_or_of_a_wrong_length_count_as_none(request_id: Any) -> None:
    text = json.dumps({"type": "request", "requestId": request_id})
    assert parse_envelope(text) == Envelope("request", None, None)
    assert request_id_of(text) is None


def test_the_longest_id_has_128_characters() -> None:
    request_id = "é" * 128
    assert request_id_of(encode_envelope("request", request_id, None, NOW)) == request_id


@settings(deadline=None)
@given(message=st.text(st.characters(exclude_categories=())) | st.binary() | JSON.map(json.dumps))
@example(message='{"type":"request","requestId":"1"')
def test_whatever_arrives_raises_nothing(message: str | bytes) -> None:
    parse_envelope(message)
    request_id_of(message)


@pytest.mark.parametrize(
    ("kind", "request_id"),
    [("request", "1"), ("auth", "1"), ("response", None), ("error", None), ("cancel", None)],
)
def test_only_what_asks_has_an_id_that_an_error_can_answer(kind: str, request_id: str | None) -> None:
    assert request_id_of(encode_envelope(kind, "1", {"requestId": "2"}, NOW)) == request_id


def test_the_id_is_not_taken_from_within_the_payload() -> None:
    assert request_id_of(encode_envelope("request", None, {"requestId": "2"}, NOW)) is None


def circular() -> list[Any]:
    payload: list[Any] = []
    payload.append(payload)
    return payload


def deep() -> list[Any]:
    payload: list[Any] = []
    for _ in range(100_000):
        payload = [payload]
    return payload


@pytest.mark.parametrize(
    "payload",
    [
        {1, 2},
        b"bytes",
        object(),
        {("a", "b"): 1},
        float("nan"),
        [float("inf")],
        {"x": -float("inf")},
        pytest.param(10**5000, id="huge integer"),
        pytest.param(circular(), id="circular"),
        pytest.param(deep(), id="deep"),
    ],
)
def test_payloads_without_a_form_in_json_are_refused(payload: Any) -> None:
    with pytest.raises(TypeError, match="the payload of this response cannot be sent as JSON: "):
        encode_envelope("response", "1", payload, NOW)


@pytest.mark.parametrize("request_id", ["7", None])
def test_an_error_reply_says_what_went_wrong_with_which_request(request_id: str | None) -> None:
    text = error_reply(request_id, "rate_limited", "too many messages", NOW, retryAfter=12.0, request_id="more")
    assert json.loads(text) == {
        "type": "error",
        "requestId": request_id,
        "payload": {
            "code": "rate_limited",
            "message": "too many messages",
            "retryAfter": 12.0,
            "request_id": "more",
        },
        "timestamp": 1700000000123,
    }


def test_a_request_error_has_a_code_a_message_and_a_payload_of_both_and_more() -> None:
    error = RequestError("not_found", "no such document", document="a")
    assert isinstance(error, WsconnkitError)
    assert (error.code, error.message) == ("not_found", "no such document")
    assert error.payload == {"code": "not_found", "message": "no such document", "document": "a"}
    assert str(error) == "the request failed with 'not_found': 'no such document'"


def test_a_request_error_needs_no_message() -> None:
    error = RequestError("not_found")
    assert error.payload == {"code": "not_found", "message": ""}
    assert str(error) == "the request failed with 'not_found'"


@pytest.mark.parametrize("again", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_a_request_error_can_be_copied(again: Any) -> None:
    error = again(RequestError("not_found", "no such document", document="a"))
    assert (error.code, error.message, error.payload["document"]) == ("not_found", "no such document", "a")


@pytest.mark.parametrize(
    ("payload", "code", "message"),
    [
        ({"code": "busy", "message": "later", "retryAfter": 1}, "busy", "later"),
        ({"code": "busy"}, "busy", ""),
        ({"code": 7, "message": ["later"]}, "unknown_error", ""),
        ({}, "unknown_error", ""),
        ("busy", "unknown_error", ""),
        (None, "unknown_error", ""),
        ([{"code": "busy"}], "unknown_error", ""),
    ],
)
def test_a_request_error_takes_any_payload(payload: Any, code: str, message: str) -> None:
    error = RequestError.from_payload(payload)
    assert (error.code, error.message, error.payload) == (code, message, payload)


def test_the_text_of_a_request_error_fits_one_line_and_utf_8() -> None:
    error = RequestError.from_payload({"code": "a\nb\ud800", "message": "c\x1b[0m\nd"})
    assert str(error) == r"the request failed with 'a\nb\ud800': 'c\x1b[0m\nd'"
