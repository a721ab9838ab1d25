"""What tests of drains have in common."""

from __future__ import annotations

import asyncio

from wsconnkit.asyncio import Connection, Server
from wsconnkit.protocol.closeinfo import Cause
from wsconnkit.service.drain import DrainReport, Outcome

FIRST_ROUND = 0.1
"""Seconds in which a close is certainly answered, in virtual time."""


def end_of(ws: Connection) -> tuple[int, str, Cause, bool]:
    info = ws.close_info
    assert info is not None
    return info.code, info.reason, info.cause, info.clean


def outcomes(report: DrainReport) -> list[Outcome]:
    return [drained.outcome for drained in report.connections]


async def stay(ws: Connection) -> None:
    await ws.wait_closed()


async def arrived(server: Server, count: int) -> list[Connection]:
    while len(server.connections) < count:
        await asyncio.sleep(0)
    return list(server.connections)
