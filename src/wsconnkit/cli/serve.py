"""`wsconnkit serve`: an echo server that logs JSON lines."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

import click
from dotenv import dotenv_values

from wsconnkit.asyncio import Connection, serve
from wsconnkit.cli.env import PATH_RULE, BadSettings, ServeSettings, is_path, parse_settings
from wsconnkit.cli.failure import os_error_text
from wsconnkit.cli.logs import log_to_stdout
from wsconnkit.cli.stopping import stop_on_signals

_DEFAULT_FILE = ".env"
_logger = logging.getLogger("wsconnkit.cli")


def _check_path(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not is_path(value):
        raise click.BadParameter(f"{value!r} is not allowed; it must be {PATH_RULE}")
    return value


@click.command("serve")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port, 0 for any free one.  [default: 3001]")
@click.option("--path", callback=_check_path, help="The only path that is served.  [default: /ws]")
@click.option(
    "--config", "file", type=click.Path(path_type=Path), help="File with settings.  [default: .env, if there is one]"
)
def serve_command(host: str, port: int | None, path: str | None, file: Path | None) -> None:
    """Echo every message, and log JSON lines.

    Settings come from the options, else from the environment, else from the file: WEBSOCKET_PORT, WEBSOCKET_PATH,
    PING_INTERVAL, PONG_TIMEOUT, MAX_MISSED_PONGS, COMPRESSION_ENABLED, COMPRESSION_LEVEL, COMPRESSION_THRESHOLD,
    MAX_FRAME_SIZE, FRAME_WARN_THRESHOLD, IDLE_TIMEOUT, CLOSE_TIMEOUT, LOG_LEVEL. Times are in milliseconds.

    SIGINT or SIGTERM closes all connections and exits with 0; a second one exits at once.
    """
    variables: dict[str, str | None] = {**_read_file(file), **os.environ}
    if port is not None:
        variables["WEBSOCKET_PORT"] = str(port)
    if path is not None:
        variables["WEBSOCKET_PATH"] = path
    try:
        settings = parse_settings(variables)
    except BadSettings as error:
        raise click.UsageError("\n  ".join(["settings that are not allowed:", *error.problems])) from None
    log_to_stdout(settings.log_level)
    asyncio.run(_serve(host, settings))


def _read_file(file: Path | None) -> dict[str, str | None]:
    try:
        with open(file or _DEFAULT_FILE, encoding="utf-8-sig") as stream:
            return dotenv_values(stream=stream)
    except FileNotFoundError:
        if file is None:
            return {}
        raise click.UsageError(f"there is no file {str(file)!r}") from None
    except OSError as error:
        raise click.UsageError(f"cannot read {str(file or _DEFAULT_FILE)!r}: {os_error_text(error)}") from None
    except UnicodeDecodeError:
        raise click.UsageError(f"cannot read {str(file or _DEFAULT_FILE)!r}: it is not UTF-8") from None


async def _serve(host: str, settings: ServeSettings) -> None:
    try:
        server = await serve(_echo, host, settings.port, path=settings.path, config=settings.config)
    except (OSError, UnicodeError) as error:
        reason = os_error_text(error)
        raise click.ClickException(f"cannot listen on {host}, port {settings.port}: {reason}") from None
    with stop_on_signals() as stop:
        for sock in server.sockets:
            address = sock.getsockname()
            where = {"host": address[0], "port": address[1], "path": settings.path}
            _log("server_started", **where)
        await stop.wait()
        _log("server_stopping", connections=len(server.connections))
        await server.close(reason="server shutdown")
    _log("server_stopped")


async def _echo(ws: Connection) -> None:
    async for message in ws:
        await ws.send(message)


def _log(event_type: str, **fields: str | int) -> None:
    text = " ".join([event_type, *(f"{name}={value}" for name, value in fields.items())])
    _logger.info(text, extra={"type": event_type, **fields})
