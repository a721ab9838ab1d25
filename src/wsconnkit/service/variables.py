"""What makes a value of the text of a variable, or says in a ValueError what is allowed.

integer(1, 9)("7")                  # 7
or_off(seconds())("off")            # None
parse_flag("maybe")                 # ValueError: it must be true or false (also 1, yes, on, 0, no, off)
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

OFF = "off"
"""Switches off what may be off."""
MAX_INTEGER = 2**31 - 1
_FLAGS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9.-]+)):([0-9]{1,5})")


def integer(low: int = 1, high: int = MAX_INTEGER, unit: str = "") -> Callable[[str], int]:
    """Return what takes an integer within bounds, both included."""

    def parse(text: str) -> int:
        text = text.strip()
        # Digits only: int() would also take "1_000" and digits of other scripts. Ten are enough for the highest.
        if text.isascii() and text.isdecimal() and len(text) <= 10 and low <= int(text) <= high:
            return int(text)
        raise ValueError(f"it must be an integer, {low} to {high}{unit and ' ' + unit}")

    return parse


def seconds(low: int = 1) -> Callable[[str], float]:
    """Return what takes milliseconds, at least `low`, and makes seconds of them."""
    milliseconds = integer(low, unit="milliseconds")
    return lambda text: milliseconds(text) / 1000


def or_off(parse: Callable[[str], T]) -> Callable[[str], T | None]:
    """Return what does as `parse`, and takes `off` for None."""

    def parse_or_off(text: str) -> T | None:
        if text.strip().lower() == OFF:
            return None
        try:
            return parse(text)
        except ValueError as error:
            raise ValueError(f"{error}, or {OFF}") from None

    return parse_or_off


def parse_flag(text: str) -> bool:
    """Take what is true or false in the usual words."""
    if (word := text.strip().lower()) in _FLAGS:
        return _FLAGS[word]
    raise ValueError("it must be true or false (also 1, yes, on, 0, no, off)")


def one_of(*allowed: str) -> Callable[[str], str]:
    """Return what takes one of some words in any case."""
    words = {word.lower(): word for word in allowed}

    def parse(text: str) -> str:
        if (word := text.strip().lower()) in words:
            return words[word]
        raise ValueError(f"it must be one of {', '.join(allowed)}")

    return parse


def parse_path(text: str) -> str:
    """Take the path of a request."""
    text = text.strip()
    if text.startswith("/") and text.isascii() and text.isprintable() and not any(char in " ?#" for char in text):
        return text
    raise ValueError("it must be a path in ASCII that starts with '/', without spaces, '?' and '#'")


def parse_host(text: str) -> str:
    """Take what a server can listen on."""
    text = text.strip()
    if text and text.isprintable() and not any(char in " /@" for char in text):
        return text
    raise ValueError("it must be a host's name or an address, such as '127.0.0.1', or '0.0.0.0' for all of IPv4")


def parse_endpoints(text: str) -> bool | tuple[str, int]:
    """Take where pages are, as `serve` has it: True for nothing said, False for `off`, or a host and a port."""
    text = text.strip()
    if text.lower() in ("", OFF):
        return not text
    match = _ADDRESS.fullmatch(text)
    if match is None or not 0 < int(match[3]) <= 65535:
        raise ValueError(f"it must be host:port, such as '127.0.0.1:9090' or '[::1]:9090', or {OFF}")
    return match[1] or match[2], int(match[3])


def parse_file(text: str) -> str | None:
    """Take the path of a file, None for nothing."""
    if "\0" in text:
        raise ValueError("it must be the path of a file")
    return text.strip() or None


def list_of(what: str, check: Callable[[list[str]], object]) -> Callable[[str], tuple[str, ...]]:
    """Return what takes a list whose items `check` lets pass, each in a list of one; `what` says what they are."""

    def parse(text: str) -> tuple[str, ...]:
        items = tuple(item.strip() for item in text.split(",")) if text.strip() else ()
        for item in items:
            try:
                check([item])
            except ValueError:
                raise ValueError(f"it must be {what}, separated by commas; {item!r} is none") from None
        return items

    return parse
