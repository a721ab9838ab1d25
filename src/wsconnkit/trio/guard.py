"""Carries out on trio what the session of a server's connection decides."""

from __future__ import annotations

import time
from contextlib import suppress

import trio

from wsconnkit.protocol.errors import ConnectionClosed
from wsconnkit.protocol.http import Response
from wsconnkit.service.principal import AuthenticationError, AuthFailure, Principal
from wsconnkit.service.session import Action, Renew, Reply, Session
from wsconnkit.trio.authentication import Authentication
from wsconnkit.trio.connection import Connection
from wsconnkit.trio.transport import Alarm, cancelled_only


class Guard:
    """Holds one connection to its session: what it may send, and for how long.

    authentication: finds out whose a fresh token is; None where none is taken.
    nursery: where it does so, and where it waits for the token to expire.
    timeout: seconds that it may take to find out.
    """

    def __init__(
        self,
        connection: Connection,
        session: Session,
        authentication: Authentication | None,
        nursery: trio.Nursery,
        *,
        timeout: float,
    ) -> None:
        self._connection = connection
        self._session = session
        self._authentication = authentication
        self._nursery = nursery
        self._timeout = timeout
        self._renewing = trio.CancelScope()
        self._alarm = Alarm(nursery, self._on_timer)
        self._alarm.set(session.next_timeout())
        if session.filters_messages:
            connection.add_filter(self._on_message)

    def stop(self) -> None:
        """The connection has ended."""
        self._alarm.cancel()
        self._renewing.cancel()

    def _on_message(self, message: str | bytes) -> bool:
        action = self._session.on_message(message, trio.current_time(), time.time())
        if action is not None:
            self._carry_out(action)
        return action is not None

    def _on_timer(self) -> None:
        action = self._session.handle_timeout(trio.current_time())
        if action is not None:
            self._carry_out(action)
        self._alarm.set(self._session.next_timeout())

    def _carry_out(self, action: Action) -> None:
        if isinstance(action, Reply):
            self._connection.send_nowait(action.text)
        elif isinstance(action, Renew):
            self._renewing.cancel()  # which can only wait for a peer that does not read its answer
            self._renewing = trio.CancelScope()
            self._nursery.start_soon(self._renew, action, self._renewing)
        else:
            self._connection.start_close(action.cause.code, action.reason, action.cause)

    @trio.lowlevel.enable_ki_protection
    async def _renew(self, renew: Renew, scope: trio.CancelScope) -> None:
        with scope:
            try:
                principal = await self._verify(renew.token)
                if isinstance(principal, Response):
                    raise AuthenticationError(AuthFailure.INVALID, f"refused with {principal.status}")
            except Exception as error:
                reply = self._session.not_renewed(error, renew.request_id, time.time())
            else:
                reply = self._session.renewed(principal, renew.request_id, trio.current_time(), time.time())
            if not scope.cancel_called:
                self._alarm.set(self._session.next_timeout())
            with suppress(ConnectionClosed):
                await self._connection.send(reply.text)

    async def _verify(self, token: str) -> Principal | Response:
        assert self._authentication is not None  # or there would be nothing to renew
        with cancelled_only(), trio.move_on_after(self._timeout):
            return await self._authentication(token, self._connection.upgrade_request)
        raise TimeoutError(f"the token was not verified within {self._timeout:g} s")
