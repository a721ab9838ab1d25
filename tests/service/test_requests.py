from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from wsconnkit.protocol.errors import LocalProtocolError, WsconnkitError
from wsconnkit.service.envelope import encode_envelope, error_reply
from wsconnkit.service.requests import Answer, PendingRequests, RequestTimeout, check_timeout

NOW = 1700000000.0


def test_a_request_is_an_envelope_with_an_id_of_its_own() -> None:
    pending = PendingRequests("c0ffee")
    request_id, text = pending.new({"action": "getData"}, NOW)
    assert request_id == "c0ffee-1"
    assert json.loads(text) == {
        "type": "request",
        "requestId": "c0ffee-1",
        "payload": {"action": "getData"},
        "timestamp": 1700000000000,
    }
    assert pending.new(None, NOW)[0] == "c0ffee-2"


def test_an_envelope_of_another_type_can_ask_too() -> None:
    pending = PendingRequests("c")
    request_id, text = pending.new({"token": "t"}, NOW, kind="auth")
    assert (json.loads(text)["type"], json.loads(text)["requestId"]) == ("auth", request_id)
    assert pending.match(encode_envelope("response", request_id, None, NOW)) == Answer(request_id, False, None, None)


def test_a_response_answers_its_request() -> None:
    pending = PendingRequests("c")
    first, _ = pending.new("first", NOW)
    second, _ = pending.new("second", NOW)
    assert pending.match(encode_envelope("response", second, [2], NOW)) == Answer(second, False, [2], None)
    assert pending.match(encode_envelope("response", first, None, NOW)) == Answer(first, False, None, None)
    assert pending.late == 0


def test_an_error_answers_its_request_too() -> None:
    pending = PendingRequests("c")
    request_id, _ = pending.new(None, NOW)
    answer = pending.match(error_reply(request_id, "not_found", "no such document", NOW, document="a"))
    assert answer is not None
    assert (answer.request_id, answer.late) == (request_id, False)
    assert answer.error is not None
    assert (answer.error.code, answer.error.message) == ("not_found", "no such document")
    assert answer.error.payload == answer.payload
    assert answer.payload == {"code": "not_found", "message": "no such document", "document": "a"}


def test_an_error_without_a_payload_is_an_error_all_the_same() -> None:
    pending = PendingRequests("c")
    request_id, _ = pending.new(None, NOW)
    answer = pending.match(encode_envelope("error", request_id, None, NOW))
    assert answer is not None
    assert answer.error is not None
    assert (answer.error.code, answer.error.payload) == ("unknown_error", None)


def test_an_answer_that_nobody_waits_for_is_late() -> None:
    pending = PendingRequests("c")
    request_id, _ = pending.new(None, NOW)
    pending.forget(request_id)
    pending.forget(request_id)
    assert pending.match(encode_envelope("response", request_id, 1, NOW)) == Answer(request_id, True, 1, None)
    assert pending.late == 1


def test_the_second_answer_to_a_request_is_late() -> None:
    pending = PendingRequests("c")
    request_id, _ = pending.new(None, NOW)
    text = encode_envelope("response", request_id, 1, NOW)
    answers = [pending.match(text) for _ in range(3)]
    assert [answer.late for answer in answers if answer] == [False, True, True]
    assert pending.late == 2


@pytest.mark.parametrize(
    "message",
    [
        "c-1",
        "hello",
        b'{"type":"response","requestId":"c-1"}',
        '{"type":"response","requestId":"c-1"',
        '{"type":"response","requestId":"d-1"}',
        '{"type":"response","requestId":"xc-1"}',
        '{"type":"response","requestId":"c1"}',
        '{"type":"response","requestId":null,"payload":"c-1"}',
        '{"type":"error","payload":{"code":"c-1"}}',
        '{"type":"request","requestId":"c-1"}',
        '{"type":"cancel","requestId":"c-1"}',
        '{"type":"progress","requestId":"c-1"}',
    ],
)
def test_other_messages_are_no_answers_and_settle_nothing(message: str | bytes) -> None:
    pending = PendingRequests("c")
    request_id, _ = pending.new(None, NOW)
    assert pending.match(message) is None
    assert pending.late == 0
    assert pending.match(encode_envelope("response", request_id, 1, NOW)) == Answer(request_id, False, 1, None)


@settings(deadline=None)
@given(message=st.text(st.characters(exclude_categories=())).map(lambda text: f"c-{text}") | st.binary())
def test_whatever_arrives_raises_nothing(message: str | bytes) -> None:
    assert PendingRequests("c").match(message) is None


