"""Receives the clients of a server: drives their handshakes, and lets in, answers or refuses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from uuid import uuid4

from wsconnkit.asyncio.authentication import Authentication
from wsconnkit.asyncio.connection import Connection
from wsconnkit.asyncio.opening import Opening
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.errors import LocalProtocolError
from wsconnkit.protocol.http import Response
from wsconnkit.protocol.serverhandshake import ServerHandshake
from wsconnkit.protocol.upgrade import HTTPRequest, UpgradeRequest
from wsconnkit.service.log import log_server_error
from wsconnkit.service.pages import INTERNAL_ERROR, NO_WEBSOCKET, MetricsText, answer_page, check_response, no_page
from wsconnkit.service.policy import PendingUpgrade, ServerPolicy
from wsconnkit.service.principal import Principal
from wsconnkit.service.session import Session
from wsconnkit.service.tokens import secrets_of

AnswerHTTP = Callable[[HTTPRequest], Awaitable["Response | None"]]
"""Called with a request that asks for no WebSocket and no page of ours; None says that there is nothing at its path."""
OnConnection = Callable[[Connection, Session], None]

_TURNS = 3
"""Turns of the loop in which it tells of clients that have left: it polls, it reads, and with TLS it says so later."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What clients of one listening socket may ask for.

    on_connection: called with each connection that is let in, once it is ready. None lets none in.
    pages: whether the pages for those who watch the server are here. metrics: makes the text of /metrics.
    """

    endpoint: ServerPolicy[Connection]
    config: ConnectionConfig
    on_connection: OnConnection | None = None
    path: str | None = None
    subprotocols: Sequence[str] = ()
    authentication: Authentication | None = None
    pages: bool = True
    metrics: MetricsText | None = None
    http: AnswerHTTP | None = None


class Reception:
    """Makes the protocols of a listening socket, and knows whose handshakes are under way."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._loop = asyncio.get_running_loop()
        self._guests: set[_Guest] = set()
        self._all_left: asyncio.Future[None] | None = None
        """Set once it is closed, and done when nobody is left."""

    def __len__(self) -> int:
        return len(self._guests)

    def new_opening(self) -> Opening:
        """Return the protocol of a client that has just come."""
        return _Guest(self._rules, self._on_arrival, self._on_departure).opening

    def close(self) -> list[asyncio.Task[None]]:
        """Refuse who waits for an answer, and drop who has not asked yet; return the tasks that are about to end."""
        self._all_left = self._loop.create_future()
        ending = [guest.deciding for guest in self._guests if guest.deciding is not None]
        for guest in list(self._guests):
            guest.dismiss()
        if self._guests:
            ending.append(self._loop.create_task(self._see_out(self._all_left)))
        return ending

    async def _see_out(self, all_left: asyncio.Future[None]) -> None:
        """Let the answers that are under way arrive."""
        await asyncio.wait({all_left}, timeout=self._rules.config.close.timeout)
        for guest in list(self._guests):
            guest.opening.abort()

    def _on_arrival(self, guest: _Guest) -> None:
        self._guests.add(guest)
        if self._all_left is not None:
            guest.dismiss()

    def _on_departure(self, guest: _Guest) -> None:
        self._guests.discard(guest)
        if not self._guests and self._all_left is not None and not self._all_left.done():
            self._all_left.set_result(None)


