"""The application that `wsconnkit serve` is given by its name, such as `chat:handler`."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

import click


def load_handler(name: str) -> Any:
    """Import the module of `module:handler`, also from the working directory, and return what is called so in it.

    Ends the command with 2 where there is no such thing; what the module raises by itself is left alone.
    """
    module_name, _, attribute = name.partition(":")
    if not (module_name and attribute):
        raise click.UsageError(f"HANDLER is {name!r}; it must be module:handler, such as 'chat:handler'")
    directory = os.getcwd()
    sys.path.insert(0, directory)  # `python -m` has it there, the command has not
    try:
        handler: Any = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise click.UsageError(
            f"HANDLER is {name!r}; there is no module {error.name!r} in {directory} or installed"
        ) from None
    for part in attribute.split("."):
        if not hasattr(handler, part):
            raise click.UsageError(f"HANDLER is {name!r}; {module_name!r} has no {attribute!r}")
        handler = getattr(handler, part)
    return handler