def test_a_request_over_the_bound_is_refused_until_another_is_answered_or_forgotten() -> None:
    pending = PendingRequests("c", max_pending=2)
    first, second = pending.new(None, NOW)[0], pending.new(None, NOW)[0]
    with pytest.raises(LocalProtocolError, match="2 requests are pending, the most allowed"):
        pending.new(None, NOW)
    pending.forget(first)
    assert pending.new(None, NOW)[0] == "c-3"
    with pytest.raises(LocalProtocolError):
        pending.new(None, NOW)
    pending.match(encode_envelope("response", second, None, NOW))
    assert pending.new(None, NOW)[0] == "c-4"


def test_a_payload_without_a_form_in_json_is_refused_and_nothing_is_pending() -> None:
    pending = PendingRequests("c", max_pending=1)
    for payload in (object(), float("nan")):
        with pytest.raises(TypeError, match="cannot be sent as JSON"):
            pending.new(payload, NOW)
    assert pending.new(None, NOW)[0] == "c-1"


def test_a_cancellation_names_the_request() -> None:
    pending = PendingRequests("c")
    request_id, _ = pending.new(None, NOW)
    assert json.loads(pending.cancel_text(request_id, NOW)) == {
        "type": "cancel",
        "requestId": request_id,
        "payload": None,
        "timestamp": 1700000000000,
    }


@pytest.mark.parametrize("prefix", ["", "a-b", 'a"b', "a b", "é", "\u0663", "a\n", "x" * 65])
def test_a_prefix_that_could_look_different_in_json_or_be_too_long_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="it must be 1 to 64 ASCII letters and digits") as caught:
        PendingRequests(prefix)
    assert repr(prefix) in str(caught.value)


@pytest.mark.parametrize("max_pending", [0, -1, float("nan")])
def test_at_least_one_request_may_be_pending(max_pending: Any) -> None:
    with pytest.raises(ValueError, match=f"max_pending is {max_pending}; it must be at least 1"):
        PendingRequests("c", max_pending=max_pending)


def test_a_timeout_can_be_caught_as_ours_and_as_pythons() -> None:
    for kind in (WsconnkitError, TimeoutError):
        with pytest.raises(kind, match="no answer within 30 s"):
            raise RequestTimeout("no answer within 30 s")


class PendingAgainstAModel(RuleBasedStateMachine):
    """The model keeps every id ever made with whether it is waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.pending = PendingRequests("c", max_pending=3)
        self.waiting: dict[str, bool] = {}
        self.late = 0

    @rule()
    def new(self) -> None:
        if sum(self.waiting.values()) == 3:
            with pytest.raises(LocalProtocolError):
                self.pending.new(None, NOW)
        else:
            request_id, _ = self.pending.new(None, NOW)
            assert request_id not in self.waiting
            self.waiting[request_id] = True

    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        if self.waiting:
            request_id = data.draw(st.sampled_from(list(self.waiting)))
            self.pending.forget(request_id)
            self.waiting[request_id] = False

    @rule(data=st.data(), kind=st.sampled_from(["response", "error"]))
    def answer(self, data: st.DataObject, kind: str) -> None:
        if self.waiting:
            request_id = data.draw(st.sampled_from(list(self.waiting)))
            late = not self.waiting[request_id]
            answer = self.pending.match(encode_envelope(kind, request_id, 5, NOW))
            assert answer is not None
            assert (answer.request_id, answer.late, answer.payload) == (request_id, late, 5)
            assert (answer.error is None) is (kind == "response")
            self.waiting[request_id] = False
            self.late += late
            assert self.pending.late == self.late


def test_agrees_with_a_naive_model_whatever_the_order_of_calls() -> None:
    run_state_machine_as_test(
        PendingAgainstAModel, settings=settings(max_examples=60, stateful_step_count=30, deadline=None)
    )


@pytest.mark.parametrize("value", [-1, -0.001, float("nan"), float("inf"), -float("inf")])
def test_a_timeout_is_finite_and_not_negative(value: float) -> None:
    with pytest.raises(ValueError, match="it must be a finite number of seconds, at least 0, or None") as caught:
        check_timeout(value)
    assert str(caught.value).startswith(f"timeout is {value!r};")


@pytest.mark.parametrize("value", [None, 0, 0.5, 1e9])
def test_a_timeout_may_be_any_other_number_of_seconds_or_none(value: float | None) -> None:
    check_timeout(value)
