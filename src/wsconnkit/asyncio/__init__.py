"""WebSocket connections on asyncio."""

from wsconnkit.asyncio.attach import attach
from wsconnkit.asyncio.client import connect
from wsconnkit.asyncio.connection import Connection
from wsconnkit.asyncio.reconnecting import ReconnectingClient
from wsconnkit.asyncio.router import answer_requests
from wsconnkit.asyncio.server import Server
from wsconnkit.asyncio.serving import serve
from wsconnkit.service.broadcast import broadcast

__all__ = ["Connection", "ReconnectingClient", "Server", "answer_requests", "attach", "broadcast", "connect", "serve"]
