"""The answering side of requests: which handler has which action, and which requests are in flight.

    router = RequestRouter()

    @router.action("getData")
    async def get_data(request: Request) -> object:
        return {"items": []}

Here handlers are only found; who holds a `Calls` for each connection runs and cancels them, and sends the replies.
A request that cannot be served is answered with an error whose code is one of invalid_request, duplicate_request,
draining, unknown_action and too_many_requests; one that was served and failed, with timeout, internal_error, or the
code of the RequestError that its handler raised.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from math import inf
from typing import Any, NamedTuple, TypeVar

from wsconnkit.service.arguments import check_async, check_type, is_number
from wsconnkit.service.envelope import (
    MAX_REQUEST_ID,
    Envelope,
    RequestError,
    encode_envelope,
    error_reply,
    parse_envelope,
)

Handler = Callable[[Any], Awaitable[object]]
"""Called with a `Request` of the event loop's floor."""
MessageHandler = Callable[[Any, str | bytes], Awaitable[object]]
_H = TypeVar("_H", bound=Handler)


class Call(NamedTuple):
    """A request to run `handler` for, and then to `finish` and to `release`."""

    request_id: str
    handler: Handler
    action: str | None
    payload: Any


class Reply(NamedTuple):
    """A text to send."""

    text: str


class Cancel(NamedTuple):
    """A request in flight whose handler is to be cancelled: the peer waits for it no more."""

    request_id: str


class Pass(NamedTuple):
    """A message that is no request, for `on_message`."""

    message: str | bytes


class Finished(NamedTuple):
    """What to do when a handler has ended.

    text: the reply to send, or None.
    error: what went wrong on our side and is not told to the peer, to be logged, or None.
    """

    text: str | None
    error: BaseException | None


class RequestRouter:
    """Handlers by action, for any number of connections.

    max_concurrent: requests in flight on one connection, whose payloads take memory meanwhile; at least 1.
    timeout: seconds that a handler may take, more than 0, None for any time.
    on_message: called with the connection and each message that is no request; without it such messages are
        answered with an error.

    Raises ValueError for other values.
    """

    def __init__(
        self, *, max_concurrent: int = 100, timeout: float | None = 30.0, on_message: MessageHandler | None = None
    ) -> None:
        check_type("max_concurrent", max_concurrent, is_number(max_concurrent), "an int, at least 1")
        check_type("timeout", timeout, timeout is None or is_number(timeout), "seconds, more than 0, or None")
        if on_message is not None:
            check_async("on_message", on_message, "None, or an async function")
        if not max_concurrent >= 1:
            raise ValueError(f"max_concurrent is {max_concurrent!r}; it must be at least 1")
        if timeout is not None and not 0 < timeout < inf:
            raise ValueError(f"timeout is {timeout!r}; it must be a finite number of seconds, more than 0, or None")
        self.max_concurrent = max_concurrent
        self.timeout = timeout
        self.on_message = on_message
        self._actions: dict[str, Handler] = {}
        self._default: Handler | None = None

    def __repr__(self) -> str:
        return f"<RequestRouter: {', '.join(self._actions) or 'no actions'}>"

    def action(self, name: str) -> Callable[[_H], _H]:
        """Register the decorated handler for requests whose `payload["action"]` is `name`.

        What it returns is the payload of the response. Raises ValueError when `name` has a handler.
        """
        if not isinstance(name, str):
            raise ValueError(f"the action is {name!r}; it must be a string, as in @router.action('name')")

        def register(handler: _H) -> _H:
            check_async("the handler", handler)
            if name in self._actions:
                raise ValueError(f"the action {name!r} has a handler; each may have one")
            self._actions[name] = handler
            return handler

        return register

    def default(self, handler: _H) -> _H:
        """Register the decorated handler for requests with an action that has none, or without an action.

        Raises ValueError when there is one.
        """
        check_async("the handler", handler)
        if self._default is not None:
            raise ValueError("there is a default handler; there may be one")
        self._default = handler
        return handler

    def handler_for(self, action: str | None) -> Handler | None:
        """Return the handler of `action`, or else the default one, or else None."""
        return self._default if action is None else self._actions.get(action, self._default)

    def calls(self) -> Calls:
        """Return the state of a new connection."""
        return Calls(self)