class _Guest:
    """A client until it is let in or has left."""

    def __init__(
        self, rules: Rules, on_arrival: Callable[[_Guest], None], on_departure: Callable[[_Guest], None]
    ) -> None:
        self._rules = rules
        self._on_arrival = on_arrival
        self._on_departure = on_departure
        self._loop = asyncio.get_running_loop()
        self._handshake = ServerHandshake(
            rules.config, now=self._loop.time(), path=rules.path, subprotocols=rules.subprotocols, http=True
        )
        self.opening = Opening(self._handshake, on_progress=self._on_progress, on_end=self._on_end)
        self.deciding: asyncio.Task[None] | None = None
        """Finds out how to answer the request."""
        self._visitor: PendingUpgrade | None = None
        self._is_answered = False
        """Whether we have answered the request, and not the handshake by itself."""

    def dismiss(self) -> None:
        """The server ends: refuse a request that has no answer, and wait for none."""
        if self._handshake.is_pending:
            self._respond(self._rules.endpoint.dismiss(self._visitor))
            if self.deciding is not None:
                self.deciding.cancel()
            self.opening.pump()
        elif self._handshake.response is None:
            self.opening.abort()

    def _on_progress(self, opening: Opening) -> None:
        if opening.transport is None:
            return  # a failed TLS handshake never gives one, and after the end there is none
        self._on_arrival(self)
        if self._handshake.response is not None:
            self._on_response(self._handshake.response)
        elif self.deciding is not None:
            pass
        elif self._handshake.http_request is not None:
            self.deciding = self._loop.create_task(self._answer(self._handshake.http_request))
        elif self._handshake.request is not None:
            self._receive(self._handshake.request)

    def _on_end(self, opening: Opening) -> None:
        self._on_departure(self)
        if self.deciding is not None and not self._is_answered:
            self.deciding.cancel()

    def _on_response(self, response: Response) -> None:
        """Take note of a response, which may be the handshake's own: to nonsense, or because we took too long."""
        if not self._is_answered:
            self._is_answered = True
            if self.deciding is not None:
                self.deciding.cancel()
            self._rules.endpoint.on_handshake_response(response, self.opening.remote_address)

    def _receive(self, request: UpgradeRequest) -> None:
        rules = self._rules
        if rules.on_connection is None:
            self._respond(NO_WEBSOCKET)
            return
        visitor = rules.endpoint.receive(request, self.opening.remote_address)
        if isinstance(visitor, Response):
            self._respond(visitor)
            return
        self._visitor = visitor
        if rules.authentication is None:
            self._admit(visitor, None, rules.on_connection)
        else:
            self.deciding = self._loop.create_task(
                self._authenticate(visitor, rules.authentication, rules.on_connection)
            )

    async def _authenticate(
        self, visitor: PendingUpgrade, authentication: Authentication, on_connection: OnConnection
    ) -> None:
        try:
            answer = await authentication(visitor.token, visitor.request)
        except (Exception, asyncio.CancelledError) as error:
            if self._handshake.is_pending:  # else it is we who have cancelled it
                self._respond(self._rules.endpoint.refuse_for(error, visitor))
        else:
            for _ in range(_TURNS):
                await asyncio.sleep(0)
            if self._handshake.is_pending:
                if isinstance(answer, Response):
                    self._rules.endpoint.on_refusal(self._respond(answer), visitor)
                else:
                    self._admit(visitor, answer, on_connection)
        self.opening.pump()

    async def _answer(self, request: HTTPRequest) -> None:
        rules = self._rules
        try:
            response = answer_page(request, rules.endpoint, rules.metrics) if rules.pages else None
            if response is None and rules.http is not None:
                response = await rules.http(request)
            if response is None:
                response = NO_WEBSOCKET if rules.on_connection is None else no_page(request, rules.path)
            check_response(response)
        except (Exception, asyncio.CancelledError) as error:
            if not self._handshake.is_pending:
                return  # it is we who have cancelled it
            log_server_error("http_error", error, secrets_of(request))
            response = INTERNAL_ERROR
        if self._handshake.is_pending:
            self._respond(response)
            self.opening.pump()

    def _respond(self, response: Response) -> Response:
        """Answer with `response`, or with what can be sent in its place, and return it."""
        self._is_answered = True
        try:
            self._handshake.respond(response, self._loop.time())
        except LocalProtocolError as error:  # for what the application made
            log_server_error("http_error", error)
            response = INTERNAL_ERROR
            self._handshake.respond(response, self._loop.time())
        return response

    def _admit(self, visitor: PendingUpgrade, principal: Principal | None, on_connection: OnConnection) -> None:
        rules, now = self._rules, self._loop.time()
        session = rules.endpoint.admit(visitor, principal, uuid4().hex, now=now, wall_now=time.time())
        if isinstance(session, Response):
            self._respond(session)
            return
        self._is_answered = True
        agreement = self._handshake.accept()
        connection = Connection(self._handshake.connection(now), rules.config, visitor.request, agreement, session)
        rules.endpoint.enter(connection, session)
        session.log.opened(self.opening.remote_address, visitor.ip, visitor.request.path)
        on_connection(connection, session)
        self.opening.hand_over(connection)
