"""The watch that lets a test fail when a token is written does so, wherever it is written."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote
from xml.etree import ElementTree

import jwt
import pytest

from .tokenwatch import STDERR, Stream, TokenWatch

SECRET = "a secret that nobody knows, of enough bytes"
LEAKS = '''
import capfd_less, logging, os, pty, subprocess, sys, warnings
'''


@pytest.fixture
def token() -> str:
    return jwt.encode({"sub": "alice", "exp": 2_000_000_000}, SECRET, "HS256")


@pytest.fixture
def watch(token: str) -> TokenWatch:
    watch = TokenWatch()
    watch.remember(token)
    return watch


def unsigned(token: str) -> str:
    return jwt.encode({"sub": "alice"}, None, "none")


@pytest.mark.parametrize(
    "write",
    [
        str,
        unsigned,
        quote,
        lambda token: "".join(f"%{ord(char):02X}" for char in token),
        lambda token: f"ws://host/?a=b&token={token}&c=d",
        lambda token: repr({"headers": [("Authorization", f"Bearer {token}")]}),
        lambda token: token[:60],
        lambda token: token[40:],  # its signature is left
    ],
)
def test_a_token_is_found_in_whatever_form(watch: TokenWatch, token: str, write: Callable[[str], str]) -> None:
    watch.look(write(token), "here")
    (leak,) = watch.take()
    assert leak.startswith("a token was written, here: ")
    assert len(leak) < 50  # without the token itself
    assert watch.take() == []


@pytest.mark.parametrize("text", ["", "eyJ", "eyJhbGciOiJIUzI1NiJ9", "token=***", "c2lnbmF0dXJl" * 5, "a.b.c"])
def test_other_text_is_no_token(watch: TokenWatch, text: str) -> None:
    watch.look(text, "here")
    assert watch.take() == []


def test_every_part_of_a_log_record_is_looked_at(watch: TokenWatch, token: str) -> None:
    logger = logging.Logger("of the test")
    logger.addHandler(watch)
    logger.warning("said", extra={"code": 1000, "reason": "bye"})
    assert watch.take() == []
    logger.warning(token)
    logger.warning("%s", token)
    logger.debug("said", extra={"path": f"/?token={token}"})
    logger.warning("said", extra={"headers": [{"Authorization": token}]})
    try:
        try:
            raise ValueError(token)
        except ValueError as error:
            raise OSError("failed") from error
    except OSError:
        logger.exception("said")
    places = {leak.split(", ")[3].partition(":")[0] for leak in watch.take()}
    assert places == {"its message", "its field msg", "its field args", "its field path", "its field headers",
                      "its traceback"}  # fmt: skip


def announced(token: str) -> str:
    return (
        "The settings say nothing about tokens, so this run has its own; it is good for 24 hours.\n\n"
        f"Token: {token}\nURL:   ws://127.0.0.1:3001/ws?token={token}\n\nTalk to the server: wsconnkit connect 'URL'\n"
    )


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_the_token_that_serve_announces_is_allowed_there_and_nowhere_else(
    watch: TokenWatch, token: str, size: int
) -> None:
    def leaks(text: str, where: str = STDERR) -> int:
        stream = Stream(watch, where)
        for at in range(0, len(text), size):
            stream.hear(text[at : at + size].encode())
        return len(watch.take())

    assert leaks(announced(token)) == 0
    assert leaks(announced(token).replace("\n", "\r\n")) == 0
    assert leaks(announced(token) + f"GET /ws?token={token}\n") == 1
    assert leaks(f"Token: {token}\n") == 1
    assert leaks(announced(token), "to stdout of another process") == 1
