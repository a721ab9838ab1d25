from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from wsconnkit.managed.answering import Request
from wsconnkit.service.envelope import MAX_REQUEST_ID, RequestError, encode_envelope, error_reply
from wsconnkit.service.requests import PendingRequests, RequestTimeout
from wsconnkit.service.router import Call, Calls, Cancel, Finished, Pass, Reply, RequestRouter

NOW = 1700000000.0


async def get_data(request: Request) -> object: ...


async def anything(request: Request) -> object: ...


async def on_message(connection: object, message: str | bytes) -> None: ...


def new_calls(**kwargs: Any) -> Calls:
    router = RequestRouter(**kwargs)
    router.action("getData")(get_data)
    return router.calls()


def receive(calls: Calls, message: str | bytes, *, closing: bool = False) -> Call | Reply | Cancel | Pass | None:
    return calls.receive(message, closing=closing, wall_now=NOW)


def request(request_id: str | None = "7", action: str = "getData") -> str:
    return encode_envelope("request", request_id, {"action": action}, NOW)


def cancel(request_id: str | None = "7") -> str:
    return encode_envelope("cancel", request_id, None, NOW)


def error_of(answer: object) -> tuple[str | None, str, str]:
    """Return the id, the code and the message of an error that is sent."""
    assert isinstance(answer, (Reply, Finished))
    assert answer.text is not None
    fields = json.loads(answer.text)
    assert set(fields) == {"type", "requestId", "payload", "timestamp"}
    assert (fields["type"], fields["timestamp"]) == ("error", 1700000000000)
    assert set(fields["payload"]) == {"code", "message"}
    return fields["requestId"], fields["payload"]["code"], fields["payload"]["message"]


def test_a_request_is_a_call_of_the_handler_of_its_action() -> None:
    calls = new_calls()
    assert receive(calls, request("7")) == Call("7", get_data, "getData", {"action": "getData"})
    assert calls.in_flight == 1


def test_what_the_handler_returns_is_the_payload_of_the_response() -> None:
    calls = new_calls()
    receive(calls, request("7"))
    text, error = calls.finish("7", {"items": [1]}, NOW)
    assert text is not None
    assert json.loads(text) == {
        "type": "response",
        "requestId": "7",
        "payload": {"items": [1]},
        "timestamp": 1700000000000,
    }
    assert error is None


def test_many_requests_are_in_flight_and_finish_in_any_order() -> None:
    calls = new_calls()
    for request_id in "abc":
        receive(calls, request(request_id))
    replies = [json.loads(calls.finish(request_id, request_id, NOW).text or "") for request_id in "bca"]
    assert [(reply["requestId"], reply["payload"]) for reply in replies] == [("b", "b"), ("c", "c"), ("a", "a")]


def test_each_connection_has_its_own_requests_in_flight() -> None:
    router = RequestRouter(max_concurrent=1)
    router.default(anything)
    first, second = router.calls(), router.calls()
    assert isinstance(receive(first, request("7")), Call)
    assert isinstance(receive(second, request("7")), Call)


@pytest.mark.parametrize("request_id", [None, 7, "", "x" * (MAX_REQUEST_ID + 1)])
def test_a_request_without_a_usable_id_is_invalid(request_id: Any) -> None:
    calls = new_calls()
    answer = receive(calls, request(request_id))
    assert error_of(answer) == (None, "invalid_request", "requestId must be a string of 1 to 128 characters")
    assert calls.in_flight == 0


def test_an_id_that_is_in_flight_is_refused_until_that_request_is_released() -> None:
    calls = new_calls()
    receive(calls, request("7"))
    message = "a request with this requestId is in flight"
    assert error_of(receive(calls, request("7"))) == ("7", "duplicate_request", message)
    assert error_of(receive(calls, request("7"), closing=True)) == ("7", "duplicate_request", message)
    assert calls.in_flight == 1
    calls.finish("7", None, NOW)
    assert error_of(receive(calls, request("7"))) == ("7", "duplicate_request", message)  # its reply is not sent
    calls.release("7")
    assert calls.in_flight == 0
    assert isinstance(receive(calls, request("7")), Call)


