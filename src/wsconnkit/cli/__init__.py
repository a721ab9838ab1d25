"""The `wsconnkit` command: serve, connect, check-config and demo. It needs the extra `cli`, and says so without it."""

from __future__ import annotations

import sys

from wsconnkit.cli.output import readers_may_leave

_EXTRA = {
    "click",
    "cryptography",
    "dotenv",
    "prometheus_client",
    "pydantic",
    "pydantic_settings",
    "pythonjsonlogger",
    "rich",
}


def main() -> None:
    """Run the command line; without the extra, say how to install it and exit with 2."""
    with readers_may_leave():
        try:
            from wsconnkit.cli.commands import commands

            commands(prog_name="wsconnkit")
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            if missing not in _EXTRA:
                raise
            print(f"The command line needs {missing}; install it with: pip install 'wsconnkit[cli]'", file=sys.stderr)
            raise SystemExit(2) from None
