"""For which hosts a server answers: a web page whose own name leads to us (DNS rebinding) asks for another."""

from __future__ import annotations

import re
from collections.abc import Collection
from ipaddress import IPv6Address
from urllib.parse import urlsplit

from wsconnkit.protocol.upgrade import HTTPRequest, UpgradeRequest

_AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::([0-9]{1,5}))?")


class AllowedHosts:
    """The hosts that may be asked for, whatever the port; None for all.

    allowed: names and addresses, IPv6 in brackets, and `*.example.org` for all names under `example.org`, itself not.
    Raises ValueError for any other entry, and for none.
    """

    __slots__ = ("_names", "_suffixes")

    def __init__(self, allowed: Collection[str] | None = None) -> None:
        if isinstance(allowed, str) or (allowed is not None and not allowed):
            raise ValueError(
                f"allowed_hosts is {allowed!r}; it must be a list of hosts, such as ['example.org'], or None"
            )
        entries = None if allowed is None else [_checked(entry) for entry in allowed]
        self._names = None if entries is None else frozenset(entries)
        self._suffixes = tuple(entry[1:] for entry in entries or () if entry.startswith("*"))

    def allows(self, request: UpgradeRequest | HTTPRequest) -> bool:
        """Tell whether `request` is for a host that is allowed. Never raises; a malformed Host is for none."""
        if self._names is None:
            return True
        hosts = asked_hosts(request)
        place = parse_authority(hosts[0]) if len(hosts) == 1 else None
        if place is None:
            return False
        host = place[0].removesuffix(".")
        return host in self._names or host.endswith(self._suffixes)


def asked_hosts(request: UpgradeRequest | HTTPRequest) -> list[str]:
    """Return what is said of the host and the port, in the target if it is there (RFC 9112, section 3.2.2)."""
    if request.target.startswith("/"):
        return request.headers.get_all("Host")
    return [urlsplit(request.target).netloc]


def parse_authority(text: str) -> tuple[str, int | None] | None:
    """Return the host, as all spell it, and the port if there is one; None for what is malformed."""
    match = _AUTHORITY.fullmatch(text)
    if match is None:
        return None
    address, name, digits = match.groups()
    port = None if digits is None else int(digits)
    if port is not None and port > 0xFFFF:
        return None
    try:
        host = name.lower() if address is None else str(IPv6Address(address))
    except ValueError:
        return None
    return host, port


def _checked(entry: object) -> str:
    text = entry if isinstance(entry, str) else ""
    name = text.removeprefix("*.")
    place = parse_authority(name)
    is_address_under_a_star = name.startswith("[") and name != text
    if place is None or place[1] is not None or name.startswith(".") or is_address_under_a_star:
        raise ValueError(
            f"{entry!r} is no host; write 'example.org', '*.example.org' for all names under it, '127.0.0.1' or "
            "'[::1]', without a port; to answer for every host, give None in place of the list"
        )
    return text.removesuffix(name) + place[0].removesuffix(".")
