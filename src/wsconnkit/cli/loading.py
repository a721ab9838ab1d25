"""The settings that a command goes by: its options, else the environment, else a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from wsconnkit.cli.failure import os_error_text
from wsconnkit.service.settings import BadSettings, Settings

_F = TypeVar("_F", bound=Callable[..., Any])

config_option: Callable[[_F], _F] = click.option(
    "--config", "file", type=click.Path(path_type=Path), help="File with settings.  [default: .env, if there is one]"
)


def load_settings(file: Path | None, options: Mapping[str, str] | None = None) -> Settings:
    """Return the settings, where `options` by the names of variables win; end the command with 2 for bad ones."""
    try:
        with bad_settings_told():
            return Settings.from_env(file, overrides=options)
    except FileNotFoundError:
        raise click.UsageError(f"there is no file {str(file)!r}") from None
    except OSError as error:
        raise click.UsageError(f"cannot read {error.filename!r}: {os_error_text(error)}") from None


@contextmanager
def bad_settings_told() -> Iterator[None]:
    """End the command with 2 for settings that are not allowed."""
    try:
        yield
    except BadSettings as error:
        raise click.UsageError("\n  ".join(["settings that are not allowed:", *error.problems])) from None
