"""What a connection wants of its transport."""

from __future__ import annotations

from enum import Enum


class TransportAction(Enum):
    """What the adapter must do with the transport next."""

    OPEN = "open"
    SEND_EOF = "send_eof"
    """Nothing more will be sent: write what there is, then end our side; go on reading."""
    ABORT = "abort"
    """Nothing more matters: write what goes at once and release the socket."""