def test_requests_over_the_bound_are_refused_until_one_is_released() -> None:
    calls = new_calls(max_concurrent=2)
    receive(calls, request("1"))
    receive(calls, request("2"))
    message = "2 requests are in flight, the most allowed"
    assert error_of(receive(calls, request("3"))) == ("3", "too_many_requests", message)
    receive(calls, cancel("1"))
    assert error_of(receive(calls, request("3"))) == ("3", "too_many_requests", message)  # its handler still runs
    calls.finish("2", None, NOW)
    assert error_of(receive(calls, request("3"))) == ("3", "too_many_requests", message)  # its reply is not sent
    calls.release("1")
    calls.release("1")
    assert isinstance(receive(calls, request("3")), Call)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"action": "delete"}, "there is no action 'delete'"),
        ({"action": "x" * 1000}, f"there is no action '{'x' * 64}'"),
        ({"action": "\ud800\n"}, r"there is no action '\ud800\n'"),
        ({"action": ["getData"]}, "the payload names no action"),
        ({}, "the payload names no action"),
        ("getData", "the payload names no action"),
        (None, "the payload names no action"),
    ],
)
def test_an_action_without_a_handler_is_unknown(payload: Any, message: str) -> None:
    calls = new_calls()
    answer = receive(calls, encode_envelope("request", "7", payload, NOW))
    assert error_of(answer) == ("7", "unknown_action", message)
    assert calls.in_flight == 0


@pytest.mark.parametrize(
    ("payload", "action"),
    [({"action": "delete"}, "delete"), ({"action": 7}, None), ({}, None), (["getData"], None), (None, None)],
)
def test_the_default_handler_takes_every_other_action(payload: Any, action: str | None) -> None:
    router = RequestRouter()
    router.action("getData")(get_data)
    router.default(anything)
    calls = router.calls()
    assert receive(calls, encode_envelope("request", "1", payload, NOW)) == Call("1", anything, action, payload)
    assert receive(calls, request("2")) == Call("2", get_data, "getData", {"action": "getData"})


def test_a_closing_connection_takes_no_new_requests_but_finishes_those_in_flight() -> None:
    calls = new_calls(on_message=on_message)
    receive(calls, request("1"))
    receive(calls, request("2"))
    message = "no new requests are taken, the connection is about to close"
    assert error_of(receive(calls, request("3"), closing=True)) == ("3", "draining", message)
    assert receive(calls, cancel("2"), closing=True) == Cancel("2")
    assert receive(calls, "hello", closing=True) == Pass("hello")
    assert calls.finish("1", 1, NOW).text is not None


def test_a_cancelled_request_has_no_reply_whatever_its_handler_does() -> None:
    outcomes = [None, 5, RequestError("not_found"), TimeoutError(), KeyboardInterrupt()]
    for outcome in outcomes:
        calls = new_calls()
        receive(calls, request("7"))
        assert receive(calls, cancel("7")) == Cancel("7")
        assert calls.in_flight == 1
        assert calls.finish("7", outcome, NOW) == Finished(None, None)
        calls.release("7")
        assert calls.in_flight == 0


def test_a_request_whose_reply_is_being_sent_can_be_cancelled() -> None:
    calls = new_calls()
    receive(calls, request("7"))
    calls.finish("7", 1, NOW)
    assert receive(calls, cancel("7")) == Cancel("7")


def test_a_handler_that_fails_while_it_is_cancelled_is_worth_a_log_line() -> None:
    calls = new_calls()
    receive(calls, request("7"))
    receive(calls, cancel("7"))
    error = ValueError("while cleaning up")
    assert calls.finish("7", error, NOW) == Finished(None, error)


def test_a_request_is_cancelled_once() -> None:
    calls = new_calls()
    receive(calls, request("7"))
    assert receive(calls, cancel("7")) == Cancel("7")
    assert receive(calls, cancel("7")) is None
    assert error_of(receive(calls, request("7")))[1] == "duplicate_request"


def test_cancelling_what_is_not_in_flight_changes_nothing() -> None:
    calls = new_calls()
    receive(calls, request("7"))
    assert receive(calls, cancel("8")) is None
    assert receive(calls, cancel(None)) is None
    calls.release("7")
    assert receive(calls, cancel("7")) is None


@pytest.mark.parametrize("kind", ["response", "error"])
@pytest.mark.parametrize("request_id", ["7", None])
def test_answers_that_nobody_asked_for_are_dropped(kind: str, request_id: str | None) -> None:
    text = encode_envelope(kind, request_id, None, NOW)
    assert receive(new_calls(), text) is None
    assert receive(new_calls(on_message=on_message), text) is None


@pytest.mark.parametrize(
    "message", ["", "hello", b"", b'{"type":"request"}', "[1]", '{"no":"type"}', '{"type":"hello","requestId":"7"}']
)
def test_other_messages_are_for_on_message(message: str | bytes) -> None:
    assert receive(new_calls(on_message=on_message), message) == Pass(message)


@pytest.mark.parametrize(
    ("message", "request_id"),
    [
        ("hello", None),
        (b"\xff", None),
        ('{"type":"request","payload":NaN}', None),
        ('{"type":"Request"}', None),
        ('{"type":"Request","requestId":"7"}', "7"),
    ],
)
def test_without_on_message_they_are_invalid(message: str | bytes, request_id: str | None) -> None:
    answer = receive(new_calls(), message)
    assert error_of(answer) == (request_id, "invalid_request", "the message is no request")


