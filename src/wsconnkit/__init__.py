"""Managed WebSocket connections: a sans-I/O core, and adapters that bind it to sockets.

Everything but the adapters is importable from here; those are `wsconnkit.asyncio` and its siblings.
"""

from wsconnkit.machines.closecodes import CloseCode, describe, is_normal, may_send, should_retry, truncate_reason
from wsconnkit.machines.closing import Closing, State
from wsconnkit.machines.compression import CompressionStats
from wsconnkit.machines.deadlines import Deadlines
from wsconnkit.machines.framesize import FrameLimits, FrameSize, FrameSizeStats
from wsconnkit.machines.heartbeat import Heartbeat, HeartbeatConfig
from wsconnkit.protocol.closeinfo import Cause, CloseFrame, CloseInfo, Initiator
from wsconnkit.protocol.config import CloseConfig, ConnectionConfig, HandshakeLimits, QueueConfig
from wsconnkit.protocol.connection import Connection, ConnectionStats, Timer, Transport
from wsconnkit.protocol.deflate import CompressionConfig
from wsconnkit.protocol.errors import (
    ConcurrencyError,
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    InvalidHandshake,
    InvalidStatus,
    InvalidURI,
    LocalProtocolError,
    WsconnkitError,
)
from wsconnkit.protocol.events import (
    Closed,
    Event,
    FrameSizeWarning,
    HeartbeatPinged,
    HeartbeatStalled,
    Message,
    PingReceived,
    PongReceived,
)
from wsconnkit.protocol.frames import Role
from wsconnkit.protocol.handshake import (
    Agreement,
    ClientHandshake,
    ServerHandshake,
    UpgradeRequest,
    agree,
    check_upgrade,
)
from wsconnkit.protocol.http import Headers, Response
from wsconnkit.protocol.inbox import Inbox
from wsconnkit.protocol.uri import URI, parse_uri

__version__ = "0.1.0"

__all__ = [
    "URI",
    "Agreement",
    "Cause",
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
    "ConnectionStats",
    "Deadlines",
    "Event",
    "FrameLimits",
    "FrameSize",
    "FrameSizeStats",
    "FrameSizeWarning",
    "HandshakeLimits",
    "Headers",
    "Heartbeat",
    "HeartbeatConfig",
    "HeartbeatPinged",
    "HeartbeatStalled",
    "Inbox",
    "Initiator",
    "InvalidHandshake",
    "InvalidStatus",
    "InvalidURI",
    "LocalProtocolError",
    "Message",
    "PingReceived",
    "PongReceived",
    "QueueConfig",
    "Response",
    "Role",
    "ServerHandshake",
    "State",
    "Timer",
    "Transport",
    "UpgradeRequest",
    "WsconnkitError",
    "__version__",
    "agree",
    "check_upgrade",
    "describe",
    "is_normal",
    "may_send",
    "parse_uri",
    "should_retry",
    "truncate_reason",
]
