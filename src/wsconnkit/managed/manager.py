"""A server's connections, without listeners: for servers that exist already, and the base of our own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sized
from functools import partial
from typing import Any, Generic, TypeVar

from wsconnkit.managed.authentication import Authentication
from wsconnkit.managed.connection import Connection, new_connection_id, server_core
from wsconnkit.managed.draining import DrainRun
from wsconnkit.managed.guard import Guard
from wsconnkit.managed.runtime import Event, Runtime, TaskCancelled
from wsconnkit.protocol.closeinfo import Cause
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.connection import ConnectionProtocol
from wsconnkit.protocol.errors import LocalProtocolError, tells_only_of
from wsconnkit.protocol.frames import check_close
from wsconnkit.protocol.http import Response
from wsconnkit.protocol.upgrade import Agreement, UpgradeRequest, agree
from wsconnkit.service.arguments import check_type
from wsconnkit.service.drain import DrainReport
from wsconnkit.service.health import Health, measure
from wsconnkit.service.log import log_draining
from wsconnkit.service.policy import PendingUpgrade, ServerPolicy
from wsconnkit.service.principal import Principal
from wsconnkit.service.registry import Registry
from wsconnkit.service.serveoptions import ManagerOptions
from wsconnkit.service.serverstats import ServerStats
from wsconnkit.service.session import Session

C = TypeVar("C", bound=Connection)


class Admitted:
    """An upgrade that was admitted: answer with `response`, then `attach` the transport.

    It counts against all caps until it is attached, released, the handshake's timeout has passed, or the manager has
    closed.
    """

    def __init__(self, manager: Manager[Any], upgrade: PendingUpgrade, agreement: Agreement, session: Session) -> None:
        self.principal: Principal | None = session.principal
        """Whose connection it will be; None without authentication."""
        self.agreement = agreement
        """What both sides agreed on."""
        self.response: Response = Response(101, agreement.headers, b"")
        """The status and the headers of the answer."""
        self._manager = manager
        self._upgrade = upgrade
        self._session = session
        self._alarm = manager.runtime.alarm(self.release)
        self._alarm.set(manager.runtime.now() + manager.config.handshake.timeout)
        manager.admitted[self] = None

    def release(self) -> None:
        """Give the place up: the client has left, or the answer could not be sent. Safe to repeat."""
        if self._end():
            self._manager.policy.leave(self._session)

    def take(self, manager: Manager[Any]) -> tuple[PendingUpgrade, Session]:
        """Return what `attach` needs, once. Raises LocalProtocolError when it was attached or released, or is late."""
        if manager is not self._manager:
            raise LocalProtocolError("the upgrade was admitted by another manager; attach it there")
        if not self._end():
            raise LocalProtocolError(
                "the admitted upgrade was attached or released already, or its manager has closed, or it was "
                f"not attached within {manager.config.handshake.timeout:g} s; decide again"
            )
        return self._upgrade, self._session

    def _end(self) -> bool:
        """Tell whether this is its end."""
        if self not in self._manager.admitted:
            return False
        del self._manager.admitted[self]
        self._alarm.cancel()
        return True


def check_admitted(admitted: object, trailing_data: object) -> None:
    """Raise TypeError for what cannot be attached."""
    check_type("admitted", admitted, isinstance(admitted, Admitted), "what decide returns")
    check_type("trailing_data", trailing_data, isinstance(trailing_data, bytes), "bytes")


class Manager(ABC, Generic[C]):
    """Admits upgrades, and holds connections to what was decided; `Server` is one with listeners.

    It is made without a running event loop, and belongs to the first one that uses it.

    path: the only one that is served, None for every path.
    authenticate: a `JWTAuthenticator`, or an async function of a token or None and the `UpgradeRequest`, which returns
        a `Principal`, or a `Response` that refuses, or raises AuthenticationError. None lets everyone in.
    origins: the web pages' origins that may connect besides the server's own; None for all.
    allowed_hosts: the hosts that requests may be for, so that `origins` knows the server's own; None for all.
    subprotocols: those spoken, the preferred first.
    admission: caps on connections, rates of upgrades and messages.
    proxies: whose word on the client's address is taken.
    reauthenticate: whether a client may send a fresh token in a message.
    drain: how `drain` closes connections, unless it is told otherwise.

    Raises ValueError for what cannot work, TypeError for values of a wrong type.
    """

    _connection_class: type[C]

    def __init__(self, options: ManagerOptions) -> None:
        self._options = options
        self.config: ConnectionConfig = options.config
        """The configuration of connections."""
        self.path: str | None = options.path
        """The only path that is served; None for every path."""
        self.subprotocols: tuple[str, ...] = options.subprotocols
        """Those spoken, the preferred first."""
        self.policy: ServerPolicy[Any] = options.new_policy()
        """Who may come in, who is there, what has happened."""
        self.admitted: dict[Admitted, None] = {}
        """Those who are still to be attached, in the order in which they came."""
        self._runtime: Runtime | None = None
        self._authentication: Authentication | None = None
        self._open: dict[C, None] = {}
        """Connections whose transports have not ended, in the order in which they came."""
        self._farewell: tuple[int, str, Cause] = (int(Cause.LOCAL_CLOSE.code), "", Cause.LOCAL_CLOSE)
        self._is_closing = False
        self._changed: Event | None = None
        self._closed: Event | None = None
        self._drained: Event | None = None
        self._report: DrainReport | None = None

    @abstractmethod
    def _new_runtime(self) -> Runtime:
        """Return the running event loop. Raises RuntimeError where none runs."""

    @property
    def runtime(self) -> Runtime:
        """The event loop that it belongs to."""
        if self._runtime is None:
            self._runtime = self._new_runtime()
        return self._runtime

    @property
    def authentication(self) -> Authentication | None:
        """Finds out whose a token is; None where everyone is let in."""
        if self._authentication is None and self._options.authenticate is not None:
            self._authentication = Authentication(self.runtime, self._options.authenticate, self.policy.attempts)
        return self._authentication

    def __repr__(self) -> str:
        state = "closed" if self._is_over else "draining" if self.is_draining else "open"
        return f"<{type(self).__name__}{self._where()}: {state}, {len(self.connections)} connections>"

    @property
    def connections(self) -> Registry[C]:
        """The connections that have not ended: to iterate over, `get(id)`, or `by_user(subject)`."""
        return self.policy.connections

    @property
    def stats(self) -> ServerStats:
        """What was done since the start, in numbers."""
        return self.policy.stats

    @property
    def is_draining(self) -> bool:
        """Whether new connections are refused because the server shuts down."""
        return self.policy.is_draining

    def health(self) -> Health:
        """Return how the connections are now: counts and latencies."""
        return measure((ws.is_healthy, ws.latency) for ws in self.connections)

    async def decide(self, request: UpgradeRequest, remote_address: object) -> Admitted | Response:
        """Return an upgrade that was admitted, or the response that refuses it.

        request: from `check_upgrade`. remote_address: the peer's, as the socket has it.
        Raises RuntimeError in another event loop than the first that has used it.
        """
        if not self.runtime.is_running():
            raise RuntimeError("the manager was used in another event loop, to which it belongs; make one for each")
        await self.runtime.sleep(0)  # a cancelled call has let nobody in
        refused = self._options.check_path(request)
        if refused is not None:
            self.policy.on_handshake_response(refused, remote_address)
            return refused
        upgrade = self.policy.receive(request, remote_address)
        if isinstance(upgrade, Response):
            return upgrade
        principal: Principal | None = None
        if self.authentication is not None:
            try:
                answer = await self.authentication.within(
                    self.config.handshake.timeout, upgrade.token, request, upgrade.network
                )
            except Exception as error:
                return self.policy.refuse_for(error, upgrade)
            if isinstance(answer, Response):
                self.policy.on_refusal(answer, upgrade)
                return answer
            principal = answer
        session = self.admit(upgrade, principal)
        if isinstance(session, Response):
            return session
        return Admitted(self, upgrade, agree(request, self.config, subprotocols=self.subprotocols), session)

    async def drain(
        self,
        *,
        window: float | None = None,
        grace: float | None = None,
        code: int | None = None,
        reason: str | None = None,
    ) -> DrainReport:
        """Refuse new connections with 503, close those that are there one after the other, then close altogether.

        window: seconds over which closes are spread; the first comes when those who wait for `ws.draining` have had
        their turn to say goodbye, at once. Who needs longer for that does it in a block of `ws.busy()`.
        grace: seconds after it in which work in flight may end, and peers may answer the close; what is then left is
        told to close, if it was not before, and aborted.
        What is None is as `drain` of `serve` or of the manager says. Safe to repeat; cancelled, it still drains.
        Raises LocalProtocolError for a code or a reason that cannot be sent, and ValueError for times that are
        negative or not finite.
        """
        config = self._options.drain.replaced(window=window, grace=grace, code=code, reason=reason)
        if self._drained is None:
            self._drained = self.runtime.event()
            run = DrainRun(self.runtime, tuple(self.connections), config, self._say_farewell)
            self._farewell = config.code, config.reason, Cause.DRAIN
            self.policy.is_draining = True
            log_draining(len(self.connections), config.window, config.grace)
            if self._is_over:  # there is nothing left to drain, and maybe nobody to do it
                self._report = run.report()
                self._drained.set()
            else:
                self.runtime.start(self._finish_drain, run, shield=True)
        await self._drained.wait()
        assert self._report is not None  # it comes before the event
        return self._report

    async def close(self, code: int = Cause.DRAIN.code, reason: str = "") -> None:
        """Refuse new connections and close all with `code` and `reason`, within the close timeout.

        Who was admitted and is attached meanwhile is closed at once; who is not has lost the place in the end.
        Safe to repeat; cancelled, it still closes. Raises LocalProtocolError for a code or a reason that cannot be
        sent.
        """
        check_close(code, reason)
        if not self._is_closing:
            self._is_closing = True
            self.policy.is_draining = True
            if self._authentication is not None:
                self._authentication.stop()
            self._farewell = code, reason, Cause.DRAIN
            self._begin_close()
            for ws in self.connections:
                self._say_farewell(ws)
            self.runtime.start(self._close, shield=True)
        await self._closed_event.wait()

    async def wait_closed(self) -> None:
        """Wait until `close` has been called and has ended."""
        await self._closed_event.wait()

    # What acceptors, and adapters' `attach`, call.

    def admit(self, upgrade: PendingUpgrade, principal: Principal | None) -> Session | Response:
        """Return the session of a client who is let in, with a place for its connection; or the refusal."""
        runtime = self.runtime
        return self.policy.admit(
            upgrade, principal, new_connection_id(runtime), now=runtime.now(), wall_now=runtime.wall_now()
        )

    def enter(
        self,
        runtime: Runtime,
        core: ConnectionProtocol,
        upgrade: PendingUpgrade,
        agreement: Agreement,
        session: Session,
    ) -> C:
        """Return the connection of a client who was let in, which is to be given its transport next."""
        ws = self._connection_class(runtime, core, self.config, upgrade.request, agreement, session)
        self.policy.enter(ws, session)
        session.log.opened(upgrade.remote_address, upgrade.ip, upgrade.request.path)
        guard = Guard(self.runtime, ws, session, self.authentication, timeout=self.config.handshake.timeout)
        self._open[ws] = None
        ws.call_when_closed(partial(self._on_closed, session, guard))
        ws.call_when_gone(partial(self._on_gone, ws))
        return ws

    def enter_admitted(self, runtime: Runtime, admitted: Admitted, trailing_data: bytes) -> C:
        """Return the connection of an upgrade that was admitted, which is to be given its transport next."""
        upgrade, session = admitted.take(self)
        agreement = admitted.agreement
        core = server_core(runtime, self.config, agreement, trailing_data)
        ws = self.enter(runtime, core, upgrade, agreement, session)
        if self.is_draining:  # by now
            self._say_farewell(ws)
        return ws

    def end(self, ws: C, outcome: Any) -> None:
        """Begin to close a connection whose handler has ended, with what it returned or raised."""
        if isinstance(outcome, TaskCancelled):  # most likely with the server
            ws.start_close(Cause.DRAIN.code, "", Cause.DRAIN)
        # That the client has left is no error of the handler; what another connection says is.
        elif isinstance(outcome, BaseException) and not tells_only_of(outcome, ws.close_info):
            ws.log.handler_error(outcome)
            ws.start_close(Cause.HANDLER_ERROR.code, "", Cause.HANDLER_ERROR)
        else:
            self._say_farewell(ws)

    # Inside.

    @property
    def _closed_event(self) -> Event:
        if self._closed is None:
            self._closed = self.runtime.event()
        return self._closed

    @property
    def _is_over(self) -> bool:
        return self._closed is not None and self._closed.is_set()

    def _where(self) -> str:
        """Say where it listens; for `Server`."""
        return ""

    def _begin_close(self) -> None:
        """Do what comes before the connections are told; for `Server`."""

    async def _finish_close(self) -> None:
        """Wait for the end of all there is, as long as it may take."""
        await self._wait_until_empty(self._open, 2 * self.config.close.timeout)
        for ws in tuple(self._open):
            ws.abort()

    async def _close(self) -> None:
        try:
            await self._finish_close()
        finally:
            for admitted in tuple(self.admitted):
                admitted.release()
            self._closed_event.set()

    async def _finish_drain(self, run: DrainRun[C]) -> None:
        assert self._drained is not None  # that is what we do
        try:
            await run.run()
            await self.close()
        finally:
            self._report = run.report()
            self._drained.set()

    async def _wait_until_empty(self, left: Sized, seconds: float) -> None:
        deadline = self.runtime.now() + seconds
        while len(left) and (remaining := deadline - self.runtime.now()) > 0:
            self._changed = self.runtime.event()
            await self.runtime.wait(self._changed, remaining)

    def _notify(self) -> None:
        if self._changed is not None:
            self._changed.set()

    def _on_closed(self, session: Session, guard: Guard) -> None:
        guard.stop()
        self.policy.leave(session)

    def _on_gone(self, ws: C) -> None:
        self._open.pop(ws, None)
        self._notify()

    def _say_farewell(self, ws: C) -> None:
        ws.start_close(*self._farewell)
