"""The asking side of requests: who waits for which answer, and how long."""

from __future__ import annotations

from typing import Any, Protocol

from wsconnkit.managed.runtime import Future, Runtime
from wsconnkit.protocol.closeinfo import CloseInfo
from wsconnkit.protocol.errors import connection_closed
from wsconnkit.service.requests import PendingRequests, RequestTimeout, check_timeout


class Outgoing(Protocol):
    """The way out for requests: the pump and the connection on it."""

    def send_if_ready(self, message: str) -> bool:
        """Send a message if nothing is to be waited for, and tell whether it was sent."""

    def send_nowait(self, message: str) -> bool:
        """Send a message as soon as all before it has gone out, or tell that it is dropped."""

    async def send_unless(self, over: Future, turn: Future, message: str) -> bool:
        """Send a message in its turn, unless `over` is done by then; tell whether it was sent.

        turn: a new future; whoever brings `over` brings it, too.
        """

    def wake_at(self, deadline: float) -> None:
        """Have `handle_timeout` called at `deadline`, or before."""


class _Waiting:
    """Who waits for one answer."""

    __slots__ = ("answer", "deadline", "timeout", "turn")

    def __init__(self, answer: Future, turn: Future, timeout: float | None, deadline: float | None) -> None:
        self.answer = answer
        self.turn = turn
        """What it waits for before the request is sent."""
        self.timeout = timeout
        self.deadline = deadline

    def bring(self, outcome: Any) -> None:
        """Bring what `await answer` gives; whoever waits to send the request need not any more."""
        for future in (self.answer, self.turn):
            if not future.done():
                future.set_result(outcome)


class Requests:
    """The requests that one connection has sent."""

    def __init__(self, runtime: Runtime, outgoing: Outgoing) -> None:
        self._runtime = runtime
        self._outgoing = outgoing
        self.pending: PendingRequests = PendingRequests(runtime.random_bytes(6).hex())
        self._waiting: dict[str, _Waiting] = {}

    async def ask(self, kind: str, payload: Any, timeout: float | None) -> Any:
        """Send an envelope of type `kind` and return the payload of its answer, within `timeout` seconds."""
        check_timeout(timeout)
        request_id, text = self.pending.new(payload, self._runtime.wall_now(), kind=kind)
        answer, turn = self._runtime.future(), self._runtime.future()
        deadline = None if timeout is None else self._runtime.now() + timeout
        self._waiting[request_id] = _Waiting(answer, turn, timeout, deadline)
        if deadline is not None:
            self._outgoing.wake_at(deadline)
        is_sent = is_answered = False
        try:
            is_sent = self._outgoing.send_if_ready(text) or await self._outgoing.send_unless(answer, turn, text)
            outcome: Any = await answer
            is_answered = not isinstance(outcome, RequestTimeout)
        finally:
            del self._waiting[request_id]
            self.pending.forget(request_id)
            if is_sent and not is_answered and kind == "request":
                self._outgoing.send_nowait(self.pending.cancel_text(request_id, self._runtime.wall_now()))
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def on_message(self, message: str | bytes) -> bool:
        """Take a message if it is an answer, and tell whether it is."""
        answer = self.pending.match(message)
        if answer is None:
            return False
        waiting = self._waiting.get(answer.request_id)
        if waiting is not None:
            waiting.bring(answer.payload if answer.error is None else answer.error)
        return True

    def on_closed(self, info: CloseInfo) -> None:
        """The connection has ended."""
        for waiting in self._waiting.values():
            waiting.bring(connection_closed(info))

    def next_timeout(self) -> float | None:
        """Return when to call `handle_timeout`, or None."""
        waiting = [each for each in self._waiting.values() if not each.answer.done()]
        return min((each.deadline for each in waiting if each.deadline is not None), default=None)

    def handle_timeout(self, now: float) -> None:
        """Tell those whose time is over."""
        for each in self._waiting.values():
            if each.deadline is not None and each.deadline <= now and not each.answer.done():
                each.bring(RequestTimeout(f"the request was not answered within {each.timeout:g} s"))
