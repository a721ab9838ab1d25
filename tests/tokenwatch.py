"""Hears what is written while tests run, and tells where a token was in it.

A token is whatever looks like a JWT, plain or percent-encoded, and the signature of each that `jwt.encode` has made.
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
import traceback
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import jwt
import pytest

LOGGERS = ("wsconnkit", "asyncio")
"""Those whose records are looked at; what other libraries log of the tests' own requests is their affair."""

_JWT = re.compile(r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}")  # or the larger part of one
_WORD = re.compile(r"[A-Za-z0-9_-]{20,}")
_REMEMBERED = 64 * 1024
# The one place where a token is printed on purpose: standard error of `wsconnkit serve` without settings for tokens.
_ANNOUNCEMENT = re.compile(r"The settings say nothing about tokens[^\n]*\n\n(?:Token: \S*\n?(?:URL:   \S*\n?)?)?")


class TokenWatch(logging.Handler):
    """`leaks` tells what was found since `take`, without the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.leaks: list[str] = []
        self._signatures: set[str] = set()

    def remember(self, token: str) -> None:
        """Look for the signature of `token`, too."""
        signature = token.rpartition(".")[2]
        if _WORD.fullmatch(signature):
            self._signatures.add(signature)

    def look(self, text: str, where: str) -> None:
        """Note a token in `text`, which was written `where`."""
        for readable in (text, unquote(text)):
            token = _JWT.search(readable)
            signatures = self._signatures.intersection(_WORD.findall(readable))
            if token or signatures:
                begin = token[0][:8] if token else f"the signature {signatures.pop()[:4]}"
                self.leaks.append(f"a token was written {where}: {begin}...")
                return

    def take(self) -> list[str]:
        """Return what was found since the last call."""
        leaks, self.leaks = list(dict.fromkeys(self.leaks)), []
        return leaks

    def emit(self, record: logging.LogRecord) -> None:
        where = f"in a log record of {record.name}, type {getattr(record, 'type', None)}"
        self.look(record.getMessage(), f"{where}, its message")
        for name, value in record.__dict__.items():
            self.look(f"{value} {value!r}", f"{where}, its field {name}")
        if record.exc_info is not None and record.exc_info[0] is not None:
            self.look("".join(traceback.format_exception(*record.exc_info)), f"{where}, its traceback")

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Hear everything from now on."""
        for name in LOGGERS:
            logging.getLogger(name).addHandler(self)
        self._hear_encode(monkeypatch)
        self._hear_readouterr(monkeypatch)
        self._hear_processes(monkeypatch)
        self._hear_terminals(monkeypatch)

    def uninstall(self) -> None:
        """Hear no more log records; the rest is undone with the `MonkeyPatch`."""
        for name in LOGGERS:
            logging.getLogger(name).removeHandler(self)

    def _hear_encode(self, monkeypatch: pytest.MonkeyPatch) -> None:
        encode = jwt.encode

        def heard(*args: Any, **kwargs: Any) -> str:
            token = encode(*args, **kwargs)
            self.remember(token)
            return token

        monkeypatch.setattr(jwt, "encode", heard)

    def _hear_readouterr(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Hear what tests take out of `capsys` and `capfd`, which is then in no report."""
        readouterr = pytest.CaptureFixture.readouterr

        def heard(fixture: pytest.CaptureFixture[Any]) -> Any:
            captured = readouterr(fixture)
            for name, text in captured._asdict().items():
                self.look(text if isinstance(text, str) else text.decode(errors="replace"), f"to std{name}")
            return captured

        monkeypatch.setattr(pytest.CaptureFixture, "readouterr", heard)

    def _hear_processes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Hear what tests read from other processes."""
        create, communicate = subprocess.Popen.__init__, subprocess.Popen.communicate

        def created(process: Any, *args: Any, **kwargs: Any) -> None:
            create(process, *args, **kwargs)
            process.heard = Stream(self, "to stdout of another process"), Stream(self, STDERR)
            for name, stream in zip(("stdout", "stderr"), process.heard, strict=True):
                if getattr(process, name) is not None:
                    setattr(process, name, _Heard(getattr(process, name), stream))

        def communicated(process: Any, *args: Any, **kwargs: Any) -> Any:
            outputs = communicate(process, *args, **kwargs)
            for output, stream in zip(outputs, process.heard, strict=True):
                stream.hear(output)
            return outputs

        monkeypatch.setattr(subprocess.Popen, "__init__", created)
        monkeypatch.setattr(subprocess.Popen, "communicate", communicated)

    def _hear_terminals(self, monkeypatch: pytest.MonkeyPatch) -> None:
        read, screens = os.read, dict[int, Stream]()

        def heard(fd: int, length: int, /) -> bytes:
            try:
                data = read(fd, length)
            except OSError:
                screens.pop(fd, None)  # the number may be another's soon
                raise
            if data and os.isatty(fd):
                screens.setdefault(fd, Stream(self, "to a terminal")).hear(data)
            return data

        monkeypatch.setattr(os, "read", heard)


STDERR = "to stderr of another process"


class Stream:
    """What was read from one stream so far, in whatever pieces."""

    def __init__(self, watch: TokenWatch, where: str) -> None:
        self._watch = watch
        self._where = where
        self._text = ""

    def hear(self, data: str | bytes | None) -> None:
        if data:
            self._text += data if isinstance(data, str) else data.decode(errors="replace")
            self._text = self._text[-_REMEMBERED:].replace("\r\n", "\n")
            text = _ANNOUNCEMENT.sub("", self._text) if self._where == STDERR else self._text
            self._watch.look(text, self._where)


class _Heard:
    """A stream of a process that tells what is read from it."""

    def __init__(self, stream: Any, heard: Stream) -> None:
        self._stream = stream
        self.read = self._telling(stream.read, heard)
        self.readline = self._telling(stream.readline, heard)

    @staticmethod
    def _telling(read: Callable[..., Any], heard: Stream) -> Callable[..., Any]:
        def telling(*args: Any) -> Any:
            data = read(*args)
            heard.hear(data)
            return data

        return telling

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __iter__(self) -> Any:
        while line := self.readline():
            yield line
