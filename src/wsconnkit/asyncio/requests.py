"""The asking side of requests on asyncio: futures for what is pending, and their deadlines."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from wsconnkit.protocol.closeinfo import CloseInfo
from wsconnkit.protocol.errors import connection_closed
from wsconnkit.service.requests import PendingRequests, RequestTimeout, check_timeout

if TYPE_CHECKING:
    from wsconnkit.asyncio.connection import Connection


class Requests:
    """The requests that one connection has sent."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self.pending = PendingRequests(uuid4().hex[:12])
        self._waiting: dict[str, asyncio.Future[Any]] = {}
        connection.add_filter(self._on_message)

    async def ask(self, kind: str, payload: Any, timeout: float | None) -> Any:
        """Send an envelope of type `kind` and return the payload of its answer, within `timeout` seconds."""
        check_timeout(timeout)
        request_id, text = self.pending.new(payload, time.time(), kind=kind)
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._waiting[request_id] = answer
        timer = None
        is_sent = False
        try:
            if timeout is not None:
                timer = self._loop.call_later(timeout, self._on_timeout, answer, timeout)
            is_sent = self._connection.send_if_ready(text) or await self._send(text, answer)
            return await answer
        except (asyncio.CancelledError, RequestTimeout):
            if is_sent and kind == "request":
                self._connection.send_nowait(self.pending.cancel_text(request_id, time.time()))
            raise
        finally:
            if timer is not None:
                timer.cancel()
            if not answer.cancel() and not answer.cancelled():
                answer.exception()  # or asyncio complains that nobody has seen it
            del self._waiting[request_id]
            self.pending.forget(request_id)

    def on_closed(self, info: CloseInfo) -> None:
        """The connection has ended."""
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(connection_closed(info))

    async def _send(self, text: str, answer: asyncio.Future[Any]) -> bool:
        """Send `text` as soon as that is possible, and tell whether it was sent before `answer` was decided."""
        sending = self._loop.create_task(self._connection.send(text))
        try:
            await asyncio.wait({sending, answer}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sending.cancel()
            await asyncio.wait({sending})
        if sending.cancelled():
            return False
        sending.result()
        return True

    def _on_message(self, message: str | bytes) -> bool:
        answer = self.pending.match(message)
        if answer is None:
            return False
        waiting = self._waiting.get(answer.request_id)
        if waiting is not None and not waiting.done():
            if answer.error is None:
                waiting.set_result(answer.payload)
            else:
                waiting.set_exception(answer.error)
        return True

    @staticmethod
    def _on_timeout(answer: asyncio.Future[Any], timeout: float) -> None:
        if not answer.done():
            answer.set_exception(RequestTimeout(f"the request was not answered within {timeout:g} s"))
