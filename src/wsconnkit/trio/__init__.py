"""WebSocket connections on trio."""

try:
    import trio as _  # noqa: F401
except ModuleNotFoundError as error:
    text = "wsconnkit.trio needs trio; install it with: pip install 'wsconnkit[trio]'"
    raise ModuleNotFoundError(text, name=error.name) from None

from wsconnkit.service.broadcast import broadcast
from wsconnkit.trio.attach import attach
from wsconnkit.trio.client import connect
from wsconnkit.trio.connection import Connection
from wsconnkit.trio.reconnecting import ReconnectingClient
from wsconnkit.trio.router import answer_requests
from wsconnkit.trio.server import Server
from wsconnkit.trio.serving import serve

__all__ = ["Connection", "ReconnectingClient", "Server", "answer_requests", "attach", "broadcast", "connect", "serve"]
