"""`wsconnkit check-config`: the settings in force, and where each is from."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from wsconnkit.cli.loading import bad_settings_told, config_option, load_settings
from wsconnkit.protocol.printable import printable


@click.command("check-config")
@config_option
def check_config_command(file: Path | None) -> None:
    """Print the settings that `wsconnkit serve` would go by: each variable, its value, and where that is from.

    Secrets are masked. What is allowed but looks like a mistake, such as a variable with a misspelt name, is told on
    standard error. Exits with 0 when all values are allowed and their files can be read, else with 2 and every bad one
    on standard error.
    """
    settings = load_settings(file)
    settings.authenticator()
    with bad_settings_told():
        settings.ssl_context()
    for warning in settings.warnings():
        click.echo(f"Warning: {printable(warning)}", err=True)
    rows = [(each.variable, _shown(each.value, each.unit), each.source) for each in settings.describe()]
    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        Console().print(_table(rows))
    else:
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def _shown(value: str, unit: str) -> str:
    return f"{value} {unit}" if unit and value.isdecimal() else value or "(none)"


def _table(rows: list[tuple[str, str, str]]) -> Table:
    table = Table(*(Column(title, overflow="fold") for title in ("Variable", "Value", "From")))
    for name, value, source in rows:
        table.add_row(name, Text(value), source, style="dim" if source == "default" else None)
    return table
