"""Where the demo happens: a server with short times and small limits, and the clients that come to it."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Sequence

from wsconnkit.asyncio import Connection, Server, serve
from wsconnkit.cli.demo.actor import Actor
from wsconnkit.machines.closecodes import CloseCode
from wsconnkit.machines.framesize import KIB, FrameLimits
from wsconnkit.machines.heartbeat import HeartbeatConfig
from wsconnkit.protocol.closeinfo import Cause
from wsconnkit.protocol.config import CloseConfig, ConnectionConfig
from wsconnkit.protocol.printable import printable

INTERVAL, TIMEOUT, MAX_MISSED = 1.0, 0.5, 2
MAX_FRAME_SIZE, MAX_MESSAGE_SIZE = 128 * KIB, 256 * KIB
CONFIG = ConnectionConfig(
    heartbeat=HeartbeatConfig(interval=INTERVAL, timeout=TIMEOUT, max_missed=MAX_MISSED),
    limits=FrameLimits(max_frame_size=MAX_FRAME_SIZE, max_message_size=MAX_MESSAGE_SIZE, warn_threshold=None),
    close=CloseConfig(timeout=1.0),
)
RULES = (
    f"a ping after {INTERVAL:g} s of silence, dead after {MAX_MISSED} pings without an answer in {TIMEOUT:g} s; "
    f"frames up to {MAX_FRAME_SIZE // KIB} KiB, messages up to {MAX_MESSAGE_SIZE // KIB} KiB"
)
_SEND_BUFFER = 16 * KIB
_PIECE = 16 * KIB
_SHORTEST, _LONGEST = 8.0, 20.0
"""Seconds until the server shuts down."""
_logger = logging.getLogger("wsconnkit.connection")

Tell = Callable[[str, str], None]
"""Called with who it is about and what happened."""


class Stage:
    """One performance: `run` plays it, and `actors` know then how they ended."""

    def __init__(self, actors: Sequence[Actor]) -> None:
        self.actors = actors
        self.uri: str = ""
        self.closing: bool = False
        """The server shuts down."""
        self._began = 0.0
        self._by_path = {actor.path: actor for actor in actors}
        self._by_id: dict[str, Actor] = {}
        self._all_sent = asyncio.Event()
        self._tell: Tell = lambda who, what: None

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return asyncio.get_running_loop().time() - self._began if self._began else 0.0

    async def run(self, tell: Tell) -> None:
        """Let every client come and go, then shut the server down."""
        self._tell = tell
        self._began = asyncio.get_running_loop().time()
        records = _Records(self._on_record)
        level, propagate = _logger.level, _logger.propagate
        _logger.addHandler(records)
        _logger.setLevel(logging.DEBUG)
        _logger.propagate = False
        try:
            # The protocol is named, because asyncio sets TCP_NODELAY only where it is.
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as sock:
                sock.bind(("127.0.0.1", 0))
                # Little room in the system, so that a slow reader is felt at once.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
                self.uri = f"ws://127.0.0.1:{sock.getsockname()[1]}"
                async with serve(self._handle, sock=sock, config=CONFIG) as server:
                    await self._play(server)
        finally:
            _logger.removeHandler(records)
            _logger.setLevel(level)
            _logger.propagate = propagate

    async def _play(self, server: Server) -> None:
        self._tell("server", f"listens on {self.uri}: {RULES}")
        plays = {actor.name: asyncio.ensure_future(self._enter(actor)) for actor in self.actors}
        try:
            leaving = [plays[actor.name] for actor in self.actors if actor.cause is not Cause.DRAIN]
            sending = asyncio.ensure_future(self._all_sent.wait())
            await asyncio.wait([*leaving, sending], timeout=_LONGEST)
            sending.cancel()
            await asyncio.sleep(_SHORTEST - self.elapsed)
            self.closing = True
            code = CloseCode.SERVICE_RESTART
            self._tell("server", f"shuts down: {len(server.connections)} connections are closed with {code.value}")
            await server.close(code, "the demo is over")
            await asyncio.wait(plays.values(), timeout=CONFIG.close.timeout)
            self._tell("server", "is down")
        finally:
            for play in plays.values():
                play.cancel()
            await asyncio.gather(*plays.values(), return_exceptions=True)

    async def _enter(self, actor: Actor) -> None:
        await asyncio.sleep(actor.enters)
        try:
            await actor.play(self.uri + actor.path)
        except Exception as error:
            actor.failure = printable(f"{type(error).__name__}: {error}")
            self._say(actor, f"its client failed: {actor.failure}")

    async def _handle(self, ws: Connection) -> None:
        actor = self._by_path[ws.upgrade_request.path]
        actor.connection = ws
        if actor.kib_to_send:
            await self._send_much(ws, actor)
        actor.note = "echoes"
        async for message in ws:
            await ws.send(message)
            if ws.stats.messages_received % 4 == 1:
                await ws.ping()  # a client that talks all the time is never pinged by the heartbeat

    async def _send_much(self, ws: Connection, actor: Actor) -> None:
        self._say(actor, f"is sent {actor.kib_to_send} KiB, faster than it reads")
        waited = 0.0
        for _ in range(actor.kib_to_send * KIB // _PIECE):
            before = self.elapsed
            await ws.send(os.urandom(_PIECE))
            waited += self.elapsed - before
            actor.note = f"send waited {waited:.1f} s"
        self._say(actor, f"has been sent all; send waited {waited:.1f} s in all")
        self._all_sent.set()

    def _on_record(self, event_type: str, fields: dict[str, object]) -> None:
        if event_type == "connection_opened":
            self._by_id[str(fields["connection_id"])] = self._by_path[str(fields["path"])]
        actor = self._by_id.get(str(fields.get("connection_id")))
        if actor is not None:
            self._say(actor, _TEXTS.get(event_type, event_type).format_map({**fields, "why": actor.why}))

    def _say(self, actor: Actor, text: str) -> None:
        actor.note = text
        self._tell(actor.name, text)


_TEXTS = {
    "connection_opened": "has connected",
    "heartbeat_ping": "is silent: ping",
    "heartbeat_missed": "has missed {missed}: ping again",
    "heartbeat_stalled": "is not blamed for our own delay of {late_by:.1f} s",
    "handler_error": "met an error in the handler",
    "connection_closed": "is closed: {code} {cause}, {why}",
}


class _Records(logging.Handler):
    """Hands on what the library logs."""

    def __init__(self, on_record: Callable[[str, dict[str, object]], None]) -> None:
        super().__init__()
        self._on_record = on_record

    def emit(self, record: logging.LogRecord) -> None:
        self._on_record(str(record.__dict__.get("type", record.levelname)), record.__dict__)
