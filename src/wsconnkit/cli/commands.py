"""The commands, put together."""

from __future__ import annotations

import click

from wsconnkit.cli.check_config import check_config_command
from wsconnkit.cli.connect import connect_command
from wsconnkit.cli.demo import demo_command
from wsconnkit.cli.serve import serve_command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="wsconnkit")
def commands() -> None:
    """Serve, try and watch managed WebSocket connections."""


commands.add_command(serve_command)
commands.add_command(connect_command)
commands.add_command(check_config_command)
commands.add_command(demo_command)