@settings(deadline=None)
@given(message=st.text(st.characters(exclude_categories=())) | st.binary())
def test_two_sides_never_go_on_answering_each_other(message: str | bytes) -> None:
    answer = receive(new_calls(), message)
    assert isinstance(answer, Reply)
    assert receive(new_calls(), answer.text.encode().decode()) is None


def test_the_error_that_a_handler_chooses_is_sent_whole() -> None:
    calls = new_calls()
    receive(calls, request("7"))
    text, error = calls.finish("7", RequestError("not_found", "no such document", document="a"), NOW)
    assert text is not None
    assert json.loads(text)["type"] == "error"
    assert json.loads(text)["requestId"] == "7"
    assert json.loads(text)["payload"] == {"code": "not_found", "message": "no such document", "document": "a"}
    assert error is None


@pytest.mark.parametrize("payload", ["busy", None, {"retryAfter": 1}, {"code": 7}])
def test_an_error_received_from_elsewhere_is_sent_with_a_code_and_a_message(payload: Any) -> None:
    calls = new_calls()
    receive(calls, request("7"))
    text, _ = calls.finish("7", RequestError.from_payload(payload), NOW)
    assert text is not None
    more = payload if isinstance(payload, dict) else {}
    assert json.loads(text)["payload"] == {**more, "code": "unknown_error", "message": ""}


@pytest.mark.parametrize("error", [TimeoutError(), TimeoutError("the secret database"), RequestTimeout("elsewhere")])
def test_a_handler_that_is_out_of_time_is_answered_with_timeout(error: Exception) -> None:
    calls = new_calls()
    receive(calls, request("7"))
    finished = calls.finish("7", error, NOW)
    assert error_of(finished) == ("7", "timeout", "the request took too long")
    assert finished.error is None


@pytest.mark.parametrize("error", [ValueError("secret"), KeyError("secret"), SystemExit("secret"), GeneratorExit()])
def test_a_handler_that_fails_is_answered_without_what_went_wrong(error: BaseException) -> None:
    calls = new_calls()
    receive(calls, request("7"))
    finished = calls.finish("7", error, NOW)
    assert error_of(finished) == ("7", "internal_error", "the request failed on this side")
    assert finished.error is error


class Odd(dict[str, Any]):
    """What JSON is made of need not behave."""

    def items(self) -> Any:
        raise LookupError("secret")


@pytest.mark.parametrize(
    ("outcome", "error"),
    [
        (object(), TypeError),
        (float("nan"), TypeError),
        ({"a": {1, 2}}, TypeError),
        (RequestError("not_found", "secret", document=object()), TypeError),
        (Odd(a=1), LookupError),
    ],
)
def test_a_result_without_a_form_in_json_is_an_error_of_ours(outcome: Any, error: type[Exception]) -> None:
    calls = new_calls()
    receive(calls, request("7"))
    finished = calls.finish("7", outcome, NOW)
    assert error_of(finished) == ("7", "internal_error", "the request failed on this side")
    assert isinstance(finished.error, error)


def test_a_request_that_is_not_in_flight_has_no_reply() -> None:
    calls = new_calls()
    receive(calls, request("7"))
    calls.release("7")
    assert calls.finish("7", 1, NOW) == Finished(None, None)
    assert calls.finish("8", 1, NOW) == Finished(None, None)


@settings(deadline=None)
@given(request_id=st.text(st.characters(exclude_categories=()), min_size=1, max_size=MAX_REQUEST_ID))
def test_replies_fit_a_text_message_and_carry_the_id_as_it_came(request_id: str) -> None:
    calls = new_calls()
    receive(calls, request(request_id))
    refused = receive(calls, request(request_id))
    finished = calls.finish(request_id, request_id, NOW)
    assert isinstance(refused, Reply)
    assert finished.text is not None
    for text in (refused.text, finished.text):
        assert json.loads(text.encode())["requestId"] == request_id


def test_the_asking_side_understands_every_answer() -> None:
    asking, answering = PendingRequests("c"), new_calls()
    request_id, text = asking.new({"action": "getData"}, NOW)
    assert isinstance(receive(answering, text), Call)
    reply = answering.finish(request_id, [1], NOW).text
    assert reply is not None
    answer = asking.match(reply)
    assert answer is not None
    assert (answer.payload, answer.error) == ([1], None)

    request_id, text = asking.new({"action": "getData"}, NOW)
    refused = receive(answering, text, closing=True)
    assert isinstance(refused, Reply)
    answer = asking.match(refused.text)
    assert answer is not None
    assert answer.error is not None
    assert answer.error.code == "draining"

    request_id, text = asking.new({"action": "getData"}, NOW)
    receive(answering, text)
    assert receive(answering, asking.cancel_text(request_id, NOW)) == Cancel(request_id)


