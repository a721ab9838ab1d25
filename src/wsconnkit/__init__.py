"""Managed WebSocket connections: a sans-I/O core, and adapters that bind it to sockets.

Everything but the adapters is importable from here; those are `wsconnkit.asyncio` and `wsconnkit.trio`, and the
connections of both are of a subclass of `Connection`.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from wsconnkit.machines.backoff import Backoff, BackoffConfig
from wsconnkit.machines.closecodes import CloseCode, describe, is_normal, may_send, should_retry, truncate_reason
from wsconnkit.machines.closing import Closing, State
from wsconnkit.machines.compression import CompressionStats
from wsconnkit.machines.deadlines import Deadlines
from wsconnkit.machines.framesize import FrameLimits, FrameSize, FrameSizeStats
from wsconnkit.machines.heartbeat import Heartbeat, HeartbeatConfig
from wsconnkit.machines.ratelimit import RateLimit, TokenBucket, TokenBuckets
from wsconnkit.managed.answering import Request
from wsconnkit.managed.connection import Connection
from wsconnkit.managed.manager import Admitted
from wsconnkit.protocol.clienthandshake import ClientHandshake
from wsconnkit.protocol.closeinfo import Cause, CloseFrame, CloseInfo, Initiator
from wsconnkit.protocol.config import CloseConfig, ConnectionConfig, HandshakeLimits, QueueConfig, SlowConsumer
from wsconnkit.protocol.connection import ConnectionProtocol
from wsconnkit.protocol.deflate import CompressionConfig
from wsconnkit.protocol.errors import (
    ClientClosed,
    ConcurrencyError,
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    HandshakeInterrupted,
    InvalidHandshake,
    InvalidProxy,
    InvalidStatus,
    InvalidURI,
    LocalProtocolError,
    ProxyRefused,
    WsconnkitError,
)
from wsconnkit.protocol.events import (
    Closed,
    Event,
    FrameSizeWarning,
    HeartbeatPinged,
    HeartbeatStalled,
    Message,
    MessageDiscarded,
    PingReceived,
    PongReceived,
    UnreadWarning,
)
from wsconnkit.protocol.frames import Role
from wsconnkit.protocol.http import Headers, Response
from wsconnkit.protocol.inbox import Inbox
from wsconnkit.protocol.prepared import PreparedMessage
from wsconnkit.protocol.serverhandshake import ServerHandshake
from wsconnkit.protocol.stats import ConnectionStats
from wsconnkit.protocol.timers import Timer
from wsconnkit.protocol.transportaction import TransportAction
from wsconnkit.protocol.upgrade import Agreement, HTTPRequest, UpgradeRequest, agree, check_upgrade, refusal
from wsconnkit.protocol.uri import URI, parse_uri
from wsconnkit.service.admission import AdmissionConfig, Rates
from wsconnkit.service.backlog import BacklogConfig, WhenFull
from wsconnkit.service.drain import DrainConfig, DrainReport
from wsconnkit.service.envelope import RequestError
from wsconnkit.service.health import Health
from wsconnkit.service.principal import AuthenticationError, AuthFailure, Principal
from wsconnkit.service.proxies import TrustedProxies
from wsconnkit.service.reconnect import Opened, ReconnectEvent, Retrying, Stopped
from wsconnkit.service.requests import RequestTimeout
from wsconnkit.service.router import RequestRouter
from wsconnkit.service.serverstats import ServerStats

if TYPE_CHECKING:
    from wsconnkit.observe.logs import JSONFormatter as JSONFormatter
    from wsconnkit.observe.metrics import ServerMetrics as ServerMetrics
    from wsconnkit.observe.metrics import render_metrics as render_metrics
    from wsconnkit.service.auth import JWTAuthenticator as JWTAuthenticator
    from wsconnkit.service.settings import BadSettings as BadSettings
    from wsconnkit.service.settings import Setting as Setting
    from wsconnkit.service.settings import Settings as Settings

__version__ = "0.1.0"

__all__ = [
    "URI",
    "AdmissionConfig",
    "Admitted",
    "Agreement",
    "AuthFailure",
    "AuthenticationError",
    "BacklogConfig",
    "Backoff",
    "BackoffConfig",
    "BadSettings",
    "Cause",
    "ClientClosed",
    "ClientHandshake",
    "CloseCode",
    "CloseConfig",
    "CloseFrame",
    "CloseInfo",
    "Closed",
    "Closing",
    "CompressionConfig",
    "CompressionStats",
    "ConcurrencyError",
    "Connection",
    "ConnectionClosed",
    "ConnectionClosedError",
    "ConnectionClosedOK",
    "ConnectionConfig",
    "ConnectionProtocol",
    "ConnectionStats",
    "Deadlines",
    "DrainConfig",
    "DrainReport",
    "Event",
    "FrameLimits",
    "FrameSize",
    "FrameSizeStats",
    "FrameSizeWarning",
    "HTTPRequest",
    "HandshakeInterrupted",
    "HandshakeLimits",
    "Headers",
    "Health",
    "Heartbeat",
    "HeartbeatConfig",
    "HeartbeatPinged",
    "HeartbeatStalled",
    "Inbox",
    "Initiator",
    "InvalidHandshake",
    "InvalidProxy",
    "InvalidStatus",
    "InvalidURI",
    "JSONFormatter",
    "JWTAuthenticator",
    "LocalProtocolError",
    "Message",
    "MessageDiscarded",
    "Opened",
    "PingReceived",
    "PongReceived",
    "PreparedMessage",
    "Principal",
    "ProxyRefused",
    "QueueConfig",
    "RateLimit",
    "Rates",
    "ReconnectEvent",
    "Request",
    "RequestError",
    "RequestRouter",
    "RequestTimeout",
    "Response",
    "Retrying",
    "Role",
    "ServerHandshake",
    "ServerMetrics",
    "ServerStats",
    "Setting",
    "Settings",
    "SlowConsumer",
    "State",
    "Stopped",
    "Timer",
    "TokenBucket",
    "TokenBuckets",
    "TransportAction",
    "TrustedProxies",
    "UnreadWarning",
    "UpgradeRequest",
    "WhenFull",
    "WsconnkitError",
    "__version__",
    "agree",
    "check_upgrade",
    "describe",
    "is_normal",
    "may_send",
    "parse_uri",
    "refusal",
    "render_metrics",
    "should_retry",
    "truncate_reason",
]

_LAZY = {
    "BadSettings": ("settings", "pydantic_settings", "wsconnkit.service.settings"),
    "JSONFormatter": ("logs", "pythonjsonlogger", "wsconnkit.observe.logs"),
    "JWTAuthenticator": ("crypto", "jwt", "wsconnkit.service.auth"),
    "ServerMetrics": ("prometheus", "prometheus_client", "wsconnkit.observe.metrics"),
    "Setting": ("settings", "pydantic_settings", "wsconnkit.service.settings"),
    "Settings": ("settings", "pydantic_settings", "wsconnkit.service.settings"),
    "render_metrics": ("prometheus", "prometheus_client", "wsconnkit.observe.metrics"),
}
"""What imports packages that not everyone has, or needs; by name, the extra, the package, and the module."""

_OF_ADAPTERS = {"ReconnectingClient", "Manager", "Server", "answer_requests", "attach", "broadcast", "connect", "serve"}


def _can_be_had(name: str) -> bool:
    try:
        return name not in _LAZY or find_spec(_LAZY[name][1]) is not None
    except ModuleNotFoundError:
        return False


if not TYPE_CHECKING:
    # `import *` is not to fail for want of a package.
    __all__ = [name for name in __all__ if _can_be_had(name)]


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})


def __getattr__(name: str) -> object:
    if name in _OF_ADAPTERS:
        # An AttributeError's text would not reach who writes `from wsconnkit import`.
        where = f"from wsconnkit.asyncio import {name} (or from wsconnkit.trio)"
        raise ImportError(f"wsconnkit has no {name}, since each event loop has its own; write {where}", name=__name__)
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    extra, _, module = _LAZY[name]
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        text = f"wsconnkit.{name} needs {error.name}; install it with: pip install 'wsconnkit[{extra}]'"
        raise ModuleNotFoundError(text, name=error.name) from None
