"""What is wrong with an argument, said at once: its name, its value, what is allowed, and what to write."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

_SECRET = frozenset({"uri", "token", "headers", "proxy"})
"""There may be a secret in these, as in bytes; of their values the type is said."""

_CONFIG = "config=ConnectionConfig({})"
_OURS = {
    # What websockets calls it, and aiohttp.
    "ping_interval": _CONFIG.format("heartbeat=HeartbeatConfig(interval=...)"),
    "ping_timeout": _CONFIG.format("heartbeat=HeartbeatConfig(timeout=...)"),
    "close_timeout": _CONFIG.format("close=CloseConfig(timeout=...)"),
    "open_timeout": _CONFIG.format("handshake=HandshakeLimits(timeout=...)"),
    "max_size": _CONFIG.format("limits=FrameLimits(max_message_size=...)"),
    "max_queue": _CONFIG.format("queue=QueueConfig(...)"),
    "write_limit": _CONFIG.format("queue=QueueConfig(...)"),
    "compression": _CONFIG.format("compression=CompressionConfig(...)"),
    "extra_headers": "headers=",
    "additional_headers": "headers=",
    "user_agent_header": 'headers={"User-Agent": ...}',
    "origin": 'headers={"Origin": ...}',
    "process_request": "http= for other requests, authenticate= for those who want a WebSocket",
    "select_subprotocol": "subprotocols=",
    "ssl_context": "ssl=",
    "heartbeat": _CONFIG.format("heartbeat=HeartbeatConfig(interval=...)"),
    "autoping": _CONFIG.format("heartbeat=...)") + "; pings of the peer are always answered",
    "timeout": _CONFIG.format("close=CloseConfig(timeout=...), handshake=HandshakeLimits(timeout=...)"),
    "receive_timeout": _CONFIG.format("idle_timeout=..."),
    "max_msg_size": _CONFIG.format("limits=FrameLimits(max_message_size=...)"),
    "compress": _CONFIG.format("compression=CompressionConfig(...)"),
    "protocols": "subprotocols=",
    "auth": "token=, or user and password in the URI",
    "verify_ssl": "ssl=, a context that does not verify",
}


def check_type(name: str, value: object, is_good: bool, wanted: str) -> None:
    """Raise TypeError unless `is_good`."""
    if not is_good:
        is_secret = name in _SECRET or isinstance(value, bytes)
        shown = f"of type {type(value).__name__}" if is_secret else repr(value)
        raise TypeError(f"{name} is {shown}; it must be {wanted}")


def check_value(name: str, value: object, is_good: bool, wanted: str) -> None:
    """Raise ValueError unless `is_good`."""
    if not is_good:
        raise ValueError(f"{name} is {value!r}; it must be {wanted}")


def check_names(call: str, given: Collection[str], known: Sequence[str]) -> None:
    """Raise TypeError for the first of the keywords `given` that is not `known`, with what to write in its place."""
    for name in sorted(set(given) - set(known)):
        from difflib import get_close_matches  # which only mistakes need

        ours = _OURS.get(name) or next((f"{near}=" for near in get_close_matches(name, known, 1)), None)
        raise TypeError(f"{call} has no argument {name}" + (f"; write {ours}" if ours else ""))


def check_async(name: str, function: Any, wanted: str = "an async function") -> None:
    """Raise TypeError for what is called and cannot be awaited, as far as that can be told without a call.

    What returns what an async function does may be a lambda, a callable object, or a function that wraps another.
    """
    inner = function
    while isinstance(inner, partial):
        inner = inner.func
    is_wrong = not callable(inner) or isinstance(inner, type) or inspect.isasyncgenfunction(inner)
    if inspect.isfunction(inner) or inspect.ismethod(inner):
        may_be = inner.__name__ == "<lambda>" or hasattr(inner, "__wrapped__") or "return" in inner.__annotations__
        is_wrong |= not (inspect.iscoroutinefunction(inner) or (may_be and not _returns_nothing(inner)))
    check_type(name, function, not is_wrong, f"{wanted}, written with async def and without yield")


def _returns_nothing(function: Any) -> bool:
    return function.__annotations__.get("return", "") in (None, "None")


def is_int(value: object) -> bool:
    """Tell whether that is an int, which True is not meant to be."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Tell whether that is a number of something."""
    return is_int(value) or isinstance(value, float)


def is_list(value: object, kind: type = object) -> bool:
    """Tell whether that is a collection of values of one kind, and no text."""
    if not isinstance(value, Collection) or isinstance(value, (str, bytes)):
        return False
    return all(isinstance(each, kind) for each in value)


def check_port(name: str, port: object) -> None:
    """Raise TypeError or ValueError unless that is a port, 0 for any, or None."""
    check_type(name, port, port is None or is_int(port), _A_PORT)
    check_value(name, port, not isinstance(port, int) or 0 <= port <= 0xFFFF, _A_PORT)


def check_host(name: str, host: object) -> None:
    """Raise TypeError unless that is a host, a list of some, or None."""
    hosts = host if isinstance(host, (list, tuple)) else [host]
    is_good = host is None or (bool(hosts) and all(isinstance(each, str) for each in hosts))
    check_type(name, host, is_good, "a str such as '127.0.0.1', a list of some, or None for all interfaces")


_A_PORT = "0 for any, or a port up to 65535"
