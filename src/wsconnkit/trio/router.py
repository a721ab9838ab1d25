"""The answering side of requests on trio: a task for each request in flight."""

from __future__ import annotations

import time
from math import inf
from typing import Any

import trio

from wsconnkit.protocol.errors import ConnectionClosed, tells_only_of
from wsconnkit.service.router import Call, Cancel, Pass, Reply, Request, RequestRouter
from wsconnkit.trio.connection import Connection


async def answer_requests(router: RequestRouter, ws: Connection) -> None:
    """Answer the requests on `ws` until it ends; what is then in flight is cancelled, and waited for."""
    end: Exception | None = None
    async with trio.open_nursery() as nursery:
        calls = _Calls(router, ws, nursery)
        try:
            async for message in ws:
                await calls.on_message(message)
        except Exception as error:  # which the nursery would wrap
            end = error
        calls.cancel()
    if end is not None:
        raise end


class _Calls:
    def __init__(self, router: RequestRouter, ws: Connection, nursery: trio.Nursery) -> None:
        self._router = router
        self._ws = ws
        self._nursery = nursery
        self._calls = router.calls()
        self._scopes: dict[str, trio.CancelScope] = {}
        self._ended = False

    async def on_message(self, message: str | bytes) -> None:
        todo = self._calls.receive(message, closing=self._ws.draining.is_due, wall_now=time.time())
        if isinstance(todo, Call):
            self._ws.draining.begin_work()
            self._scopes[todo.request_id] = scope = trio.CancelScope()
            self._nursery.start_soon(self._run, todo, scope)
        elif isinstance(todo, Cancel):
            self._scopes[todo.request_id].cancel()
        elif isinstance(todo, Reply):
            # Not waiting for a peer that does not read: it may wait in turn until we read its answers.
            self._ws.send_nowait(todo.text)
        elif isinstance(todo, Pass):
            assert self._router.on_message is not None  # or it would be answered with an error
            await self._router.on_message(self._ws, todo.message)

    def cancel(self) -> None:
        """Cancel what is in flight."""
        self._ended = True
        # Each by itself, so that what goes wrong then is known to be an error of that request.
        for scope in self._scopes.values():
            scope.cancel()

    async def _run(self, call: Call, scope: trio.CancelScope) -> None:
        try:
            text, error = self._calls.finish(call.request_id, await self._outcome(call, scope), time.time())
            if error is not None and not tells_only_of(error, self._ws.close_info):
                self._ws.log.request_error(call.request_id, error)
            if text is not None and not self._ended:
                with trio.CancelScope() as self._scopes[call.request_id]:
                    await self._ws.send(text)
        except ConnectionClosed:
            pass  # there is nobody left to tell
        finally:
            del self._scopes[call.request_id]
            self._calls.release(call.request_id)
            self._ws.draining.end_work()

    async def _outcome(self, call: Call, scope: trio.CancelScope) -> Any:
        """Return what the handler returns, or the exception that it ends with; None where the peer cancelled it."""
        request = Request(id=call.request_id, action=call.action, payload=call.payload, connection=self._ws)
        timeout = inf if self._router.timeout is None else self._router.timeout
        try:
            with scope, trio.move_on_after(timeout) as limit:
                return await call.handler(request)
        except trio.TooSlowError:
            return TimeoutError()
        except Exception as error:
            return error
        return TimeoutError() if limit.cancelled_caught else None
