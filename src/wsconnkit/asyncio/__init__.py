"""WebSocket connections on asyncio."""

from wsconnkit.asyncio.client import connect
from wsconnkit.asyncio.connection import Connection, attach
from wsconnkit.asyncio.server import Server, serve

__all__ = ["Connection", "Server", "attach", "connect", "serve"]
