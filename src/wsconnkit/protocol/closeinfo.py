"""How a connection ended: one cause, both Close frames, and when the wire was last alive."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from wsconnkit.machines.closecodes import CloseCode, describe, is_normal
from wsconnkit.machines.closing import State


class Cause(Enum):
    """Why a connection ended; a closed set, of which every end has exactly one."""

    PEER_CLOSE = "peer_close"
    LOCAL_CLOSE = "local_close"
    HANDLER_ERROR = "handler_error"
    HEARTBEAT = "heartbeat"
    IDLE = "idle"
    TOO_BIG = "too_big"
    PROTOCOL_ERROR = "protocol_error"
    INVALID_DATA = "invalid_data"
    SLOW_CONSUMER = "slow_consumer"
    SLOW_APPLICATION = "slow_application"
    RATE_LIMIT = "rate_limit"
    FLOOD = "flood"
    AUTH_EXPIRED = "auth_expired"
    DRAIN = "drain"
    TRANSPORT_LOST = "transport_lost"

    @property
    def code(self) -> CloseCode:
        """The code with which we close for this cause, unless the caller names another."""
        return _CODES[self]


_CODES = {
    Cause.PEER_CLOSE: CloseCode.NORMAL_CLOSURE,
    Cause.LOCAL_CLOSE: CloseCode.NORMAL_CLOSURE,
    Cause.HANDLER_ERROR: CloseCode.INTERNAL_ERROR,
    Cause.HEARTBEAT: CloseCode.GOING_AWAY,
    Cause.IDLE: CloseCode.GOING_AWAY,
    Cause.TOO_BIG: CloseCode.MESSAGE_TOO_BIG,
    Cause.PROTOCOL_ERROR: CloseCode.PROTOCOL_ERROR,
    Cause.INVALID_DATA: CloseCode.INVALID_DATA,
    Cause.SLOW_CONSUMER: CloseCode.TRY_AGAIN_LATER,
    Cause.SLOW_APPLICATION: CloseCode.TRY_AGAIN_LATER,
    Cause.RATE_LIMIT: CloseCode.POLICY_VIOLATION,
    Cause.FLOOD: CloseCode.POLICY_VIOLATION,
    Cause.AUTH_EXPIRED: CloseCode.POLICY_VIOLATION,
    Cause.DRAIN: CloseCode.GOING_AWAY,
    Cause.TRANSPORT_LOST: CloseCode.ABNORMAL_CLOSURE,
}


class Initiator(Enum):
    """Who began the end."""

    LOCAL = "local"
    PEER = "peer"
    TRANSPORT = "transport"


class CloseFrame(NamedTuple):
    """The content of a Close frame; code 1005 stands for an empty one (RFC 6455, section 7.1.5)."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseInfo:
    """The whole story of an end.

    cause: the one cause.
    initiator: who began the end.
    phase: the state in which the transport ended; CLOSE_EXCHANGED after a complete closing handshake.
    sent, rcvd: the Close frames, None where there was none.
    rcvd_then_sent: their order when both passed, else None; ours has not while the peer did not read what is before it.
    error: what the operating system said of the transport, or None.
    last_byte_in_age, last_byte_out_age: seconds between the last byte in that direction and the end.
    """

    cause: Cause
    initiator: Initiator
    phase: State
    sent: CloseFrame | None
    rcvd: CloseFrame | None
    rcvd_then_sent: bool | None
    error: OSError | None
    last_byte_in_age: float
    last_byte_out_age: float

    @property
    def _frame(self) -> CloseFrame | None:
        return self.rcvd if self.initiator is Initiator.PEER else self.sent

    @property
    def code(self) -> int:
        """The code of whoever began the close; 1006 when the transport ended without a Close frame."""
        return self._frame.code if self._frame else CloseCode.ABNORMAL_CLOSURE

    @property
    def reason(self) -> str:
        """The reason that came with `code`."""
        return self._frame.reason if self._frame else ""

    @property
    def clean(self) -> bool:
        """Both Close frames were exchanged."""
        return self.rcvd_then_sent is not None

    @property
    def ok(self) -> bool:
        """A clean close with a code that says that the work was done."""
        return self.clean and is_normal(self.code)

    def __str__(self) -> str:
        text = f"{self.code} ({describe(self.code)})"
        if self.reason:
            text += f" {self.reason!r}"
        text += f", begun by {'us' if self.initiator is Initiator.LOCAL else 'the ' + self.initiator.value}"
        text += f", cause {self.cause.value}"
        if not self.clean:
            text += ", no Close frames exchanged" if not (self.sent or self.rcvd) else ", handshake incomplete"
        if self.error:
            text += f", {self.error}"
        return text