def test_an_error_of_the_rate_limiter_is_no_message_to_answer() -> None:
    assert receive(new_calls(), error_reply("7", "rate_limited", "too many messages", NOW, retryAfter=12.0)) is None


def test_decorators_leave_the_handler_as_it_is() -> None:
    router = RequestRouter()
    assert router.action("getData")(get_data) is get_data
    assert router.default(anything) is anything
    assert router.handler_for("getData") is get_data
    assert router.handler_for("other") is anything
    assert router.handler_for(None) is anything


def test_an_action_has_one_handler() -> None:
    router = RequestRouter()
    router.action("getData")(get_data)
    with pytest.raises(ValueError, match="the action 'getData' has a handler; each may have one"):
        router.action("getData")(anything)
    assert router.handler_for("getData") is get_data


def test_there_is_one_default_handler() -> None:
    router = RequestRouter()
    router.default(anything)
    with pytest.raises(ValueError, match="there is a default handler; there may be one"):
        router.default(get_data)
    assert router.handler_for(None) is anything


def test_a_decorator_without_its_action_says_how_it_is_written() -> None:
    with pytest.raises(ValueError, match=r"it must be a string, as in @router\.action\('name'\)"):
        RequestRouter().action(get_data)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_at_least_one_request_may_be_in_flight(value: Any) -> None:
    with pytest.raises(ValueError, match=f"max_concurrent is {value}; it must be at least 1"):
        RequestRouter(max_concurrent=value)


@pytest.mark.parametrize("value", [0, 0.0, -1.0, float("nan"), float("inf")])
def test_a_timeout_is_some_seconds(value: float) -> None:
    with pytest.raises(ValueError, match=rf"timeout is {value}; it must be a finite number of seconds, more than 0"):
        RequestRouter(timeout=value)


def test_the_settings_can_be_read_and_have_defaults() -> None:
    router = RequestRouter()
    assert (router.max_concurrent, router.timeout, router.on_message) == (100, 30.0, None)
    router = RequestRouter(max_concurrent=1, timeout=None, on_message=on_message)
    assert (router.max_concurrent, router.timeout, router.on_message) == (1, None, on_message)


def test_the_repr_of_a_router_names_its_actions() -> None:
    router = RequestRouter()
    assert repr(router) == "<RequestRouter: no actions>"
    router.action("getData")(get_data)
    router.action("other")(anything)
    assert repr(router) == "<RequestRouter: getData, other>"


class CallsAgainstAModel(RuleBasedStateMachine):
    """The model keeps a list of the requests in flight and the set of those that were cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = new_calls(max_concurrent=2)
        self.flying: list[str] = []
        self.cancelled: set[str] = set()

    @rule(request_id=st.sampled_from("abcd"), action=st.sampled_from(["getData", "other"]), closing=st.booleans())
    def request(self, request_id: str, action: str, closing: bool) -> None:
        answer = receive(self.calls, request(request_id, action), closing=closing)
        if request_id in self.flying:
            expected = "duplicate_request"
        elif closing:
            expected = "draining"
        elif action == "other":
            expected = "unknown_action"
        elif len(self.flying) == 2:
            expected = "too_many_requests"
        else:
            assert answer == Call(request_id, get_data, "getData", {"action": "getData"})
            self.flying.append(request_id)
            return
        assert error_of(answer)[:2] == (request_id, expected)

    @rule(request_id=st.sampled_from("abcd"), closing=st.booleans())
    def cancel(self, request_id: str, closing: bool) -> None:
        expected = Cancel(request_id) if request_id in self.flying and request_id not in self.cancelled else None
        assert receive(self.calls, cancel(request_id), closing=closing) == expected
        if expected:
            self.cancelled.add(request_id)

    @rule(request_id=st.sampled_from("abcd"), outcome=st.sampled_from([5, TimeoutError(), RequestError("no")]))
    def finish(self, request_id: str, outcome: object) -> None:
        text, error = self.calls.finish(request_id, outcome, NOW)
        assert error is None
        assert (text is not None) is (request_id in self.flying and request_id not in self.cancelled)

    @rule(request_id=st.sampled_from("abcd"))
    def release(self, request_id: str) -> None:
        self.calls.release(request_id)
        if request_id in self.flying:
            self.flying.remove(request_id)
            self.cancelled.discard(request_id)

    @invariant()
    def counts_agree(self) -> None:
        assert self.calls.in_flight == len(self.flying)


def test_agrees_with_a_naive_model_whatever_the_order_of_calls() -> None:
    run_state_machine_as_test(
        CallsAgainstAModel, settings=settings(max_examples=100, stateful_step_count=30, deadline=None)
    )
