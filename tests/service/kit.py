"""What tests of the service floor have in common: requests as they come in, and what is logged."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from wsconnkit.protocol.http import Headers
from wsconnkit.protocol.upgrade import UpgradeRequest, check_upgrade


def upgrade_request(target: str = "/ws", *headers: tuple[str, str]) -> UpgradeRequest:
    """Return a request as it comes in."""
    usual = [
        ("Host", "example.org"),
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ]
    request = check_upgrade("GET", target, "1.1", Headers([*usual, *headers]))
    assert isinstance(request, UpgradeRequest)
    return request


class _Keeper(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def logged(level: int = logging.DEBUG) -> Iterator[list[logging.LogRecord]]:
    """Collect what is logged in the block, from `level` on."""
    keeper = _Keeper()
    logger = logging.getLogger("wsconnkit")
    before = logger.level
    logger.addHandler(keeper)
    logger.setLevel(level)
    try:
        yield keeper.records
    finally:
        logger.setLevel(before)
        logger.removeHandler(keeper)


def kinds(records: list[logging.LogRecord]) -> list[str]:
    return [record.__dict__["type"] for record in records]
