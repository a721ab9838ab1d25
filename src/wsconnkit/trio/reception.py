"""Receives the clients of a server: drives their handshakes, and lets in, answers or refuses."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ssl import SSLContext
from typing import Any
from uuid import uuid4

import trio

from wsconnkit.protocol.closeinfo import Cause
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
from wsconnkit.trio.authentication import Authentication
from wsconnkit.trio.connection import Connection
from wsconnkit.trio.opening import Opening
from wsconnkit.trio.transport import addresses, cancelled_only, drop, interruptible

AnswerHTTP = Callable[[HTTPRequest], Awaitable["Response | None"]]
"""Called with a request that asks for no WebSocket and no page of ours; None says that there is nothing at its path."""
OnConnection = Callable[[Connection, Session], None]

_TURNS = 2
"""Turns of the loop in which it tells of clients that have left: it polls, and runs their tasks in any order."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What clients of one listener may ask for.

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
    """Receives who comes to a listener, and knows whose handshakes are under way.

    ssl: a server-side context, where there is to be TLS.
    """

    def __init__(self, rules: Rules, ssl: SSLContext | None = None) -> None:
        self._rules = rules
        self._ssl = ssl
        self._openings: dict[trio.CancelScope, _Guest] = {}
        self._departure = trio.lowlevel.ParkingLot()
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._openings)

    @trio.lowlevel.enable_ki_protection
    async def receive(self, stream: trio.abc.Stream) -> None:
        """Receive a client that has just come, and carry its connection to its end where it is let in."""
        guest = _Guest(self._rules)
        scope = trio.CancelScope()
        if self._is_closed:
            scope.cancel()
        self._openings[scope] = guest
        is_open = False
        try:
            with scope:
                if self._ssl is not None:
                    stream = await self._secure(stream, self._ssl)
                is_open = await guest.open(stream)
        finally:
            del self._openings[scope]
            self._departure.unpark_all()
            if not is_open:
                await drop(stream)
            if guest.connection is not None:
                await guest.connection.run(stream, Cause.DRAIN)

    def close(self) -> None:
        """Refuse who waits for an answer, and drop who has not asked yet; whoever has one is on the way out of here."""
        self._is_closed = True
        for scope, guest in self._openings.items():
            if not guest.dismiss():
                scope.cancel()

    async def wait_empty(self) -> None:
        """Wait until all have left, or are let in."""
        while self._openings:
            await self._departure.park()

    async def _secure(self, stream: trio.abc.Stream, ssl: SSLContext) -> trio.abc.Stream:
        """Return the stream with TLS on it; where that fails or takes too long, the first read tells."""
        try:
            secured = trio.SSLStream(stream, ssl, server_side=True)
            with trio.move_on_after(self._rules.config.handshake.timeout), suppress(trio.BrokenResourceError):
                await secured.do_handshake()
        except Exception as error:  # of a context or a stream that is the application's
            log_server_error("tls_error", error)
            await drop(stream)
            return stream
        return secured


