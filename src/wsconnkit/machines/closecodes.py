"""WebSocket close codes: what they mean, who may send them, what a client does next.

Alone::

    from wsconnkit.machines.closecodes import CloseCode, describe, may_send, should_retry, truncate_reason

    describe(1009)                        # 'message too big'
    CloseCode.SERVICE_RESTART.name        # 'SERVICE_RESTART'
    may_send(1006)                        # False: it never travels in a frame
    should_retry(1012)                    # True: the service is restarting
    truncate_reason("é" * 300)            # 61 whole characters, 122 bytes
"""

from __future__ import annotations

from enum import IntEnum

MAX_REASON_BYTES = 123
"""A control frame holds 125 bytes, two of them for the code (RFC 6455, section 5.5)."""


class CloseCode(IntEnum):
    """The registered close codes below 3000 (RFC 6455, section 7.4.1, and the IANA registry)."""

    NORMAL_CLOSURE = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    RESERVED = 1004
    NO_STATUS_RCVD = 1005
    ABNORMAL_CLOSURE = 1006
    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    MANDATORY_EXTENSION = 1010
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    BAD_GATEWAY = 1014
    TLS_HANDSHAKE = 1015


_DESCRIPTIONS: dict[int, str] = {
    1000: "normal closure",
    1001: "going away",
    1002: "protocol error",
    1003: "unsupported data",
    1004: "reserved",
    1005: "no status received",
    1006: "abnormal closure",
    1007: "invalid data",
    1008: "policy violation",
    1009: "message too big",
    1010: "mandatory extension",
    1011: "internal error",
    1012: "service restart",
    1013: "try again later",
    1014: "bad gateway",
    1015: "TLS handshake failure",
    3000: "unauthorized",
    3003: "forbidden",
    3008: "timeout",
}

_NEVER_IN_A_FRAME = frozenset({1004, 1005, 1006})
_NORMAL = frozenset({1000, 1001, 1005})
_RETRY = frozenset({1001, 1005, 1006, 1011, 1012, 1013, 1014, 3008})


def describe(code: int) -> str:
    """Return what `code` means in a few words, for any integer (RFC 6455, section 7.4)."""
    if code in _DESCRIPTIONS:
        return _DESCRIPTIONS[code]
    if 3000 <= code <= 3999:
        return "registered by a library or framework"
    if 4000 <= code <= 4999:
        return "private to the application"
    return "reserved" if 1000 <= code <= 2999 else "not a close code"


def may_send(code: int) -> bool:
    """Tell whether `code` may travel in a Close frame, in either direction (RFC 6455, section 7.4)."""
    return (1000 <= code <= 1014 and code not in _NEVER_IN_A_FRAME) or 3000 <= code <= 4999


def is_normal(code: int) -> bool:
    """Tell whether `code` ends a connection whose work was done: 1000, 1001 or no status."""
    return code in _NORMAL


def should_retry(code: int) -> bool:
    """Tell whether a client may expect a new connection to work where this one ended with `code`.

    Codes from 4000 on are the application's own; without its word the answer is no.
    """
    return code in _RETRY


def truncate_reason(reason: str) -> str:
    """Return the longest prefix of `reason` that fits a Close frame: 123 bytes of whole UTF-8.

    Raises UnicodeEncodeError, a ValueError, for lone surrogates, which UTF-8 cannot carry.
    """
    data = reason.encode()
    return data[:MAX_REASON_BYTES].decode("utf-8", "ignore")
