"""The parts of HTTP that an opening handshake needs: headers, their lists, and a response."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

TCHARS = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
"""A pattern of HTTP tokens (RFC 9110, section 5.6.2)."""

_TCHARS_ONLY = re.compile(TCHARS)
_PARAMETER = re.compile(rf'\s*;\s*({TCHARS})(?:\s*=\s*(?:({TCHARS})|"((?:[^"\\]|\\.)*)"))?')
_ITEM = re.compile(rf"\s*({TCHARS})")
_SEPARATOR = re.compile(r"\s*(,|$)")


class Headers:
    """HTTP headers: ordered, repeatable, compared without case."""

    __slots__ = ("_items",)

    def __init__(self, items: Iterable[tuple[str, str]] | Mapping[str, str] = ()) -> None:
        pairs = items.items() if isinstance(items, Mapping) else items
        self._items = [(str(name), str(value)) for name, value in pairs]

    @classmethod
    def from_raw(cls, items: Iterable[tuple[bytes, bytes]]) -> Headers:
        """Decode headers as ISO 8859-1, which never fails."""
        return cls((name.decode("latin-1"), value.decode("latin-1")) for name, value in items)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and bool(self.get_all(name))

    def __repr__(self) -> str:
        return f"<Headers: {', '.join(name for name, _ in self._items)}>"

    def without(self, name: str) -> Headers:
        """Return the headers that are not called `name`."""
        return Headers((key, value) for key, value in self._items if key.lower() != name.lower())

    def get_all(self, name: str) -> list[str]:
        """Return the values of all headers called `name`."""
        return [value for key, value in self._items if key.lower() == name.lower()]

    def get(self, name: str) -> str | None:
        """Return the values of `name` joined by commas, None where it is absent (RFC 9110, section 5.3)."""
        values = self.get_all(name)
        return ", ".join(values) if values else None

    def tokens(self, name: str) -> list[str]:
        """Return the items of a comma-separated header, without empty ones."""
        return [item.strip() for item in (self.get(name) or "").split(",") if item.strip()]


HeadersLike = Headers | Mapping[str, str] | Iterable[tuple[str, str]]
"""What `Headers` can be made of."""


class ExtensionOffer(NamedTuple):
    """One entry of Sec-WebSocket-Extensions; a parameter without a value has None."""

    name: str
    parameters: tuple[tuple[str, str | None], ...] = ()


def parse_extensions(value: str) -> list[ExtensionOffer] | None:
    """Parse Sec-WebSocket-Extensions (RFC 6455, section 9.1); None where it is malformed."""
    offers: list[ExtensionOffer] = []
    position = 0
    while position < len(value):
        if separator := _SEPARATOR.match(value, position):  # an empty list item
            position = separator.end()
            continue
        name = _ITEM.match(value, position)
        if name is None:
            return None
        position = name.end()
        parameters: list[tuple[str, str | None]] = []
        while parameter := _PARAMETER.match(value, position):
            key, token, quoted = parameter.groups()
            if quoted is not None:
                token = re.sub(r"\\(.)", r"\1", quoted)
                if not is_token(token):  # "the value after quoted-string unescaping MUST conform to token"
                    return None
            parameters.append((key, token))
            position = parameter.end()
        offers.append(ExtensionOffer(name.group(1), tuple(parameters)))
        separator = _SEPARATOR.match(value, position)
        if separator is None:
            return None
        position = separator.end()
    return offers


def is_token(value: str) -> bool:
    """Tell whether `value` is an HTTP token (RFC 9110, section 5.6.2)."""
    return _TCHARS_ONLY.fullmatch(value) is not None


@dataclass(frozen=True, slots=True, init=False)
class Response:
    """A complete HTTP response. Raises TypeError for a body that is no bytes."""

    status: int
    headers: Headers
    body: bytes

    def __init__(self, status: int, headers: HeadersLike = (), body: bytes = b"") -> None:
        given: object = body
        if not isinstance(given, bytes):
            raise TypeError(f"body is of type {type(given).__name__}; it must be bytes")
        for name, value in (("status", status), ("headers", Headers(headers)), ("body", body)):
            object.__setattr__(self, name, value)
