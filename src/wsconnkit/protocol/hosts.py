"""The hosts of URIs (RFC 3986, section 3.2.2; WHATWG URL, section 3.5), as resolvers and as TLS take them.

parse_host("Example.ORG.")          # "example.org.", for the resolver
parse_host("[fe80::1%25eth0]")      # "fe80::1%eth0"
server_name("fe80::1%eth0")         # "fe80::1", for TLS
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import unquote

_NAME = re.compile(r"[a-z0-9._~-]+")
_NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+")
_ZONE = re.compile(r"[A-Za-z0-9._~:-]+")


def parse_host(text: str) -> str:
    """Return what a resolver takes for the host `text` of a URI: ASCII in lower case, without brackets.

    Raises ValueError that says what is wrong.
    """
    if text.startswith("["):
        return _ipv6(text)
    try:
        name = ascii_name(unquote(text, errors="strict")).lower()
    except UnicodeDecodeError:
        raise ValueError(f"the host {text!r} is no UTF-8 where it is %-encoded") from None
    if not _NAME.fullmatch(name):
        raise ValueError(f"the host {text!r} has a character that no name has")
    labels = name.removesuffix(".").split(".")
    if len(name) > 254 or not all(0 < len(label) < 64 for label in labels):
        raise ValueError(f"the host {text!r} is no name; between its dots it must have 1 to 63 characters, 253 in all")
    return _ipv4(text, labels) if _NUMBER.fullmatch(labels[-1]) else name


def ascii_name(name: str) -> str:
    """Return a name as resolvers take it: beyond ASCII, in the xn-- form of UTS 46 and IDNA 2008.

    Raises ValueError for a name that has none, or where the package that finds it is missing.
    """
    if name.isascii():
        return name
    try:
        import idna
    except ModuleNotFoundError:
        text = f"the host {name!r} goes beyond ASCII; write {_guess(name)}, or pip install 'wsconnkit[idna]'"
        raise ValueError(text) from None
    try:
        # Not transitional: IDNA 2003, which Python's own codec does, makes another name of "faß".
        labels = idna.uts46_remap(name, std3_rules=False, transitional=False).split(".")
        return ".".join(label if label.isascii() else idna.alabel(label).decode() for label in labels)
    except idna.IDNAError as error:
        raise ValueError(f"the host {name!r} is none that IDNA 2008 allows: {error}; write its xn-- form") from None


def server_name(host: str) -> str:
    """Return what TLS asks for and finds in a certificate: no last dot (RFC 6066, section 3), no zone (RFC 6874)."""
    return host.partition("%")[0].removesuffix(".")


def _guess(name: str) -> str:
    labels = name.lower().split(".")
    return ".".join(label if label.isascii() else f"xn--{label.encode('punycode').decode()}" for label in labels)


def _ipv4(text: str, labels: list[str]) -> str:
    """Return the address that resolvers see in numbers, with which nobody may get round a rule for it."""
    if len(labels) <= 4 and all(_NUMBER.fullmatch(label) for label in labels):
        try:
            *first, last = [_integer(label) for label in labels]
            if all(number < 256 for number in first) and last < 256 ** (4 - len(first)):
                return str(IPv4Address(sum(number << (24 - 8 * i) for i, number in enumerate(first)) + last))
        except ValueError:  # a digit that is not octal, or too many
            pass
    raise ValueError(f"the host {text!r} ends in a number, but is no IPv4 address; write four decimal numbers")


def _integer(label: str) -> int:
    if label.startswith("0x"):
        return int(label[2:] or "0", 16)
    return int(label, 8 if label.startswith("0") else 10)


def _ipv6(text: str) -> str:
    address, has_zone, zone = text[1:-1].partition("%")
    try:
        host = IPv6Address(address).compressed
    except ValueError:
        raise ValueError(f"the host {text!r} is no IPv6 address") from None
    if not has_zone:
        return host
    # RFC 6874, section 2: "%25" and the zone; section 3: "accept bare '%' signs when possible".
    is_bare = not zone.startswith("25") and re.match("[0-9A-Fa-f]{2}", zone) is None
    zone = zone if is_bare else unquote(zone[2:]) if zone.startswith("25") else ""
    if not _ZONE.fullmatch(zone):
        raise ValueError(f"the host {text!r} has no zone that can be read; write it as [fe80::1%25eth0]")
    return f"{host}%{zone}"
