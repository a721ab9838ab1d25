"""The asking side of requests: which are pending, and which message answers which.

pending = PendingRequests("c0ffee")
request_id, text = pending.new({"action": "getData"}, wall_now)     # send the text
answer = pending.match(message)                                     # for each message that arrives
if answer is not None and not answer.late:
    ...                                                             # answer.error, or else answer.payload
pending.forget(request_id)                                          # nobody waits for it any more
"""

from __future__ import annotations

from math import inf
from typing import Any, NamedTuple

from wsconnkit.protocol.errors import LocalProtocolError, WsconnkitError
from wsconnkit.service.envelope import RequestError, encode_envelope, parse_envelope


class RequestTimeout(WsconnkitError, TimeoutError):
    """A request was not answered in time."""


def check_timeout(timeout: float | None) -> None:
    """Raise ValueError when that is neither None nor a finite number of seconds, 0 or more."""
    if timeout is not None and not 0 <= timeout < inf:
        raise ValueError(f"timeout is {timeout!r}; it must be a finite number of seconds, at least 0, or None")


class Answer(NamedTuple):
    """What came back for a request: `error` where it failed, else `payload` is the result.

    late: nobody waits for it any more; drop it.
    """

    request_id: str
    late: bool
    payload: Any
    error: RequestError | None


class PendingRequests:
    """The requests on one connection that wait for their answers, at most `max_pending`.

    prefix: how their ids begin, before a hyphen and a number: 1 to 64 ASCII letters and digits, not used by another
        on the same connection. Raises ValueError for others, and for `max_pending` below 1.
    """

    __slots__ = ("_max_pending", "_pending", "_prefix", "_sent", "late")

    def __init__(self, prefix: str, max_pending: int = 1000) -> None:
        # These are never written as escapes in JSON, so `match` may look for them in the text.
        if not (prefix.isascii() and prefix.isalnum() and len(prefix) <= 64):
            raise ValueError(f"prefix is {prefix!r}; it must be 1 to 64 ASCII letters and digits")
        if not max_pending >= 1:
            raise ValueError(f"max_pending is {max_pending!r}; it must be at least 1")
        self._prefix = f"{prefix}-"
        self._max_pending = max_pending
        self._pending: set[str] = set()
        self._sent = 0
        self.late: int = 0
        """Answers that came when nobody waited for them."""

    def new(self, payload: Any, wall_now: float, *, kind: str = "request") -> tuple[str, str]:
        """Return the id of a new request and the text to send, an envelope of type `kind`.

        Raises LocalProtocolError when too many are pending, TypeError for a payload that JSON has no form for.
        """
        if len(self._pending) >= self._max_pending:
            raise LocalProtocolError(
                f"{len(self._pending)} requests are pending, the most allowed; wait for an answer before the next"
            )
        request_id = f"{self._prefix}{self._sent + 1}"
        text = encode_envelope(kind, request_id, payload, wall_now)
        self._sent += 1
        self._pending.add(request_id)
        return request_id, text

    def forget(self, request_id: str) -> None:
        """Wait no more for the answer to `request_id`; safe to repeat."""
        self._pending.discard(request_id)

    def match(self, message: str | bytes) -> Answer | None:
        """Return the answer that `message` is to a request of ours, which is then no longer pending; None for others.

        Never raises.
        """
        if isinstance(message, bytes) or self._prefix not in message:
            return None
        envelope = parse_envelope(message)
        if envelope is None or envelope.type not in ("response", "error"):
            return None
        request_id = envelope.request_id
        if request_id is None or not request_id.startswith(self._prefix):
            return None
        late = request_id not in self._pending
        self._pending.discard(request_id)
        self.late += late
        error = RequestError.from_payload(envelope.payload) if envelope.type == "error" else None
        return Answer(request_id, late, envelope.payload, error)

    def cancel_text(self, request_id: str, wall_now: float) -> str:
        """Return the text that tells the other side that nobody waits for `request_id` any more."""
        return encode_envelope("cancel", request_id, None, wall_now)
