"""`wsconnkit serve`: a server that is told by settings, with a handler of one's own, or one that echoes messages."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from pathlib import Path
from typing import Any

import click
import jwt
from pydantic import SecretBytes

from wsconnkit.asyncio import Connection, Server, serve
from wsconnkit.cli.failure import os_error_text
from wsconnkit.cli.handler import load_handler
from wsconnkit.cli.loading import bad_settings_told, config_option, load_settings
from wsconnkit.managed.answering import Request
from wsconnkit.observe.logs import configure
from wsconnkit.observe.metrics import render_metrics
from wsconnkit.service.envelope import RequestError
from wsconnkit.service.router import RequestRouter
from wsconnkit.service.settings import Settings, SettingsArguments

_LONGEST_SLEEP = 10.0
_TOKEN_LIFE = 24 * 3600
_AUTH_VARIABLES = ("JWT_SECRET", "SUPABASE_AUTH_DOMAIN", "SUPABASE_AUTH_AUDIENCE", "SUPABASE_AUTH_ISSUER")
_OWN_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - a client connects to one of all addresses
_logger = logging.getLogger("wsconnkit.cli")


@click.command("serve")
@click.argument("handler", required=False)
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="Port, 0 for any free one.  [default: 3001]")
@click.option("--path", help="The only path that is served.  [default: /ws]")
@config_option
@click.option("--no-auth", is_flag=True, help="Let everyone in, whatever the settings say.")
def serve_command(
    handler: str | None, host: str | None, port: int | None, path: str | None, file: Path | None, no_auth: bool
) -> None:
    """Serve HANDLER as the settings say, and log what happens.

    HANDLER is an async function of a connection, or a RequestRouter, named as module:handler; the module is looked for
    in the working directory, too. Without one, messages are echoed, requests with the action "test" or "echo" are
    answered with their payload, and those with "sleep" after so many "seconds" of it.

    Settings come from the options, else from the environment, else from the file; `wsconnkit check-config` lists them.
    When they say nothing about tokens, one is made for this run and printed on standard error; standard output has the
    log only. /healthz, /readyz and /metrics are answered on the same port, or at METRICS_ADDRESS.

    SIGINT or SIGTERM closes the connections one after the other, within DRAIN_WINDOW and DRAIN_GRACE, and exits with
    0; a second one exits at once.
    """
    options = {}
    if host is not None:
        options["WEBSOCKET_HOST"] = host
    if port is not None:
        options["WEBSOCKET_PORT"] = str(port)
    if path is not None:
        options["WEBSOCKET_PATH"] = path
    if no_auth:
        options.update(dict.fromkeys(_AUTH_VARIABLES, ""))
    settings = load_settings(file, options)
    token = None
    if not (no_auth or settings.authenticates):
        secret = secrets.token_urlsafe(32)
        settings = settings.model_copy(update={"jwt_secret": SecretBytes(secret.encode())})
        claims = {"sub": "developer", "tier": "enterprise", "exp": int(time.time()) + _TOKEN_LIFE}
        token = jwt.encode(claims, secret, "HS256")
    configure(settings.log_level, settings.log_format)
    served = _echo_router() if handler is None else load_handler(handler)
    with bad_settings_told():
        arguments = settings.serve_arguments()
    asyncio.run(_serve(served, settings, arguments, token))


async def _serve(handler: Any, settings: Settings, arguments: SettingsArguments, token: str | None) -> None:
    try:
        server = await serve(handler, **arguments, metrics=render_metrics)
    except (TypeError, ValueError) as error:
        if isinstance(error, UnicodeError):
            raise _cannot_listen(settings, error) from None
        raise click.UsageError(str(error)) from None
    except OSError as error:
        raise _cannot_listen(settings, error) from None
    running = asyncio.ensure_future(server.run_until_signal())
    await asyncio.sleep(0)  # signals are heard before anybody is told that the server is there
    for number, sock in enumerate(server.sockets):
        host, port = sock.getsockname()[:2]
        pages = settings.endpoints
        is_for_pages = number > 0 and isinstance(pages, tuple) and port == pages[1]
        _log("server_started", host=host, port=port, path="/metrics" if is_for_pages else settings.path)
    for warning in settings.warnings():
        _log("server_setting_doubtful", logging.WARNING, detail=warning)
    if token is not None:
        _tell_token(token, server, settings)
    report = await running
    counts = {outcome.value: count for outcome, count in report.counts.items()}
    _log("server_drained", connections=len(report.connections), **counts, duration=round(report.duration, 3))


def _cannot_listen(settings: Settings, error: OSError | UnicodeError) -> click.ClickException:
    where = f"{settings.host}, port {settings.port}"
    if isinstance(settings.endpoints, tuple):
        where += ", or at METRICS_ADDRESS"
    return click.ClickException(f"cannot listen on {where}: {os_error_text(error)}")


def _echo_router() -> RequestRouter:
    async def echo_message(ws: Connection, message: str | bytes) -> None:
        await ws.send(message)

    router = RequestRouter(on_message=echo_message)

    @router.action("test")
    @router.action("echo")
    async def echo(request: Request) -> Any:
        return request.payload

    @router.action("sleep")
    async def sleep(request: Request) -> Any:
        seconds = request.payload.get("seconds")
        if not (isinstance(seconds, (int, float)) and 0 <= seconds <= _LONGEST_SLEEP):
            raise RequestError("invalid_payload", f"seconds must be a number, 0 to {_LONGEST_SLEEP:g}")
        await asyncio.sleep(seconds)
        return request.payload

    return router


def _tell_token(token: str, server: Server, settings: Settings) -> None:
    host, port = server.sockets[0].getsockname()[:2]
    host = _OWN_ADDRESS.get(host, host)
    scheme = "ws" if settings.tls_cert_file is None else "wss"
    place = f"[{host}]" if ":" in host else host
    lines = [
        "The settings say nothing about tokens, so this run has its own; it is good for 24 hours.",
        "",
        f"Token: {token}",
        f"URL:   {scheme}://{place}:{port}{settings.path}?token={token}",
        "",
        "Talk to the server: wsconnkit connect 'URL'",
        "For tokens of your own, set JWT_SECRET or SUPABASE_AUTH_DOMAIN; to let everyone in, use --no-auth.",
    ]
    click.echo("\n".join(lines), err=True)


def _log(event_type: str, level: int = logging.INFO, **fields: str | int | float) -> None:
    _logger.log(level, event_type, extra={"type": event_type, **fields})
