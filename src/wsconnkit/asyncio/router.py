"""The answering side of requests on asyncio: a task for each request in flight."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from wsconnkit.asyncio.connection import Connection
from wsconnkit.protocol.errors import ConnectionClosed, tells_only_of
from wsconnkit.service.router import Call, Cancel, Pass, Reply, Request, RequestRouter


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
        self._loop = asyncio.get_running_loop()
        self._calls = router.calls()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._timed_out: set[str] = set()
        self._ended = False

    async def on_message(self, message: str | bytes) -> None:
        todo = self._calls.receive(message, closing=self._ws.draining.is_due, wall_now=time.time())
        if isinstance(todo, Call):
            self._ws.draining.begin_work()
            task = self._tasks[todo.request_id] = self._loop.create_task(self._run(todo))
            task.add_done_callback(lambda _: self._on_done(todo.request_id))
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
        self._ended = True
        for task in self._tasks.values():
            task.cancel()
        cancelled = None
        while self._tasks:
            try:
                await asyncio.wait(self._tasks.values())
            except asyncio.CancelledError as error:
                cancelled = error  # one that goes on is known to whoever waits for us
        if cancelled is not None:
            raise cancelled

    async def _run(self, call: Call) -> None:
        try:
            text, error = self._calls.finish(call.request_id, await self._outcome(call), time.time())
            if error is not None and not tells_only_of(error, self._ws.close_info):
                self._ws.log.request_error(call.request_id, error)
            if text is not None:
                await self._ws.send(text)
        except ConnectionClosed:
            pass  # there is nobody left to tell

    def _on_done(self, request_id: str) -> None:
        # Also of a task that was cancelled before it began, in which no line has run.
        del self._tasks[request_id]
        self._calls.release(request_id)
        self._ws.draining.end_work()

    async def _outcome(self, call: Call) -> Any:
        """Return what the handler returns, or the exception that it ends with."""
        request = Request(id=call.request_id, action=call.action, payload=call.payload, connection=self._ws)
        timer = None
        if self._router.timeout is not None:
            timer = self._loop.call_later(self._router.timeout, self._on_timeout, call.request_id)
        try:
            return await call.handler(request)
        except asyncio.CancelledError as error:
            if self._ended:
                raise
            return TimeoutError() if call.request_id in self._timed_out else error
        except asyncio.TimeoutError:  # before Python 3.11 not the built-in one
            return TimeoutError()
        except Exception as error:
            return error
        finally:
            self._timed_out.discard(call.request_id)
            if timer is not None:
                timer.cancel()

    def _on_timeout(self, request_id: str) -> None:
        self._timed_out.add(request_id)
        self._tasks[request_id].cancel()
