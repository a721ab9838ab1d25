"""The address of a client behind proxies, read only from what trusted proxies have written."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from itertools import islice
from typing import Literal

from wsconnkit.protocol.http import TCHARS, Headers

MAX_HOPS = 32
"""Proxies that are followed; of a longer chain, the address so many hops away is told."""

_PAIR = rf'({TCHARS})=(?:({TCHARS})|"((?:[^"\\]|\\.)*)")'
_STEP = re.compile(rf"[ \t]*(?:{_PAIR}[ \t]*)?([,;]|\Z)|[^,]*(,|\Z)")
_PORT = r"(?::(?:[0-9]{1,5}|_[A-Za-z0-9._-]+))?"
_NODE = re.compile(rf"\[([0-9A-Fa-f]*:[0-9A-Fa-f:.]*)\]{_PORT}|([0-9.]+){_PORT}|([0-9A-Fa-f:.]+)")

_Address = IPv4Address | IPv6Address
_Network = IPv4Network | IPv6Network


class TrustedProxies:
    """The networks whose word on the client's address counts; without any, the peer itself is the client.

    networks: addresses and networks such as `10.0.0.0/8`, and `unix` for whoever connects through a Unix socket.
    header: the one that these proxies write. The other is ignored: it may be the client's own.
    Raises ValueError for anything else.
    """

    __slots__ = ("_header", "_networks", "_trusts_unix")

    def __init__(
        self,
        networks: Sequence[str] = (),
        *,
        header: Literal["X-Forwarded-For", "Forwarded"] = "X-Forwarded-For",
    ) -> None:
        if isinstance(networks, str):
            raise ValueError(f"networks is {networks!r}; it must be a list of networks, such as [{networks!r}]")
        if header not in ("X-Forwarded-For", "Forwarded"):
            raise ValueError(f"header is {header!r}; it must be 'X-Forwarded-For' or 'Forwarded'")
        self._header = header
        self._networks = [_network(entry) for entry in networks if entry != "unix"]
        self._trusts_unix = "unix" in networks

    def client_ip(self, remote_address: object, headers: Headers) -> str | None:
        """Return the address of the client, None where none is known. Never raises.

        remote_address: the socket's peer name: a tuple that begins with the host; a string or None for a Unix socket.
        headers: those of the client's request. They are followed from the last hop backwards, up to the first address
        that is in no trusted network; `unknown`, an obfuscated name or what is malformed ends it one hop earlier.
        """
        client = _peer(remote_address)
        if self.trusts(remote_address):
            for hop in islice(self._hops(headers), MAX_HOPS):
                address = _parse_node(hop)
                if address is None:
                    break
                client = address
                if not self._has(address):
                    break
        return None if client is None else str(client)

    def trusts(self, remote_address: object) -> bool:
        """Tell whether a socket's peer is one of these proxies. Never raises."""
        peer = _peer(remote_address)
        if peer is None:
            return self._trusts_unix and (remote_address is None or isinstance(remote_address, (str, bytes)))
        return self._has(peer)

    def _has(self, address: _Address) -> bool:
        return any(address in network for network in self._networks)

    def _hops(self, headers: Headers) -> Iterator[str]:
        """Yield what proxies wrote of whom they were called by, the last of them first."""
        split = _forwarded_for if self._header == "Forwarded" else _listed
        for line in reversed(headers.get_all(self._header)):
            yield from reversed(split(line))


def network_key(ip: str) -> str:
    """Return what is limited as one: an IPv4 address itself, of an IPv6 address its /64, which one user may have whole.

    Raises ValueError when `ip` is no address.
    """
    address = _unmapped(ip_address(ip.partition("%")[0]))
    return str(address if isinstance(address, IPv4Address) else IPv6Network((address, 64), strict=False))


def _network(entry: object) -> _Network:
    try:
        network = ip_network(entry) if isinstance(entry, str) and "%" not in entry else None
    except ValueError:
        network = None
    # Mapped addresses are compared as IPv4, so such a network would never match.
    if network is None or _unmapped(network.network_address) is not network.network_address:
        raise ValueError(
            f"networks has {entry!r}; write an address, a network such as '10.0.0.0/8' with no bits set behind its "
            "prefix and IPv4 as IPv4, or 'unix'"
        )
    return network


def _unmapped(address: _Address) -> _Address:
    """Return the IPv4 address that an IPv6 address stands for (RFC 4291, section 2.5.5.2), or `address` itself."""
    return (isinstance(address, IPv6Address) and address.ipv4_mapped) or address


def _parse_address(text: str) -> _Address | None:
    try:
        return _unmapped(ip_address(text))
    except ValueError:
        return None


def _peer(remote_address: object) -> _Address | None:
    host = remote_address[0] if isinstance(remote_address, tuple) and remote_address else None
    # A zone (RFC 4007) says by which of our interfaces, not who.
    return _parse_address(host.partition("%")[0]) if isinstance(host, str) else None


def _parse_node(text: str) -> _Address | None:
    """Return the address of a node with or without a port (RFC 7239, section 6), None where there is none."""
    match = _NODE.fullmatch(text.strip(" \t"))
    return None if match is None else _parse_address(next(filter(None, match.groups())))


def _listed(line: str) -> list[str]:
    return line.split(",")


def _forwarded_for(line: str) -> list[str]:
    """Return the `for` of each element of Forwarded (RFC 7239, section 4), "" where there is not exactly one.

    What is malformed may be the client's own, so the elements behind it still count.
    """
    elements: list[list[str]] = [[]]
    for step in _STEP.finditer(line):
        name, token, quoted, end, malformed_end = step.groups()
        if malformed_end is not None:
            elements[-1] = []
        elif name is not None and name.lower() == "for":
            elements[-1].append(token if quoted is None else re.sub(r"\\(.)", r"\1", quoted))
        if "," in (end, malformed_end):
            elements.append([])
    return [found[0] if len(found) == 1 else "" for found in elements]