class Calls:
    """The requests of one connection that are in flight."""

    __slots__ = ("_cancelled", "_router")

    def __init__(self, router: RequestRouter) -> None:
        self._router = router
        self._cancelled: dict[str, bool] = {}
        """By the id of each request in flight, whether the peer has cancelled it."""

    @property
    def in_flight(self) -> int:
        """Requests that were called and not released, cancelled ones too."""
        return len(self._cancelled)

    def receive(self, message: str | bytes, *, closing: bool, wall_now: float) -> Call | Reply | Cancel | Pass | None:
        """Return what to do about a message of the peer, None for nothing. Never raises.

        closing: no new requests are taken. wall_now: epoch seconds.
        """
        envelope = parse_envelope(message) or _NO_ENVELOPE
        if envelope.type == "request":
            return self._receive_request(envelope, closing, wall_now)
        if envelope.type == "cancel":
            return self._receive_cancel(envelope.request_id)
        if envelope.type in ("response", "error"):
            return None  # An answer is never answered, or two sides could go on for ever.
        if self._router.on_message is not None:
            return Pass(message)
        return Reply(error_reply(envelope.request_id, "invalid_request", "the message is no request", wall_now))

    def finish(self, request_id: str, outcome: Any, wall_now: float) -> Finished:
        """Return what to do about the end of a request's handler. Never raises.

        outcome: what the handler returned, or the exception that it raised; a TimeoutError when its time was over.
        Nothing is sent for a request that the peer has cancelled, nor for one that is not in flight.
        """
        unwanted = self._cancelled.get(request_id, True)
        text, error = _finished(request_id, outcome, wall_now)
        if not unwanted:
            return Finished(text, error)
        # That the handler was cancelled is what was asked for; that it failed then is not.
        return Finished(None, error if isinstance(error, Exception) else None)

    def release(self, request_id: str) -> None:
        """The reply to `request_id` was sent, or will never be: it is no longer in flight. Safe to repeat.

        Until then it counts, or replies to a peer that does not read them would pile up.
        """
        self._cancelled.pop(request_id, None)

    def _receive_request(self, envelope: Envelope, closing: bool, wall_now: float) -> Call | Reply:
        _, request_id, payload = envelope

        def refusal(code: str, message: str) -> Reply:
            return Reply(error_reply(request_id, code, message, wall_now))

        if request_id is None:
            return refusal("invalid_request", f"requestId must be a string of 1 to {MAX_REQUEST_ID} characters")
        if request_id in self._cancelled:
            return refusal("duplicate_request", "a request with this requestId is in flight")
        if closing:
            return refusal("draining", "no new requests are taken, the connection is about to close")
        action = payload.get("action") if isinstance(payload, dict) else None
        if not isinstance(action, str):
            action = None
        handler = self._router.handler_for(action)
        if handler is None:
            named = "the payload names no action" if action is None else f"there is no action {action[:64]!r}"
            return refusal("unknown_action", named)
        limit = self._router.max_concurrent
        if self.in_flight >= limit:
            return refusal("too_many_requests", f"{limit} requests are in flight, the most allowed")
        self._cancelled[request_id] = False
        return Call(request_id, handler, action, payload)

    def _receive_cancel(self, request_id: str | None) -> Cancel | None:
        # Only once: a second cancellation could break off how the handler cleans up.
        if request_id is None or self._cancelled.get(request_id, True):
            return None
        self._cancelled[request_id] = True
        return Cancel(request_id)


_NO_ENVELOPE = Envelope("", None, None)


def _finished(request_id: str, outcome: Any, wall_now: float) -> Finished:
    try:
        if isinstance(outcome, RequestError):
            fields = outcome.payload if isinstance(outcome.payload, dict) else {}
            payload = {**fields, "code": outcome.code, "message": outcome.message}
            return Finished(encode_envelope("error", request_id, payload, wall_now), None)
        if not isinstance(outcome, BaseException):
            return Finished(encode_envelope("response", request_id, outcome, wall_now), None)
    except Exception as error:  # from classes of the application that JSON is made of
        outcome = error
    if isinstance(outcome, TimeoutError):
        return Finished(error_reply(request_id, "timeout", "the request took too long", wall_now), None)
    return Finished(error_reply(request_id, "internal_error", "the request failed on this side", wall_now), outcome)
