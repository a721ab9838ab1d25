"""Every public value and exception can be pickled and copied; every public name is known to be one, or not to be."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from collections.abc import Iterator
from enum import Enum
from importlib import import_module
from typing import Any

import pytest

import wsconnkit
from wsconnkit import BadSettings, Headers, PreparedMessage, Principal, Response, ServerStats, Settings, TrustedProxies
from wsconnkit.machines.framesize import Violation
from wsconnkit.protocol.deflate import DeflateParams
from wsconnkit.protocol.http import ExtensionOffer
from wsconnkit.service.drain import Drained, Outcome
from wsconnkit.testing import Stalled

INFO = wsconnkit.CloseInfo(
    cause=wsconnkit.Cause.TRANSPORT_LOST,
    initiator=wsconnkit.Initiator.TRANSPORT,
    phase=wsconnkit.State.OPEN,
    sent=wsconnkit.CloseFrame(1000, "bye"),
    rcvd=None,
    rcvd_then_sent=None,
    error=ConnectionResetError(104, "reset"),
    last_byte_in_age=1.0,
    last_byte_out_age=2.0,
)
HEADERS = Headers([("A", "1"), ("A", "2")])
RESPONSE = Response(403, HEADERS, b"no")
STATS = wsconnkit.FrameSizeStats(1, 2)
STATS.recent_violations.append(Violation("max_frame_size", 2, 1))

VALUES: list[object] = [
    INFO,
    HEADERS,
    RESPONSE,
    STATS,
    wsconnkit.URI(True, "example.org", 443, "/?a", "user", "password"),
    wsconnkit.AdmissionConfig(tiers={"free": wsconnkit.Rates(messages=wsconnkit.RateLimit(1, 2))}),
    wsconnkit.Agreement(HEADERS, "chat", DeflateParams(True, False, 15, 15)),
    wsconnkit.BackoffConfig(),
    wsconnkit.BacklogConfig(),
    wsconnkit.CloseConfig(),
    wsconnkit.CloseFrame(1000, "bye"),
    wsconnkit.Closed(INFO),
    wsconnkit.CompressionConfig(),
    wsconnkit.CompressionStats(),
    wsconnkit.ConnectionConfig(),
    wsconnkit.ConnectionStats(STATS, wsconnkit.CompressionStats()),
    wsconnkit.DrainConfig(),
    wsconnkit.DrainReport(connections=(Drained("1", "ada", next(iter(Outcome)), INFO),), duration=1.0),
    wsconnkit.FrameLimits(),
    wsconnkit.FrameSizeWarning(7),
    wsconnkit.HTTPRequest("GET", "/", HEADERS),
    wsconnkit.HandshakeLimits(),
    wsconnkit.Health(active=1, healthy=1, unhealthy=0, average_latency=1.0, p50=1.0, p95=1.0, p99=1.0),
    wsconnkit.HeartbeatConfig(),
    wsconnkit.HeartbeatPinged(1),
    wsconnkit.HeartbeatStalled(1.0),
    wsconnkit.Message("text", 4, False),
    wsconnkit.Opened(attempts=3),
    wsconnkit.MessageDiscarded(1),
    wsconnkit.PingReceived(b"1"),
    wsconnkit.PongReceived(b"1", 0.5),
    PreparedMessage("text"),
    Principal(subject="ada", tier="free", claims={"roles": ["a"]}, expires_at=1.0, leeway=2.0),
    wsconnkit.QueueConfig(),
    wsconnkit.RateLimit(1, 2.0),
    wsconnkit.Rates(),
    wsconnkit.Retrying(attempt=1, delay=2.0, refresh=False, error=OSError(1, "x")),
    wsconnkit.Stopped(attempts=1, error=wsconnkit.InvalidStatus(RESPONSE)),
    ServerStats(),
    wsconnkit.Setting("PING_INTERVAL", "30000", "default", "ms"),
    TrustedProxies(["10.0.0.0/8"]),
    wsconnkit.UnreadWarning(1.0),
    wsconnkit.UpgradeRequest("/", HEADERS, "key", ("chat",), (ExtensionOffer("x", (("a", None),)),)),
    # Errors.
    BadSettings(["PORT is 'x'", "HOST is ''"]),
    wsconnkit.AuthenticationError(wsconnkit.AuthFailure.EXPIRED, "detail"),
    wsconnkit.ClientClosed("closed"),
    wsconnkit.ConcurrencyError("two"),
    wsconnkit.ConnectionClosed(INFO),
    wsconnkit.ConnectionClosedError(INFO),
    wsconnkit.ConnectionClosedOK(INFO),
    wsconnkit.HandshakeInterrupted("gone"),
    wsconnkit.InvalidHandshake("bad"),
    wsconnkit.InvalidProxy("bad"),
    wsconnkit.InvalidStatus(RESPONSE),
    wsconnkit.InvalidURI("bad"),
    wsconnkit.LocalProtocolError("bad"),
    wsconnkit.ProxyRefused(RESPONSE),
    wsconnkit.RequestError("code", "message", more=1),
    wsconnkit.RequestError.from_payload(["no", "object"]),
    wsconnkit.RequestTimeout("late"),
    wsconnkit.WsconnkitError("base"),
    Stalled("all wait"),
]

LIVE = {
    # What does something, or belongs to what does: a machine, a connection, a server, a formatter.
    *("Admitted", "Backoff", "ClientHandshake", "Closing", "Connection", "ConnectionProtocol", "Deadlines"),
    *("Endpoint", "FrameSize", "Heartbeat", "Inbox", "JSONFormatter", "JWTAuthenticator", "Manager", "Network"),
    *("Pair", "Pipe", "Runtime"),
    *("ReconnectingClient", "Request", "RequestRouter", "Server", "ServerHandshake", "ServerMetrics", "TokenBucket"),
    *("TokenBuckets", "VirtualClock", "connect", "serve", "attach"),
}


def public() -> Iterator[tuple[str, object]]:
    for module in map(import_module, ("wsconnkit", "wsconnkit.asyncio", "wsconnkit.trio", "wsconnkit.testing")):
        for name in {*module.__all__, *getattr(module, "_LAZY", ())}:
            yield name, getattr(module, name)


def told(value: object) -> Any:
    """What there is to a value, in a form that can be compared, as those of errors and slotted classes cannot."""
    if isinstance(value, (str, bytes, int, float, type(None), Enum)):
        return type(value), value
    if isinstance(value, dict):
        return type(value), [(told(key), told(part)) for key, part in value.items()]
    if isinstance(value, BaseException):
        return type(value), told(value.args), told(vars(value)), str(value), repr(value)
    parts = [getattr(value, name) for base in type(value).__mro__ for name in getattr(base, "__slots__", ())]
    if hasattr(value, "__dict__"):
        parts.append(vars(value))
    if not parts or isinstance(value, tuple):
        assert hasattr(value, "__iter__"), value
        parts = list(value)
    return type(value), [told(part) for part in parts]


def id_of(value: object) -> str:
    return type(value).__name__


@pytest.mark.parametrize("value", VALUES, ids=id_of)
def test_a_value_comes_out_of_each_copy_as_it_was(value: object) -> None:
    copies = [copy.copy(value), copy.deepcopy(value)]
    copies += [pickle.loads(pickle.dumps(value, protocol)) for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)]
    for copied in copies:
        assert copied is not None
        assert told(copied) == told(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        assert list(dataclasses.asdict(value)) == [field.name for field in dataclasses.fields(value)]
        if type(value).__dataclass_params__.frozen:  # type: ignore[attr-defined]
            assert told(dataclasses.replace(value)) == told(value)


def test_each_public_class_is_a_value_here_or_known_to_be_none() -> None:
    seen = {type(value).__name__ for value in VALUES}
    unknown = {
        name
        for name, thing in public()
        if inspect.isclass(thing) and not issubclass(thing, Enum) and name not in LIVE and name != "Settings"
    }
    assert unknown - seen == set()


def test_members_of_an_enum_stay_themselves() -> None:
    enums: list[type[Enum]] = [thing for _, thing in public() if inspect.isclass(thing) and issubclass(thing, Enum)]
    members = [member for each in enums for member in each]
    assert wsconnkit.Cause.DRAIN in members
    for member in members:
        assert copy.copy(member) is copy.deepcopy(member) is pickle.loads(pickle.dumps(member)) is member


def test_settings_and_their_errors_are_the_same_again() -> None:
    settings = Settings()
    for copied in (copy.copy(settings), copy.deepcopy(settings), pickle.loads(pickle.dumps(settings))):
        assert copied == settings
    error = copy.copy(BadSettings(["a", "b"]))
    assert (error.problems, str(error)) == (["a", "b"], "a\nb")
