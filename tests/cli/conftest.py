from __future__ import annotations

import codecs
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

COMMAND = [sys.executable, "-W", "error", "-X", "utf8", "-m", "wsconnkit"]
LIMIT = 30.0
OURS = re.compile(
    r"SUPABASE_|JWT_|WEBSOCKET_|PING_|PONG_|MAX_|COMPRESSION_|FRAME_|IDLE_|CLOSE_|RATE_|ALLOWED_|TRUSTED_|DRAIN_|LOG_"
    r"|TLS_|METRICS_|HANDSHAKE_"
    r"|FORCE_COLOR|NO_COLOR|TERM$|PYTHON"
)

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Start = Callable[..., "subprocess.Popen[str]"]
Serving = Callable[..., AbstractContextManager[tuple["subprocess.Popen[str]", dict[str, Any]]]]


@pytest.fixture(scope="session")
def command() -> list[str]:
    return COMMAND


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """Variables for a command that must not be led by those of whoever runs the tests, nor its Python."""
    variables = {name: value for name, value in os.environ.items() if not OURS.match(name)}
    return {**variables, "TERM": "xterm"}


@pytest.fixture
def start(environment: dict[str, str], tmp_path: Path) -> Iterator[Start]:
    """Start a command in a directory of its own, and see to it that it ends."""
    processes: list[subprocess.Popen[Any]] = []

    def started(arguments: Sequence[str], env: dict[str, str] | None = None, **options: Any) -> subprocess.Popen[Any]:
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        process = subprocess.Popen(
            [*COMMAND, *arguments],
            env={**environment, **(env or {})},
            cwd=tmp_path,
            **{**pipes, "text": True, "encoding": "utf-8", **options},
        )
        processes.append(process)
        return process

    yield started
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait(LIMIT)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture
def run(start: Start) -> Run:
    """Run a command to its end."""

    def ran(*arguments: str, stdin: str = "", **options: Any) -> subprocess.CompletedProcess[str]:
        process = start(arguments, **options)
        stdout, stderr = process.communicate(stdin, timeout=LIMIT)
        return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)

    return ran


@pytest.fixture
def serving(start: Start) -> Serving:
    """Run `wsconnkit serve` on a free port for the length of a block; gives it and its first line.

    It lets everyone in unless `auth` is true, and drains at once unless `env` has another window.
    """

    @contextmanager
    def served(
        *arguments: str, auth: bool = False, env: dict[str, str] | None = None, **options: Any
    ) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
        arguments = arguments if auth else ("--no-auth", *arguments)
        env = {"DRAIN_WINDOW": "0", **(env or {})}
        process = start(["serve", "--port", "0", *arguments], env=env, **options)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate(timeout=LIMIT)
        yield process, json.loads(line)
        if process.poll() is None:
            process.terminate()
        process.wait(LIMIT)

    return served


class Pty:
    """A command in a terminal of 80 columns and 24 lines, of which `options` may take some standard streams away."""

    def __init__(self, start: Start, arguments: Sequence[str], **options: Any) -> None:
        import fcntl
        import struct
        import termios

        self._master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        options = {**dict.fromkeys(("stdin", "stdout", "stderr"), slave), **options}
        self.process = start(arguments, start_new_session=True, **options)
        os.close(slave)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def wait_for(self, text: str) -> None:
        """Read until `text` has come since the last call."""
        deadline = time.monotonic() + LIMIT
        while text not in self.seen:
            assert time.monotonic() < deadline, self.seen
            self._read()
        self.seen = self.seen.partition(text)[2]

    def end(self) -> tuple[int, str]:
        """Return the exit status, and what has come since the last call."""
        while self._read():
            pass
        os.close(self._master)
        return self.process.wait(LIMIT), self.seen

    def _read(self) -> bool:
        try:
            data = os.read(self._master, 65536)
        except OSError:  # what Linux says when the other side has gone
            data = b""
        self.seen += self._decoder.decode(data)
        return bool(data)


@pytest.fixture
def terminal(start: Start) -> Callable[..., Pty]:
    return lambda *arguments, **options: Pty(start, arguments, **options)
