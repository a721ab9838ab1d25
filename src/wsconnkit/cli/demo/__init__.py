"""`wsconnkit demo`: one server, clients that behave and clients that do not, and what becomes of them."""

from __future__ import annotations

import asyncio
import os
import sys

import click
from rich.console import Console

from wsconnkit.cli.demo.cast import cast
from wsconnkit.cli.demo.show import Show, live_show, plain_show
from wsconnkit.cli.demo.stage import Stage


@click.command("demo")
def demo_command() -> None:
    """Watch a server deal with seven clients, over real sockets, for about ten seconds.

    Exits with 0 when each client ended as it should, else with 1.
    """
    show: Show = live_show if sys.stdout.isatty() and os.environ.get("TERM") != "dumb" else plain_show
    stage = Stage(cast())
    asyncio.run(show(stage, Console()))
    raise SystemExit(0 if all(actor.as_expected for actor in stage.actors) else 1)