class _Guest:
    """A client until it is let in or has left."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._remote_address: Any = None
        self._handshake = ServerHandshake(
            rules.config, now=trio.current_time(), path=rules.path, subprotocols=rules.subprotocols, http=True
        )
        self._deciding: trio.CancelScope | None = None
        """Where it is found out how to answer the request."""
        self._visitor: PendingUpgrade | None = None
        self._is_answered = False
        """Whether we have answered the request, and not the handshake by itself."""
        self.connection: Connection | None = None
        """The connection, once it is let in."""

    async def open(self, stream: trio.abc.Stream) -> bool:
        """Drive the handshake to its end; return whether `connection` is there to take over the stream."""
        self._remote_address = addresses(stream)[1]
        async with trio.open_nursery() as self._nursery:
            self._opening = Opening(stream, self._handshake, self._on_progress)
            is_open = await self._opening.run()
            self._nursery.cancel_scope.cancel()
        return is_open

    def dismiss(self) -> bool:
        """The server ends: refuse a request that has no answer, and wait for none; False where there is none yet."""
        if self._handshake.is_pending:
            self._respond(self._rules.endpoint.dismiss(self._visitor))
            if self._deciding is not None:
                self._deciding.cancel()
            self._opening.changed()
        return self._handshake.response is not None or self.connection is not None

    def _on_progress(self) -> None:
        if self._handshake.response is not None:
            self._on_response(self._handshake.response)
        elif self._deciding is not None:
            pass
        elif self._handshake.http_request is not None:
            self._decide(self._answer(self._handshake.http_request))
        elif self._handshake.request is not None:
            self._receive(self._handshake.request)

    def _on_response(self, response: Response) -> None:
        """Take note of a response, which may be the handshake's own: to nonsense, or because we took too long."""
        if not self._is_answered:
            self._is_answered = True
            if self._deciding is not None:
                self._deciding.cancel()
            self._rules.endpoint.on_handshake_response(response, self._remote_address)

    def _decide(self, deciding: Coroutine[Any, Any, None]) -> None:
        self._deciding = trio.CancelScope()
        self._nursery.start_soon(self._run_deciding, deciding, self._deciding)

    @trio.lowlevel.enable_ki_protection
    async def _run_deciding(self, deciding: Coroutine[Any, Any, None], scope: trio.CancelScope) -> None:
        with scope:
            await deciding
        self._opening.changed()

    def _receive(self, request: UpgradeRequest) -> None:
        rules = self._rules
        if rules.on_connection is None:
            self._respond(NO_WEBSOCKET)
            return
        visitor = rules.endpoint.receive(request, self._remote_address)
        if isinstance(visitor, Response):
            self._respond(visitor)
            return
        self._visitor = visitor
        if rules.authentication is None:
            self._admit(visitor, None, rules.on_connection)
        else:
            self._decide(self._authenticate(visitor, rules.authentication, rules.on_connection))

    async def _authenticate(
        self, visitor: PendingUpgrade, authentication: Authentication, on_connection: OnConnection
    ) -> None:
        try:
            with cancelled_only():
                answer = await authentication(visitor.token, visitor.request)
        except Exception as error:
            if self._handshake.is_pending:  # else it is we who have cancelled it
                self._respond(self._rules.endpoint.refuse_for(error, visitor))
        else:
            for _ in range(_TURNS):
                await trio.lowlevel.checkpoint()
            if self._handshake.is_pending:
                if isinstance(answer, Response):
                    self._rules.endpoint.on_refusal(self._respond(answer), visitor)
                else:
                    self._admit(visitor, answer, on_connection)

    async def _answer(self, request: HTTPRequest) -> None:
        rules = self._rules
        try:
            response = answer_page(request, rules.endpoint, rules.metrics) if rules.pages else None
            if response is None and rules.http is not None:
                with cancelled_only():
                    response = await interruptible(rules.http, request)
            if response is None:
                response = NO_WEBSOCKET if rules.on_connection is None else no_page(request, rules.path)
            check_response(response)
        except Exception as error:
            if not self._handshake.is_pending:
                return  # it is we who have cancelled it
            log_server_error("http_error", error, secrets_of(request))
            response = INTERNAL_ERROR
        if self._handshake.is_pending:
            self._respond(response)

    def _respond(self, response: Response) -> Response:
        """Answer with `response`, or with what can be sent in its place, and return it."""
        self._is_answered = True
        try:
            self._handshake.respond(response, trio.current_time())
        except LocalProtocolError as error:  # for what the application made
            log_server_error("http_error", error)
            response = INTERNAL_ERROR
            self._handshake.respond(response, trio.current_time())
        return response

    def _admit(self, visitor: PendingUpgrade, principal: Principal | None, on_connection: OnConnection) -> None:
        rules, now = self._rules, trio.current_time()
        session = rules.endpoint.admit(visitor, principal, uuid4().hex, now=now, wall_now=time.time())
        if isinstance(session, Response):
            self._respond(session)
            return
        self._is_answered = True
        agreement = self._handshake.accept()
        connection = Connection(self._handshake.connection(now), rules.config, visitor.request, agreement, session)
        rules.endpoint.enter(connection, session)
        session.log.opened(self._remote_address, visitor.ip, visitor.request.path)
        self.connection = connection
        on_connection(connection, session)
