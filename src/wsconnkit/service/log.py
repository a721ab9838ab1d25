"""Tell what happens on connections to the standard `logging`, with fields that a JSON formatter can print."""

from __future__ import annotations

import logging
from typing import Any

from wsconnkit.protocol.events import Closed, Event, FrameSizeWarning, HeartbeatPinged, HeartbeatStalled

logger = logging.getLogger("wsconnkit.connection")


def log_opened(connection_id: str, remote_address: Any, path: str) -> None:
    """Log that a connection has opened."""
    _log(logging.INFO, "connection_opened", connection_id, remote_address=remote_address, path=path)


def log_event(connection_id: str, event: Event) -> None:
    """Log what is worth a line: the end, heartbeats, and frames near the limit."""
    if isinstance(event, Closed):
        info = event.info
        _log(
            logging.INFO,
            "connection_closed",
            connection_id,
            code=info.code,
            reason=info.reason,
            cause=info.cause.value,
            initiator=info.initiator.value,
            phase=info.phase.value,
            clean=info.clean,
            error=None if info.error is None else str(info.error),
        )
    elif isinstance(event, HeartbeatPinged):
        level = logging.WARNING if event.missed else logging.DEBUG
        _log(level, "heartbeat_missed" if event.missed else "heartbeat_ping", connection_id, missed=event.missed)
    elif isinstance(event, HeartbeatStalled):
        _log(logging.WARNING, "heartbeat_stalled", connection_id, late_by=event.late_by)
    elif isinstance(event, FrameSizeWarning):
        _log(logging.WARNING, "frame_size_warning", connection_id, size=event.size)


def log_handler_error(connection_id: str, error: BaseException) -> None:
    """Log that a handler raised, with its traceback."""
    _log(logging.ERROR, "handler_error", connection_id, exc_info=error)


def log_handler_stuck(connection_id: str) -> None:
    """Log that a handler goes on after its connection has ended and it was cancelled."""
    _log(logging.ERROR, "handler_stuck_error", connection_id)


def log_refused(remote_address: Any, status: int) -> None:
    """Log that an upgrade was refused."""
    _log(logging.INFO, "upgrade_refused", None, remote_address=remote_address, status=status)


def _log(
    level: int, event_type: str, connection_id: str | None, exc_info: BaseException | None = None, **fields: Any
) -> None:
    if logger.isEnabledFor(level):
        extra = {"type": event_type, "connection_id": connection_id, **fields}
        logger.log(level, "%s %s", event_type, connection_id or "-", exc_info=exc_info, extra=extra)
