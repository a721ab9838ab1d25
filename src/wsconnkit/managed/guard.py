"""Carries out what the session of a server's connection decides."""

from __future__ import annotations

from contextlib import suppress

from wsconnkit.managed.authentication import Authentication
from wsconnkit.managed.connection import Connection
from wsconnkit.managed.runtime import Runtime, Task
from wsconnkit.protocol.errors import ConnectionClosed
from wsconnkit.protocol.http import Response
from wsconnkit.service.principal import AuthenticationError, AuthFailure
from wsconnkit.service.session import Action, Renew, Reply, Session


class Guard:
    """Holds one connection to its session: what it may send, and for how long.

    runtime: where fresh tokens are verified.
    authentication: finds out whose a fresh token is; None where none is taken.
    timeout: seconds that it may take.
    """

    def __init__(
        self,
        runtime: Runtime,
        connection: Connection,
        session: Session,
        authentication: Authentication | None,
        *,
        timeout: float,
    ) -> None:
        self._runtime = runtime
        self._connection = connection
        self._session = session
        self._authentication = authentication
        self._timeout = timeout
        self._renewing: Task | None = None
        connection.add_timed(self)
        if session.filters_messages:
            connection.add_filter(self._on_message)

    def stop(self) -> None:
        """The connection has ended."""
        if self._renewing is not None:
            self._renewing.cancel()

    def next_timeout(self) -> float | None:
        """Return when the session wants to be asked, or None."""
        return self._session.next_timeout()

    def handle_timeout(self, now: float) -> None:
        """Do what the session wants done by now."""
        action = self._session.handle_timeout(now, self._runtime.wall_now())
        if action is not None:
            self._carry_out(action)

    def _on_message(self, message: str | bytes) -> bool:
        action = self._session.on_message(message, self._runtime.now(), self._runtime.wall_now())
        if action is not None:
            self._carry_out(action)
        return action is not None

    def _carry_out(self, action: Action) -> None:
        if isinstance(action, Reply):
            self._connection.send_nowait(action.text)
        elif isinstance(action, Renew):
            self.stop()  # it can only wait for a peer that does not read its answer
            self._renewing = self._runtime.start(self._renew, action)
        else:
            self._connection.start_close(action.cause.code, action.reason, action.cause)

    async def _renew(self, renew: Renew) -> None:
        ws, session = self._connection, self._session
        assert self._authentication is not None  # or there would be nothing to renew
        try:
            principal = await self._authentication.within(self._timeout, renew.token, ws.upgrade_request, session.ip)
            if isinstance(principal, Response):
                raise AuthenticationError(AuthFailure.INVALID, f"refused with {principal.status}")
        except Exception as error:
            reply = session.not_renewed(error, renew.request_id, self._runtime.wall_now())
        else:
            reply = session.renewed(principal, renew.request_id, self._runtime.now(), self._runtime.wall_now())
        ws.wake_at(session.next_timeout())
        with suppress(ConnectionClosed):
            await ws.send(reply.text)
