"""The settings that a command goes by: its options, else the environment, else a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from wsconnkit.cli.failure import os_error_text
from wsconnkit.service.settings import BadSettings, Settings

_DEFAULT_FILE = Path(".env")

config_option = click.option(
    "--config", "file", type=click.Path(path_type=Path), help="File with settings.  [default: .env, if there is one]"
)


def load_settings(file: Path | None, options: Mapping[str, str] | None = None) -> Settings:
    """Return the settings, where `options` by the names of variables win; end the command with 2 for bad ones."""
    if file is None and _DEFAULT_FILE.exists():
        file = _DEFAULT_FILE
    try:
        return Settings.from_env(file, overrides=options)
    except BadSettings as error:
        raise click.UsageError("\n  ".join(["settings that are not allowed:", *error.problems])) from None
    except FileNotFoundError:
        raise click.UsageError(f"there is no file {str(file)!r}") from None
    except OSError as error:
        raise click.UsageError(f"cannot read {str(file)!r}: {os_error_text(error)}") from None
