from __future__ import annotations

import copy
import pickle

import pytest

from wsconnkit.machines.closing import State
from wsconnkit.protocol.closeinfo import Cause, CloseFrame, CloseInfo, Initiator
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
    connection_closed,
    tells_only_of,
)
from wsconnkit.protocol.http import Response


def closed_with(code: int) -> CloseInfo:
    frame = CloseFrame(code, "")
    return CloseInfo(
        cause=Cause.PEER_CLOSE,
        initiator=Initiator.PEER,
        phase=State.CLOSE_EXCHANGED,
        sent=frame,
        rcvd=frame,
        rcvd_then_sent=True,
        error=None,
        last_byte_in_age=0.0,
        last_byte_out_age=0.0,
    )


@pytest.mark.parametrize(
    "error",
    [
        LocalProtocolError("no"),
        ConcurrencyError("no"),
        ConnectionClosed(closed_with(1000)),
        ClientClosed("no"),
        InvalidURI("no"),
        InvalidProxy("no"),
        InvalidHandshake("no"),
        HandshakeInterrupted("no"),
        ProxyRefused(Response(407)),
        InvalidStatus(Response(403)),
    ],
)
def test_one_base_catches_everything(error: Exception) -> None:
    assert isinstance(error, WsconnkitError)


def test_errors_are_also_what_the_standard_library_calls_them() -> None:
    assert issubclass(InvalidURI, ValueError)
    assert issubclass(ConcurrencyError, RuntimeError)
    assert issubclass(InvalidStatus, InvalidHandshake)
    assert issubclass(InvalidProxy, ValueError)


def test_a_proxy_is_not_taken_for_the_server() -> None:
    assert issubclass(ProxyRefused, InvalidHandshake)
    assert not issubclass(ProxyRefused, InvalidStatus)
    assert str(ProxyRefused(Response(407, body=b"secret"))) == "the proxy refused to connect: HTTP 407"


@pytest.mark.parametrize(
    ("code", "kind"), [(1000, ConnectionClosedOK), (1001, ConnectionClosedOK), (1011, ConnectionClosedError)]
)
def test_connection_closed_has_the_type_that_its_info_asks_for(code: int, kind: type[ConnectionClosed]) -> None:
    info = closed_with(code)
    error = connection_closed(info)
    assert type(error) is kind
    assert error.info is info
    assert str(error) == f"connection closed: {info}"


def test_ok_and_error_exclude_each_other_and_share_a_base() -> None:
    assert not isinstance(connection_closed(closed_with(1000)), ConnectionClosedError)
    assert not isinstance(connection_closed(closed_with(1011)), ConnectionClosedOK)
    assert isinstance(connection_closed(closed_with(1000)), ConnectionClosed)


def test_invalid_status_shows_the_status_and_the_start_of_the_body() -> None:
    error = InvalidStatus(Response(503, body=b"x" * 200 + b"never seen"))
    assert str(error) == "the server refused the WebSocket: HTTP 503: '" + "x" * 200 + "'"
    assert error.response.body.endswith(b"never seen")


def test_invalid_status_without_a_body_shows_the_status() -> None:
    assert str(InvalidStatus(Response(401))) == "the server refused the WebSocket: HTTP 401"


def test_invalid_status_can_show_a_body_that_is_no_text() -> None:
    assert (
        str(InvalidStatus(Response(500, body=b"\xff")))
        == "the server refused the WebSocket: HTTP 500: '\N{REPLACEMENT CHARACTER}'"
    )


def test_invalid_status_shows_no_control_characters() -> None:
    assert str(InvalidStatus(Response(403, body=b"\x1b[31mred"))).isprintable()


def test_connection_closed_survives_copying_and_pickling() -> None:
    # Exceptions cross process and thread pools, which rebuild them from `args`.
    error = connection_closed(closed_with(1011))
    for again in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(again) is ConnectionClosedError
        assert again.info == error.info


def test_invalid_status_survives_copying_and_pickling() -> None:
    error = InvalidStatus(Response(403, body=b"no"))
    for again in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert (again.response.status, again.response.body) == (403, b"no")


class Group(Exception):
    """As `ExceptionGroup`, which Python has from 3.11 on."""

    def __init__(self, *exceptions: BaseException) -> None:
        super().__init__()
        self.exceptions = exceptions


def test_what_tells_only_of_an_end_is_known_for_it_also_in_groups() -> None:
    info, other = closed_with(1006), closed_with(1006)
    ended = connection_closed(info)
    assert tells_only_of(ended, info)
    assert tells_only_of(Group(ended, Group(ended)), info)
    for error in (
        connection_closed(other),
        ValueError(),
        Group(),
        Group(ended, ValueError()),
        Group(Group(ValueError())),
    ):
        assert not tells_only_of(error, info)
