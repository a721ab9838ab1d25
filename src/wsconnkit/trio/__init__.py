"""WebSocket connections on trio."""

try:
    import trio as _  # noqa: F401
except ModuleNotFoundError as _error:
    _text = "wsconnkit.trio needs trio; install it with: pip install 'wsconnkit[trio]'"
    raise ModuleNotFoundError(_text, name=_error.name) from None

from wsconnkit.managed.answering import answer_requests
from wsconnkit.managed.broadcast import broadcast
from wsconnkit.trio.client import ReconnectingClient, connect
from wsconnkit.trio.connection import Connection, attach
from wsconnkit.trio.server import Manager, Server, serve

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
