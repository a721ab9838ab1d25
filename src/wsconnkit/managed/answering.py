"""The answering side of requests: a task for each request in flight."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

from wsconnkit.managed.connection import Connection
from wsconnkit.managed.runtime import Event, Task, TaskCancelled
from wsconnkit.protocol.errors import tells_only_of
from wsconnkit.service.router import Call, Cancel, Pass, Reply, RequestRouter


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request as its handler sees it.

    action: what `payload["action"]` names, None when that is no string.
    connection: the connection that it came on.
    """

    id: str
    action: str | None
    payload: Any = field(repr=False)
    connection: Connection


async def answer_requests(router: RequestRouter, ws: Connection) -> None:
    """Answer the requests on `ws` until it ends; what is then in flight is cancelled, and waited for."""
    calls = _Calls(router, ws)
    try:
        async for message in ws:
            await calls.on_message(message)
    finally:
        await calls.cancel()


class _Calls:
    def __init__(self, router: RequestRouter, ws: Connection) -> None:
        self._router = router
        self._ws = ws
        self._calls = router.calls()
        self._tasks: dict[str, Task] = {}
        self._is_over = False
        self._all_ended: Event | None = None

    async def on_message(self, message: str | bytes) -> None:
        todo = self._calls.receive(message, closing=self._ws.draining.is_due, wall_now=self._ws.runtime.wall_now())
        if isinstance(todo, Call):
            self._start(todo)
        elif isinstance(todo, Cancel):
            self._tasks[todo.request_id].cancel()
        elif isinstance(todo, Reply):
            # Not waiting for a peer that does not read: it may wait in turn until we read its answers.
            self._ws.send_nowait(todo.text)
        elif isinstance(todo, Pass):
            assert self._router.on_message is not None  # or it would be answered with an error
            await self._router.on_message(self._ws, todo.message)

    async def cancel(self) -> None:
        """Cancel what is in flight, and wait for it to end; cancelled meanwhile, it still does."""
        self._is_over = True
        # Each by itself, so that what goes wrong then is known to be an error of that request.
        for task in tuple(self._tasks.values()):
            task.cancel()
        if self._tasks:
            self._all_ended = self._ws.runtime.event()
            await self._ws.runtime.wait(self._all_ended, shield=True)

    def _start(self, call: Call) -> None:
        self._ws.draining.begin_work()
        request = Request(id=call.request_id, action=call.action, payload=call.payload, connection=self._ws)
        self._tasks[call.request_id] = self._ws.runtime.start(
            call.handler,
            request,
            theirs=True,
            timeout=self._router.timeout,
            on_end=partial(self._on_outcome, call.request_id),
        )

    def _on_outcome(self, request_id: str, outcome: Any) -> None:
        if isinstance(outcome, TaskCancelled):  # by the peer, who waits no more, or at the end
            self._release(request_id)
            return
        text, error = self._calls.finish(request_id, outcome, self._ws.runtime.wall_now())
        if error is not None and not tells_only_of(error, self._ws.close_info):
            self._ws.log.request_error(request_id, error)
        if text is None or self._is_over or self._ws.send_if_ready(text):
            self._release(request_id)
        else:
            self._tasks[request_id] = self._ws.runtime.start(
                self._ws.send, text, on_end=lambda _: self._release(request_id)
            )

    def _release(self, request_id: str) -> None:
        del self._tasks[request_id]
        self._calls.release(request_id)
        self._ws.draining.end_work()
        if self._all_ended is not None and not self._tasks:
            self._all_ended.set()
