"""The envelope that requests travel in: `{"type", "requestId", "payload", "timestamp"}` as one text message.

    text = encode_envelope("request", "7", {"action": "getData"}, wall_now=1700000000.0)
    parse_envelope(text)        # Envelope(type='request', request_id='7', payload={'action': 'getData'})
    parse_envelope("hello")     # None

What is sent is ASCII, so that it is a text message whatever strings are in it.
"""

from __future__ import annotations

import json
from math import isfinite
from typing import Any, NamedTuple

from wsconnkit.protocol.errors import WsconnkitError

MAX_REQUEST_ID = 128
"""Characters that a requestId may have."""


class RequestError(WsconnkitError):
    """A request was answered with an error; a handler raises it to send the error of its choice.

    code: a word for programs. message: a sentence for people. payload: the error's whole payload as it was received,
    or is sent, `more` included.
    """

    def __init__(self, code: str, message: str = "", **more: Any) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.payload: Any = {"code": code, "message": message, **more}

    @classmethod
    def from_payload(cls, payload: Any) -> RequestError:
        """Return the error that a reply's `payload` tells of, whatever that is; without a code it is unknown_error."""
        fields = payload if isinstance(payload, dict) else {}
        code, message = fields.get("code"), fields.get("message")
        error = cls(code if isinstance(code, str) else "unknown_error", message if isinstance(message, str) else "")
        error.payload = payload
        return error

    def __str__(self) -> str:
        # Both may be the peer's words.
        return f"the request failed with {self.code!r}" + (f": {self.message!r}" if self.message else "")


class Envelope(NamedTuple):
    """What an envelope holds; `request_id` is None where there is none, or none of 1 to 128 characters."""

    type: str
    request_id: str | None
    payload: Any


def parse_envelope(message: str | bytes) -> Envelope | None:
    """Return what is in `message`, or None when it is no text with a JSON object that has a string for its type.

    Never raises: what Python cannot hold (NaN, numbers too large, nesting too deep) is not JSON here.
    """
    if not isinstance(message, str) or not message.lstrip().startswith("{"):
        return None
    try:
        fields = _decoder.decode(message)
    except (ValueError, RecursionError):
        return None
    kind, request_id = fields.get("type"), fields.get("requestId")
    if not isinstance(kind, str):
        return None
    if not (isinstance(request_id, str) and 1 <= len(request_id) <= MAX_REQUEST_ID):
        request_id = None
    return Envelope(kind, request_id, fields.get("payload"))


def request_id_of(message: str | bytes) -> str | None:
    """Return the id that an error about `message` answers, None where it has none or is itself no question.

    Never raises.
    """
    if isinstance(message, bytes) or '"requestId"' not in message:
        return None
    envelope = parse_envelope(message)
    return None if envelope is None or envelope.type in ("response", "error", "cancel") else envelope.request_id


def encode_envelope(kind: str, request_id: str | None, payload: Any, wall_now: float) -> str:
    """Return the text of an envelope of type `kind`, made at `wall_now` (epoch seconds).

    Raises TypeError for a payload that JSON has no form for; NaN and the infinities are such.
    """
    envelope = {"type": kind, "requestId": request_id, "payload": payload, "timestamp": round(wall_now * 1000)}
    try:
        return _encoder.encode(envelope)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"the payload of this {kind} cannot be sent as JSON: {error}") from error


def error_reply(request_id: str | None, code: str, message: str, wall_now: float, /, **more: Any) -> str:
    """Return the text of an error that answers `request_id`, None where that is not known; `more` joins its payload.

    Raises TypeError for what JSON has no form for.
    """
    return encode_envelope("error", request_id, {"code": code, "message": message, **more}, wall_now)


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise ValueError("the number is too large")
    return number


_decoder = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)
_encoder = json.JSONEncoder(allow_nan=False, separators=(",", ":"))
