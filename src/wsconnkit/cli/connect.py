"""`wsconnkit connect`: type lines to a server and see what comes back, in a terminal or in a pipe."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from http import HTTPStatus
from typing import Any

import click

from wsconnkit.asyncio import Connection, connect
from wsconnkit.asyncio.runtime import Runtime
from wsconnkit.cli.failure import os_error_text, without_query
from wsconnkit.cli.lines import Lines
from wsconnkit.cli.screen import Screen, open_screen
from wsconnkit.managed.signals import stop_on_signals
from wsconnkit.protocol.config import ConnectionConfig, HandshakeLimits
from wsconnkit.protocol.errors import ConnectionClosed, InvalidHandshake, InvalidProxy, InvalidStatus, InvalidURI
from wsconnkit.protocol.printable import printable
from wsconnkit.protocol.uri import parse_uri

_PING_INTERVAL = 5.0
_FIRST_PONG = 1.0
"""Seconds that the first prompt waits for a latency to show."""
_LAST_PONG = 10.0
"""Seconds that the end waits for a peer that does not answer pings."""

_MAX_BODY = 200
"""Characters shown of the body of a refusal."""


@click.command("connect")
@click.argument("uri")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    help="Seconds that connecting may take.",
)
@click.option(
    "--linger",
    type=click.FloatRange(min=0),
    default=0.5,
    show_default=True,
    help="After the end of input that is not typed: close when nothing has come back for as many seconds.",
)
def connect_command(uri: str, timeout: float, linger: float) -> None:
    """Send the lines of standard input to URI as messages, and print the messages that come back.

    Messages go to standard output, everything else to standard error. Ctrl-D and Ctrl-C close the connection. In a
    terminal, characters of messages that could control it are shown as escapes; a pipe or a file has messages as they
    came. Exits with 0 after a clean close, else with 1.
    """
    logging.getLogger("wsconnkit").addHandler(logging.NullHandler())  # what is worth telling is told here
    try:
        parts = parse_uri(uri)
    except InvalidURI as error:
        raise click.ClickException(str(error)) from None
    where = f"{'wss' if parts.secure else 'ws'}://{parts.host_header}{parts.resource.partition('?')[0]}"
    config = ConnectionConfig(handshake=HandshakeLimits(timeout=timeout))
    raise SystemExit(0 if asyncio.run(_connect(uri, where, config, linger)) else 1)


async def _connect(uri: str, where: str, config: ConnectionConfig, linger: float) -> bool:
    screen = open_screen()
    stop = asyncio.Event()
    with stop_on_signals(Runtime(), stop.set):
        opening = asyncio.ensure_future(_open(uri, where, config))
        stopping: asyncio.Future[Any] = asyncio.ensure_future(stop.wait())
        await asyncio.wait({opening, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not opening.done():
            opening.cancel()
            await asyncio.wait([opening])
            screen.note(f"Not connected to {where}: interrupted.")
            return False
        async with await opening as ws:
            how = " Ctrl-D closes the connection." if screen.interactive else ""
            screen.note(f"Connected to {where}.{how}")
            await _converse(ws, screen, stopping, linger)
    info, stats = ws.close_info, ws.stats
    assert info is not None  # the block ends with the connection
    latency = "" if ws.latency is None else f", latency {ws.latency * 1000:.1f} ms"
    screen.note(f"Messages: {stats.messages_sent} sent, {stats.messages_received} received{latency}.")
    screen.note(f"Closed: {without_query(str(info), uri)}.")
    return info.ok


async def _open(uri: str, where: str, config: ConnectionConfig) -> Connection:
    try:
        return await connect(uri, config=config)
    except InvalidStatus as error:
        # Cut last, so that no half of a token is left.
        body = without_query(error.response.body.decode("utf-8", "replace"), uri)[:_MAX_BODY]
        reason = f"the server refused with HTTP {_named(error.response.status)}" + (f": {body}" if body else "")
    except (InvalidHandshake, InvalidProxy, TimeoutError) as error:
        reason = str(error)
    except (OSError, UnicodeError) as error:
        reason = os_error_text(error)
    line = " ".join(printable(without_query(reason, uri), keep="\t\n\r").split())
    raise click.ClickException(f"cannot connect to {where}: {line}")


def _named(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


async def _converse(ws: Connection, screen: Screen, stopping: asyncio.Future[Any], linger: float) -> None:
    """Send and receive until one side closes, the input ends or a signal comes, and close then."""
    receiving = asyncio.ensure_future(_receive(ws, screen))
    sending = asyncio.ensure_future(_send(ws, screen, linger))
    measuring = asyncio.ensure_future(_measure(ws))
    try:
        await asyncio.wait([receiving, sending, stopping], return_when=asyncio.FIRST_COMPLETED)
        screen.leave()
        await ws.close()
        await receiving  # what arrived before the end is still to be shown
        if sending.done():
            sending.result()
    except ConnectionClosed:
        pass  # told when all is over
    finally:
        for task in (receiving, sending, measuring):
            task.cancel()
        await asyncio.gather(receiving, sending, measuring, return_exceptions=True)


async def _receive(ws: Connection, screen: Screen) -> None:
    async for message in ws:
        screen.message(message)


async def _send(ws: Connection, screen: Screen, linger: float) -> None:
    lines = Lines()
    number = 0
    if screen.interactive:
        await _ping(ws, _FIRST_PONG)
        screen.prompt(ws.latency)
    while (line := await lines.get()) is not None:
        number += 1
        try:
            # An empty line in a terminal only asks for a new prompt.
            if line or not screen.interactive:
                await ws.send(line.decode())
        except UnicodeDecodeError:
            screen.note(f"Line {number} is not UTF-8; it was not sent.")
        screen.prompt(ws.latency)
    if not screen.interactive:
        await _wait_for_answers(ws, linger)


async def _wait_for_answers(ws: Connection, linger: float) -> None:
    # The pong tells that the peer has read all our messages; the silence after it, that it has answered them.
    await _ping(ws, _LAST_PONG)
    seen = -1
    while seen != ws.stats.bytes_received:
        seen = ws.stats.bytes_received
        await asyncio.sleep(linger)


async def _measure(ws: Connection) -> None:
    while True:
        await asyncio.sleep(_PING_INTERVAL)
        await ws.ping()


async def _ping(ws: Connection, timeout: float) -> None:
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(ws.ping(), timeout)
