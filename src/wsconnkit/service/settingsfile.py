"""Read a dotenv file, and say which of its lines are no settings. It needs the extra `settings`."""

from __future__ import annotations

import os
from io import StringIO
from pathlib import Path

from dotenv import dotenv_values
from dotenv.parser import Binding, parse_stream


def read_settings_file(file: str | os.PathLike[str]) -> tuple[dict[str, str], list[str]]:
    """Return the variables of `file`, and what is wrong with it, in place of its variables. Raises OSError."""
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        return {}, [f"the file {os.fspath(file)!r} is not UTF-8"]
    # Nothing of such a line is told: there may be a secret in it.
    problems = [
        f"line {_line_of(binding)} of the file {os.fspath(file)!r} is no setting; write NAME=value"
        for binding in parse_stream(StringIO(text))
        if binding.error or (binding.key is not None and binding.value is None)
    ]
    if problems:
        return {}, problems
    return {name: value or "" for name, value in dotenv_values(stream=StringIO(text)).items()}, []


def _line_of(binding: Binding) -> int:
    # Empty lines before it belong to it.
    text = binding.original.string
    return binding.original.line + text[: len(text) - len(text.lstrip())].count("\n")
