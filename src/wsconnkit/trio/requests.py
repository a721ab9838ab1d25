"""The asking side of requests on trio: what is pending, and the deadlines."""

from __future__ import annotations

import time
from math import inf
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import trio

from wsconnkit.protocol.closeinfo import CloseInfo
from wsconnkit.protocol.errors import connection_closed
from wsconnkit.service.requests import PendingRequests, RequestTimeout, check_timeout
from wsconnkit.trio.future import Future

if TYPE_CHECKING:
    from wsconnkit.trio.connection import Connection


class Requests:
    """The requests that one connection has sent."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.pending = PendingRequests(uuid4().hex[:12])
        self._waiting: dict[str, Future[Any]] = {}
        connection.add_filter(self._on_message)

    async def ask(self, kind: str, payload: Any, timeout: float | None) -> Any:  # noqa: ASYNC109 - None is no deadline
        """Send an envelope of type `kind` and return the payload of its answer, within `timeout` seconds."""
        check_timeout(timeout)
        request_id, text = self.pending.new(payload, time.time(), kind=kind)
        self._waiting[request_id] = answer = Future[Any]()
        is_sent = False
        try:
            with trio.move_on_after(inf if timeout is None else timeout):
                if not self._connection.send_if_ready(text):
                    await self._connection.send(text)
                is_sent = True
                return await answer.get()
            raise RequestTimeout(f"the request was not answered within {timeout:g} s")
        except (trio.Cancelled, RequestTimeout):
            if is_sent and kind == "request":
                self._connection.send_nowait(self.pending.cancel_text(request_id, time.time()))
            raise
        finally:
            del self._waiting[request_id]
            self.pending.forget(request_id)

    def on_closed(self, info: CloseInfo) -> None:
        """The connection has ended."""
        for answer in self._waiting.values():
            answer.set_exception(connection_closed(info))

    def _on_message(self, message: str | bytes) -> bool:
        answer = self.pending.match(message)
        if answer is None:
            return False
        waiting = self._waiting.get(answer.request_id)
        if waiting is not None:
            if answer.error is None:
                waiting.set_result(answer.payload)
            else:
                waiting.set_exception(answer.error)
        return True
