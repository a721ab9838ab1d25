"""Carries out on asyncio what the session of a server's connection decides."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from wsconnkit.asyncio.authentication import Authentication
from wsconnkit.asyncio.connection import Connection
from wsconnkit.asyncio.transport import Alarm
from wsconnkit.protocol.errors import ConnectionClosed
from wsconnkit.protocol.http import Response
from wsconnkit.service.principal import AuthenticationError, AuthFailure, Principal
from wsconnkit.service.session import Action, Renew, Reply, Session


class Guard:
    """Holds one connection to its session: what it may send, and for how long.

    authentication: finds out whose a fresh token is; None where none is taken.
    timeout: seconds that it may take.
    """

    def __init__(
        self, connection: Connection, session: Session, authentication: Authentication | None, *, timeout: float
    ) -> None:
        self._connection = connection
        self._session = session
        self._authentication = authentication
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._renewing: asyncio.Task[None] | None = None
        self._alarm = Alarm(self._loop, self._on_timer)
        self._alarm.set(session.next_timeout())
        if session.filters_messages:
            connection.add_filter(self._on_message)

    def stop(self) -> None:
        """The connection has ended."""
        self._alarm.cancel()
        self._stop_renewing()

    def _stop_renewing(self) -> None:
        if self._renewing is not None:
            self._renewing.cancel()

    def _on_message(self, message: str | bytes) -> bool:
        action = self._session.on_message(message, self._loop.time(), time.time())
        if action is not None:
            self._carry_out(action)
        return action is not None

    def _on_timer(self) -> None:
        action = self._session.handle_timeout(self._loop.time())
        if action is not None:
            self._carry_out(action)
        self._alarm.set(self._session.next_timeout())

    def _carry_out(self, action: Action) -> None:
        if isinstance(action, Reply):
            self._connection.send_nowait(action.text)
        elif isinstance(action, Renew):
            self._stop_renewing()  # which can only wait for a peer that does not read its answer
            self._renewing = self._loop.create_task(self._renew(action))
        else:
            self._connection.start_close(action.cause.code, action.reason, action.cause)

    async def _renew(self, renew: Renew) -> None:
        try:
            principal = await self._verify(renew.token)
            if isinstance(principal, Response):
                raise AuthenticationError(AuthFailure.INVALID, f"refused with {principal.status}")
        except Exception as error:
            reply = self._session.not_renewed(error, renew.request_id, time.time())
        else:
            reply = self._session.renewed(principal, renew.request_id, self._loop.time(), time.time())
        self._alarm.cancel()
        self._alarm.set(self._session.next_timeout())
        with suppress(ConnectionClosed):
            await self._connection.send(reply.text)

    async def _verify(self, token: str) -> Principal | Response:
        assert self._authentication is not None  # or there would be nothing to renew
        verifying = self._loop.create_task(self._authentication(token, self._connection.upgrade_request))
        try:
            await asyncio.wait({verifying}, timeout=self._timeout)
            if not verifying.done():
                raise TimeoutError(f"the token was not verified within {self._timeout:g} s")
            return verifying.result()
        finally:
            verifying.cancel()
            verifying.add_done_callback(lambda task: task.cancelled() or task.exception())
