"""WebSocket connections on asyncio."""

from wsconnkit.asyncio.client import ReconnectingClient, connect
from wsconnkit.asyncio.connection import Connection, attach
from wsconnkit.asyncio.server import Manager, Server, serve
from wsconnkit.managed.answering import answer_requests
from wsconnkit.managed.broadcast import broadcast

__all__ = [
    "Connection",
    "Manager",
    "ReconnectingClient",
    "Server",
    "answer_requests",
    "attach",
    "broadcast",
    "connect",
    "serve",
]


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
