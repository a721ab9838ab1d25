"""What carries bytes, and what it calls: PEP 3156's transports and protocols, as far as they are needed here."""

from __future__ import annotations

from collections.abc import Callable
from ssl import SSLEOFError, SSLSyscallError, SSLZeroReturnError
from typing import Any, Protocol

TLS_ENDS = (SSLEOFError, SSLZeroReturnError, SSLSyscallError)
"""How TLS tells that the bytes beneath it have ended; which it is depends on the versions of Python and OpenSSL."""


class TransportProtocol(Protocol):
    """What a transport calls: an `OpeningHandshake` first, then the `Pump` of a connection."""

    def data_received(self, data: bytes) -> None:
        """Bytes have arrived."""

    def eof_received(self) -> None:
        """The peer has ended its direction."""

    def connection_lost(self, error: OSError | None) -> None:
        """Both directions have ended; nothing is called after this."""

    def pause_writing(self) -> None:
        """More is unwritten than may be, or something is and `watch_writing` was called."""

    def writing_progressed(self) -> None:
        """Some of it has left, not all (not in PEP 3156)."""

    def resume_writing(self) -> None:
        """All of it has left."""

    def cancelled(self) -> None:
        """What is around the transport is being cancelled (not in PEP 3156): end soon, since it is released next."""


class Transport(Protocol):
    """The way to the peer, over a socket, TLS or any stream; it is one from accept to end, while protocols change."""

    local_address: Any
    """Our address as the socket has it; None without one."""
    remote_address: Any
    """The peer's address as the socket has it; None without one."""
    collects_writes: bool
    """Writes that follow each other go out together, without further ado."""

    def set_protocol(self, protocol: TransportProtocol) -> None:
        """Call `protocol` from now on."""

    def set_write_buffer_limits(self, high: int) -> None:
        """Pause the protocol when more than `high` bytes are unwritten; resume it when all have left."""

    def write(self, data: bytes) -> None:
        """Write `data` behind what was written before."""

    def write_at_once(self, data: bytes, /) -> None:
        """Do the same while writing is not paused, with no more than the high-water mark: that may cost less."""

    def get_write_buffer_size(self) -> int:
        """Return how many bytes have not left."""

    def set_write_deadline(self, at: float) -> None:
        """End with a TimeoutError when what is unwritten now has not left at `at` (not in PEP 3156).

        It may do nothing where the system takes as much as a handshake writes in any case.
        """

    def watch_writing(self) -> None:
        """Tell of what is stuck below the high-water mark too, and of what has left since (not in PEP 3156)."""

    def write_eof(self, quiet: float = 0.0) -> None:
        """End our direction behind what was written; both, where the peer's has ended already or ends later.

        Where there is no half-close, end both when nothing has come for `quiet` seconds, so that no reset overtakes
        what was written.
        """

    def release(self) -> None:
        """Write what is left, for a tenth of a second at most, and end (not in PEP 3156)."""

    def abort(self) -> None:
        """End at once."""

    def is_closing(self) -> bool:
        """It has ended, or is about to."""

    def pause_reading(self) -> None:
        """Call no `data_received`, but for what is being read."""

    def resume_reading(self) -> None:
        """Call `data_received` again."""

    def call_soon(self, callback: Callable[[], None], /) -> object:
        """Call back when those who can run now have had their turn; not after the end (not in PEP 3156)."""
