"""Accepts the clients of a listener: drives their handshakes, and lets in, answers or refuses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

from wsconnkit.managed.connection import Connection
from wsconnkit.managed.manager import Manager
from wsconnkit.managed.opening import OpeningHandshake
from wsconnkit.managed.runtime import Runtime, Task, TaskCancelled
from wsconnkit.protocol.errors import LocalProtocolError
from wsconnkit.protocol.http import Response
from wsconnkit.protocol.serverhandshake import ServerHandshake
from wsconnkit.protocol.upgrade import HTTPRequest, UpgradeRequest
from wsconnkit.service.log import log_server_error
from wsconnkit.service.pages import (
    INTERNAL_ERROR,
    NO_WEBSOCKET,
    AnswerHTTP,
    MetricsText,
    answer_page,
    check_response,
    no_page,
)
from wsconnkit.service.policy import PendingUpgrade
from wsconnkit.service.principal import Principal
from wsconnkit.service.tokens import secrets_of

C = TypeVar("C", bound=Connection)
T = TypeVar("T")

_TURNS = 3
"""Turns of the loop in which it tells of clients that have left: it polls, it reads, and with TLS it says so later."""


class Site(NamedTuple):
    """What the clients of one listener may ask for.

    websocket: whether they may open connections.
    pages: whether the pages for those who watch the server are here. metrics: makes the text of /metrics.
    metrics_token: what those must bring who read it.
    http: answers all other requests.
    """

    websocket: bool = True
    pages: bool = True
    metrics: MetricsText | None = None
    metrics_token: str | None = None
    http: AnswerHTTP | None = None


class Acceptor(Generic[C]):
    """Gives each new transport of a listener its protocol, and knows whose handshakes are under way.

    on_connection: called with each connection that is let in, before anything is read on it.
    on_change: called when a handshake is over.
    """

    def __init__(
        self,
        runtime: Runtime,
        manager: Manager[C],
        site: Site,
        *,
        on_connection: Callable[[C], None],
        on_change: Callable[[], None],
    ) -> None:
        self.runtime = runtime
        self.manager = manager
        self.site = site
        self.on_connection = on_connection
        self._on_change = on_change
        self._pending: dict[PendingHandshake[C], None] = {}  # in the order in which they came
        self._is_closed = False
        self._trimming: Task | None = None

    def __len__(self) -> int:
        return len(self._pending)

    def accept(self, abort: Callable[[], None], remote_address: object) -> OpeningHandshake:
        """Return the protocol of a client that has just come, which is told of its end, too: also of one within TLS.

        abort: ends what the client has come over, while there is no transport; may do nothing more when it has ended.
        """
        pending = PendingHandshake(self, abort)
        self._pending[pending] = None
        self.manager.policy.begin_handshake(pending, remote_address)
        if self._is_closed:
            pending.dismiss()
        elif self._trimming is None and self.manager.policy.handshakes.surplus() is not None:
            self._trimming = self.runtime.start(self._trim, on_end=self._on_trimmed)
        return pending.opening

    def close(self) -> None:
        """Refuse who waits for an answer, and drop who has not asked yet; the answers may still take their time."""
        self._is_closed = True
        for pending in tuple(self._pending):
            pending.dismiss()

    def abort(self) -> None:
        """Drop who is still there."""
        for pending in tuple(self._pending):
            pending.opening.abort()

    def discard(self, pending: PendingHandshake[C]) -> None:
        """A handshake is over."""
        self._pending.pop(pending, None)
        self.manager.policy.handshakes.discard(pending)
        self._on_change()

    async def _trim(self) -> None:
        """End the oldest handshakes over a cap, once those who came together have had their turn to be let in."""
        for _ in range(_TURNS):
            await self.runtime.sleep(0)
        policy = self.manager.policy
        while (surplus := policy.handshakes.surplus()) is not None:
            policy.handshakes.discard(surplus.handshake)
            policy.on_handshake_dropped(surplus, now=self.runtime.now())
            surplus.handshake.opening.abort()

    def _on_trimmed(self, outcome: Any) -> None:
        self._trimming = None


class PendingHandshake(Generic[C]):
    """A client until it is let in or has left."""

    def __init__(self, acceptor: Acceptor[C], abort: Callable[[], None]) -> None:
        self._acceptor = acceptor
        self._runtime = acceptor.runtime
        self._manager = manager = acceptor.manager
        self._site = acceptor.site
        self._handshake = ServerHandshake(
            manager.config,
            now=self._runtime.now(),
            path=manager.path,
            subprotocols=manager.subprotocols,
            http=True,
            wall_clock=self._runtime.wall_now,
        )
        self.opening: OpeningHandshake = OpeningHandshake(
            self._runtime, self._handshake, on_progress=self._on_progress, on_end=self._on_end, abort=abort
        )
        self._deciding: Task | None = None
        """Finds out how to answer the request."""
        self._upgrade: PendingUpgrade | None = None
        self._is_answered = False
        """Whether we have answered the request, and not the handshake by itself."""

    def dismiss(self) -> None:
        """The server ends: refuse a request that has no answer, and wait for none."""
        if self._handshake.is_pending:
            self._respond(self._manager.policy.dismiss(self._upgrade))
            self._stop_deciding()
            self.opening.pump()
        elif self._handshake.response is None:
            self.opening.abort()

    def _on_progress(self, opening: OpeningHandshake) -> None:
        if opening.transport is None:
            return  # there is TLS first, and after the end there is none
        if self._handshake.response is not None:
            self._on_response(self._handshake.response)
        elif self._deciding is not None:
            pass
        elif self._handshake.http_request is not None:
            self._decide(self._answer, self._handshake.http_request, self._on_answer)
        elif self._handshake.request is not None:
            self._receive(self._handshake.request)

    def _on_end(self, opening: OpeningHandshake) -> None:
        self._acceptor.discard(self)
        if not self._is_answered:
            self._stop_deciding()

    def _on_response(self, response: Response) -> None:
        """Take note of a response, which may be the handshake's own: to nonsense, or because we took too long."""
        if not self._is_answered:
            self._is_answered = True
            self._stop_deciding()
            if not self._handshake.client_has_ended:  # who has left is not refused
                self._manager.policy.on_handshake_response(response, self.opening.remote_address)

    def _decide(self, function: Callable[[T], Awaitable[Any]], request: T, on_end: Callable[[T, Any], None]) -> None:
        self._deciding = self._runtime.start(function, request, on_end=partial(on_end, request))

    def _stop_deciding(self) -> None:
        if self._deciding is not None:
            self._deciding.cancel()

    def _receive(self, request: UpgradeRequest) -> None:
        if not self._site.websocket:
            self._respond(NO_WEBSOCKET)
            return
        upgrade = self._manager.policy.receive(request, self.opening.remote_address)
        if isinstance(upgrade, Response):
            self._respond(upgrade)
            return
        self._upgrade = upgrade
        if self._manager.authentication is None:
            self._admit(upgrade, None)
        else:
            self._decide(self._authenticate, upgrade, self._on_verdict)

    async def _authenticate(self, upgrade: PendingUpgrade) -> Principal | Response:
        assert self._manager.authentication is not None  # or there would be nothing to find out
        principal = await self._manager.authentication(upgrade.token, upgrade.request, upgrade.network)
        for _ in range(_TURNS):
            await self._runtime.sleep(0)
        return principal

    def _on_verdict(self, upgrade: PendingUpgrade, verdict: Any) -> None:
        if isinstance(verdict, TaskCancelled) or not self._handshake.is_pending:
            return  # the client has left, or the server ends
        if isinstance(verdict, Response):
            self._manager.policy.on_refusal(self._respond(verdict), upgrade)
        elif isinstance(verdict, Principal):
            self._admit(upgrade, verdict)
        else:
            self._respond(self._manager.policy.refuse_for(verdict, upgrade))
        self.opening.pump()

    async def _answer(self, request: HTTPRequest) -> Response:
        manager, site = self._manager, self._site
        response = None
        if site.pages:
            response = answer_page(request, manager.policy, site.metrics, site.metrics_token)
        if response is None:
            response = manager.policy.misdirected(request)
        if response is None and site.http is not None:
            response = await self._runtime.call(site.http, request)
        if response is None:
            response = no_page(request, manager.path) if site.websocket else NO_WEBSOCKET
        check_response(response)
        return response

    def _on_answer(self, request: HTTPRequest, answer: Any) -> None:
        if isinstance(answer, TaskCancelled) or not self._handshake.is_pending:
            return  # the client has left, or the server ends
        if not isinstance(answer, Response):
            log_server_error("http_error", answer, secrets_of(request))
            answer = INTERNAL_ERROR
        self._respond(answer)
        self.opening.pump()

    def _respond(self, response: Response) -> Response:
        """Answer with `response`, or with what can be sent in its place, and return it."""
        self._is_answered = True
        try:
            self._handshake.respond(response, self._runtime.now())
        except LocalProtocolError as error:  # for what the application made
            log_server_error("http_error", error)
            response = INTERNAL_ERROR
            self._handshake.respond(response, self._runtime.now())
        return response

    def _admit(self, upgrade: PendingUpgrade, principal: Principal | None) -> None:
        session = self._manager.admit(upgrade, principal)
        if isinstance(session, Response):
            self._respond(session)
            return
        self._is_answered = True
        agreement = self._handshake.accept()
        core = self._handshake.connection(self._runtime.now(), random_bytes=self._runtime.random_bytes)
        connection = self._manager.enter(self._runtime, core, upgrade, agreement, session)
        self._acceptor.on_connection(connection)
        self.opening.hand_over(connection)
