"""The `wsconnkit` command: serve, connect and demo. It needs the extra `cli`, and says so where that is missing."""

from __future__ import annotations

import sys

_EXTRA = {"click", "dotenv", "pythonjsonlogger", "rich"}


def main() -> None:
    """Run the command line; without the extra, say how to install it and exit with 2."""
    try:
        from wsconnkit.cli.commands import commands
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRA:
            raise
        print(f"The command line needs {missing}; install it with: pip install 'wsconnkit[cli]'", file=sys.stderr)
        raise SystemExit(2) from None
    commands(prog_name="wsconnkit")
