"""What is known so far of how a connection ends, from which its `CloseInfo` is made at the end."""

from __future__ import annotations

from wsconnkit.machines.closing import State
from wsconnkit.protocol.closeinfo import Cause, CloseFrame, CloseInfo, Initiator
from wsconnkit.protocol.frames import FrameError


class CloseRecord:
    """Keeps the first cause, both Close frames with their order, and when the wire was last alive.

    now: when the connection began, in seconds.
    """

    __slots__ = (
        "_begun",
        "_error",
        "_rcvd",
        "_rcvd_then_sent",
        "_sent",
        "held",
        "held_at",
        "last_byte_in_at",
        "last_byte_out_at",
    )

    def __init__(self, now: float) -> None:
        self._begun: tuple[Cause, Initiator] | None = None
        self._sent: CloseFrame | None = None
        self._rcvd: CloseFrame | None = None
        self._rcvd_then_sent: bool | None = None
        self._error: OSError | None = None
        self.held: CloseFrame | FrameError | None = None
        """What ended the peer's side behind messages that may be answered first."""
        self.held_at: float = now
        """When it arrived, in seconds."""
        self.last_byte_in_at: float = now
        self.last_byte_out_at: float = now
        """When the last bytes came in and went out, in seconds."""

    def begin(self, cause: Cause, initiator: Initiator) -> None:
        """The end has begun; only the first call counts."""
        self._begun = self._begun or (cause, initiator)

    def hold(self, end: CloseFrame | FrameError, now: float) -> None:
        """Keep what ended the peer's side until `release`."""
        self.held, self.held_at = end, now

    def release(self) -> CloseFrame | FrameError | None:
        """Return what was held, once."""
        end, self.held = self.held, None
        return end

    def on_sent(self, frame: CloseFrame) -> None:
        """We send our Close frame."""
        self._sent = frame

    def on_received(self, frame: CloseFrame) -> None:
        """The peer's Close frame takes effect; our own may have passed it on the way."""
        self._rcvd = frame
        self._rcvd_then_sent = self._sent is None

    def on_error(self, error: OSError | None) -> None:
        """The transport ended, badly with an `error`; the first error counts."""
        self._error = self._error or error

    def info(self, phase: State, now: float, *, is_stuck: bool) -> CloseInfo:
        """Return how the connection ended, at `now`, in the state `phase`.

        is_stuck: the transport still held some of our bytes.
        """
        cause, initiator = self._begun or (Cause.TRANSPORT_LOST, Initiator.TRANSPORT)
        return CloseInfo(
            cause=cause,
            initiator=initiator,
            phase=phase,
            sent=self._sent,
            rcvd=self._rcvd,
            # What is stuck at the end takes our Close frame with it, which is the last of it.
            rcvd_then_sent=None if is_stuck else self._rcvd_then_sent,
            error=self._error,
            last_byte_in_age=now - self.last_byte_in_at,
            last_byte_out_age=now - self.last_byte_out_at,
        )
