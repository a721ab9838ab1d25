"""How many handshakes may be under way at once, TLS included: a new one goes in, and the oldest must go."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any, Generic, Literal, NamedTuple, TypeAlias, TypeVar

from wsconnkit.service.admission import AdmissionConfig

T = TypeVar("T", bound=Hashable)

Cap: TypeAlias = Literal["max_handshakes", "max_handshakes_per_ip"]


class Surplus(NamedTuple):
    """What must end, by which cap, and the address that it is from."""

    handshake: Any
    cap: Cap
    ip: str | None


class Handshakes(Generic[T]):
    """Those under way, in the order in which they came; each call costs the same, however many there are."""

    def __init__(self, config: AdmissionConfig) -> None:
        self._max = config.max_handshakes
        self._max_per_ip = config.max_handshakes_per_ip
        self._all: OrderedDict[T, str | None] = OrderedDict()
        self._by_ip: dict[str, OrderedDict[T, None]] = {}
        self._crowded: dict[str, None] = {}
        """Addresses that have more than they may."""

    def __len__(self) -> int:
        return len(self._all)

    def add(self, handshake: T, ip: str | None) -> None:
        """A handshake has begun; from nobody in particular without `ip`, which is as `network_key` makes it."""
        self._all[handshake] = ip
        if ip is not None and self._max_per_ip is not None:
            same = self._by_ip.setdefault(ip, OrderedDict())
            same[handshake] = None
            if len(same) > self._max_per_ip:
                self._crowded[ip] = None

    def discard(self, handshake: T) -> None:
        """A handshake is over; safe to repeat."""
        ip = self._all.pop(handshake, None)
        if ip is not None and self._max_per_ip is not None:
            same = self._by_ip[ip]
            del same[handshake]
            if len(same) <= self._max_per_ip:
                self._crowded.pop(ip, None)
            if not same:
                del self._by_ip[ip]

    def surplus(self) -> Surplus | None:
        """Return the handshake that must end next, None while all caps are kept."""
        for ip in self._crowded:
            return Surplus(next(iter(self._by_ip[ip])), "max_handshakes_per_ip", ip)
        if self._max is not None and len(self._all) > self._max:
            handshake, oldest_ip = next(iter(self._all.items()))
            return Surplus(handshake, "max_handshakes", oldest_ip)
        return None
