"""`wsconnkit connect`: type lines to a server and see what comes back, in a terminal or in a pipe."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

import click

from wsconnkit import environment
from wsconnkit.asyncio import Connection, connect
from wsconnkit.asyncio.runtime import Runtime
from wsconnkit.cli.failure import os_error_text, secrets_in
from wsconnkit.cli.lines import Lines
from wsconnkit.cli.screen import Screen, forget_typing, open_screen
from wsconnkit.managed.signals import stop_on_signals
from wsconnkit.protocol.config import ConnectionConfig, HandshakeLimits
from wsconnkit.protocol.errors import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidProxy,
    InvalidStatus,
    InvalidURI,
    LocalProtocolError,
    ProxyRefused,
)
from wsconnkit.protocol.http import Response
from wsconnkit.protocol.printable import printable
from wsconnkit.protocol.proxy import authority, environment_proxy, is_loopback
from wsconnkit.protocol.uri import URI, parse_uri
from wsconnkit.service.connectoptions import ConnectArguments
from wsconnkit.service.tokens import redact

_PING_INTERVAL = 5.0
_FIRST_PONG = 1.0
"""Seconds that the first prompt waits for a latency to show."""
_LAST_PONG = 10.0
"""Seconds that the end waits for a peer that does not answer pings."""

_MAX_BODY = 200
"""Characters shown of the body of a refusal."""


class _Target(NamedTuple):
    """What to connect to.

    where: as the user is told. arguments: of `connect`. secrets: what is not to be shown.
    """

    uri: str
    where: str
    arguments: ConnectArguments
    secrets: Sequence[str]

    def shown(self, text: str) -> str:
        """Return `text`, which came from the peer, without secrets."""
        return redact(text, self.secrets)


def _headers(context: click.Context, parameter: click.Parameter, lines: Sequence[str]) -> list[tuple[str, str]]:
    pairs = [line.partition(":") for line in lines]
    if not all(name and colon for name, colon, _ in pairs):
        raise click.BadParameter("it must be 'Name: value'")  # without the value, which may be a secret
    return [(name.strip(), value.strip()) for name, _, value in pairs]


@click.command("connect")
@click.argument("uri")
@click.option("--token", help="Sent as Authorization: Bearer.")
@click.option("--header", "headers", multiple=True, callback=_headers, help="Sent, as 'Name: value'; may be repeated.")
@click.option("--subprotocol", "subprotocols", multiple=True, help="Offered, the preferred first; may be repeated.")
@click.option("--origin", help="Sent as the Origin, as browsers do.")
@click.option("--cafile", type=click.Path(), help="Certificates in PEM to trust in place of the system's.")
@click.option("--insecure", is_flag=True, help="Accept any certificate.")
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
def connect_command(
    uri: str,
    token: str | None,
    headers: list[tuple[str, str]],
    subprotocols: Sequence[str],
    origin: str | None,
    cafile: str | None,
    insecure: bool,
    timeout: float,
    linger: float,
) -> None:
    """Send the lines of standard input to URI as messages, and print the messages that come back.

    Messages go to standard output, everything else to standard error. Ctrl-D and Ctrl-C close the connection. In a
    terminal, characters of messages that could control it are shown as escapes; a pipe or a file has messages as they
    came. Exits with 0 after a clean close, else with 1, and with 2 for options that cannot be.
    """
    logging.getLogger("wsconnkit").addHandler(logging.NullHandler())  # what is worth telling is told here
    try:
        parts = parse_uri(uri)
        where = f"{'wss' if parts.secure else 'ws'}://{parts.host_header}{parts.resource.partition('?')[0]}"
        where += _way(parts)
    except InvalidURI as error:
        raise click.ClickException(str(error)) from None
    except InvalidProxy as error:
        raise click.ClickException(f"cannot connect to {where}: {error}") from None
    sent = headers if origin is None else [*headers, ("Origin", origin)]
    arguments: ConnectArguments = {
        "config": ConnectionConfig(handshake=HandshakeLimits(timeout=timeout)),
        "token": token,
        "headers": sent,
        "subprotocols": subprotocols,
        "ssl": _ssl_context(parts, cafile, insecure),
    }
    secrets = [*secrets_in(uri), *([] if token is None else [token]), *(value for _, value in headers)]
    target = _Target(uri, where, arguments, secrets)
    try:
        is_clean = asyncio.run(_connect(target, linger))
    finally:
        forget_typing()
    raise SystemExit(0 if is_clean else 1)


def _way(uri: URI) -> str:
    """Return what is between us and the server: how errors name the proxy. Raises InvalidProxy."""
    if is_loopback(uri.host):
        return ""
    proxy = environment_proxy(uri.host, uri.port, secure=uri.secure, proxies=environment.proxies())
    if proxy is None:
        return ""
    return f" through the proxy {'https' if proxy.secure else 'http'}://{authority(proxy.host, proxy.port)}"


def _ssl_context(uri: URI, cafile: str | None, insecure: bool) -> ssl.SSLContext | None:
    if cafile is None and not insecure:
        return None
    if cafile is not None and insecure:
        raise click.UsageError("--cafile and --insecure are given together; give one")
    if not uri.secure:
        raise click.UsageError("--cafile and --insecure are for wss, and the URI has the scheme ws")
    try:
        context = ssl.create_default_context(cafile=cafile)
    except ssl.SSLError:
        raise click.UsageError(f"--cafile is {cafile!r}; there are no certificates in PEM in it") from None
    except OSError as error:
        raise click.UsageError(f"--cafile is {cafile!r}; it cannot be read: {os_error_text(error)}") from None
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


async def _connect(target: _Target, linger: float) -> bool:
    screen = open_screen()
    stop = asyncio.Event()
    with stop_on_signals(Runtime(), stop.set):
        opening = asyncio.ensure_future(_open(target))
        stopping: asyncio.Future[Any] = asyncio.ensure_future(stop.wait())
        await asyncio.wait({opening, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not opening.done():
            opening.cancel()
            await asyncio.wait([opening])
            screen.note(f"Not connected to {target.where}: interrupted.")
            return False
        async with await opening as ws:
            spoken = "" if ws.subprotocol is None else f", subprotocol {ws.subprotocol}"
            how = " Ctrl-D closes the connection." if screen.interactive else ""
            screen.note(f"Connected to {target.where}{spoken}.{how}")
            await _converse(ws, screen, stopping, linger)
    info, stats = ws.close_info, ws.stats
    assert info is not None  # the block ends with the connection
    latency = "" if ws.latency is None else f", latency {ws.latency * 1000:.1f} ms"
    screen.note(f"Messages: {stats.messages_sent} sent, {stats.messages_received} received{latency}.")
    screen.note(f"Closed: {target.shown(str(info))}.")
    return info.ok


async def _open(target: _Target) -> Connection:
    try:
        return await connect(target.uri, **target.arguments)
    except InvalidStatus as error:
        # Cut last, so that no half of a token is left.
        body = target.shown(error.response.body.decode("utf-8", "replace"))[:_MAX_BODY]
        reason = f"the server refused with {_status(error.response)}" + (f": {body}" if body else "")
    except ProxyRefused as error:
        reason = f"the proxy refused with {_status(error.response)}"
    except (InvalidHandshake, InvalidProxy, TimeoutError) as error:
        reason = str(error)
    except (OSError, UnicodeError) as error:
        reason = os_error_text(error)
    except (LocalProtocolError, ValueError) as error:
        raise click.UsageError(printable(target.shown(str(error)))) from None
    line = " ".join(printable(target.shown(reason), keep="\t\n\r").split())
    raise click.ClickException(f"cannot connect to {target.where}: {line}")


def _status(response: Response) -> str:
    later = response.headers.get("Retry-After")
    wait = "" if later is None else f" (Retry-After: {later}{' s' if later.isdecimal() else ''})"
    return f"HTTP {_named(response.status)}{wait}"


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
