"""Which upgrades are admitted, and how many messages: caps on connections, rates of upgrades and messages."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from math import inf
from typing import Any, NamedTuple

from wsconnkit.machines.ratelimit import RateLimit, TokenBuckets
from wsconnkit.service.registry import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """How often one user, or one address, may do what; None for no limit. Raises ValueError for what is no RateLimit.

    upgrades: connections that are opened. messages: those that come in, on all its connections together.
    """

    upgrades: RateLimit | None = None
    messages: RateLimit | None = None

    def __post_init__(self) -> None:
        for name in ("upgrades", "messages"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, RateLimit):
                raise ValueError(f"{name} is {value!r}; it must be a RateLimit, or None for no limit")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionConfig:
    """What a server admits; None switches a limit off. Raises ValueError for a limit below 1.

    An address is an IPv4 address or the /64 of an IPv6 address.

    max_connections, max_connections_per_user, max_connections_per_ip: open at the same time.
    max_handshakes, max_handshakes_per_ip: clients that are not in yet, TLS included; one more ends the oldest.
    per_ip: rates of one address. per_user: rates of one user.
    tiers: rates of the users of a tier, in place of `per_user`; those without a tier, or with another, have `per_user`.
    failed_auth: invalid tokens from one address, after which no token from there is looked at until one comes back.
        Expired and missing ones do not count.
    max_violations: messages over the rate with which a connection is closed; None closes none for it.
    max_keys: users and addresses whose rate is remembered, for upgrades, messages and invalid tokens each.
    retry_after: seconds after which to try again that are told where no better are known.
    """

    max_connections: int | None = None
    max_connections_per_user: int | None = 3
    max_connections_per_ip: int | None = None
    max_handshakes: int | None = 1000
    max_handshakes_per_ip: int | None = 100
    per_ip: Rates = field(default_factory=Rates)
    per_user: Rates = field(default_factory=Rates)
    tiers: Mapping[str, Rates] = field(default_factory=dict, hash=False)
    failed_auth: RateLimit | None = field(default_factory=lambda: RateLimit(10))
    max_violations: int | None = None
    max_keys: int = 10_000
    retry_after: float = 10.0

    def __post_init__(self) -> None:
        for name in _CAPS:
            value = getattr(self, name)
            if value is not None and not _is_count(value):
                raise ValueError(f"{name} is {value!r}; it must be an integer of at least 1, or None for no limit")
        if not _is_count(self.max_keys):
            raise ValueError(f"max_keys is {self.max_keys!r}; it must be an integer of at least 1")
        seconds: object = self.retry_after
        if not (isinstance(seconds, (int, float)) and 0 < seconds < inf):
            raise ValueError(f"retry_after is {seconds!r}; it must be a finite number of seconds, more than 0")
        failed_auth: object = self.failed_auth
        if not (failed_auth is None or isinstance(failed_auth, RateLimit)):
            raise ValueError(f"failed_auth is {failed_auth!r}; it must be a RateLimit, or None for no limit")
        for name in ("per_ip", "per_user"):
            _check_rates(name, getattr(self, name))
        if not isinstance(self.tiers, Mapping):
            raise ValueError(f"tiers is {self.tiers!r}; it must be a mapping of names to Rates")
        for tier, rates in self.tiers.items():
            _check_rates(f"tiers[{tier!r}]", rates)
        object.__setattr__(self, "tiers", dict(self.tiers))


_CAPS = (
    "max_connections",
    "max_connections_per_user",
    "max_connections_per_ip",
    "max_handshakes",
    "max_handshakes_per_ip",
    "max_violations",
)


class Refused(Enum):
    """Why an upgrade was refused."""

    DRAINING = "draining"
    PATH = "path"
    HOST = "host"
    ORIGIN = "origin"
    MISSING = "missing"
    """There was no token."""
    INVALID = "invalid"
    """The token is no good."""
    EXPIRED = "expired"
    """The token was good."""
    FAILED_AUTH = "failed_auth"
    """The token was not looked at: too many others from there were no good."""
    UNAVAILABLE = "unavailable"
    """Nobody could tell whether the token is good."""
    CAPACITY = "capacity"
    """The server is full."""
    USER_CAP = "user_cap"
    IP_CAP = "ip_cap"
    RATE = "rate"
    REQUEST = "request"
    """It was malformed, or no upgrade."""
    APPLICATION = "application"


class Refusal(NamedTuple):
    """Why, and the seconds after which to try again."""

    reason: Refused
    retry_after: float


class Admission:
    """Holds the connections and the messages of all users and addresses to `config`.

    Addresses are given as `network_key` makes them; a user or an address that is None is not limited.
    """

    def __init__(self, config: AdmissionConfig) -> None:
        self.config = config
        # Apart, so that a flood of upgrades from everywhere does not make us forget who sends too much.
        self._upgrades = TokenBuckets(config.max_keys)
        self._messages = TokenBuckets(config.max_keys)

    def check(
        self, *, user: str | None, tier: str | None, ip: str | None, registry: Registry[Any], now: float
    ) -> Refusal | None:
        """Return why a connection is not admitted, or None and count an upgrade; then reserve its place at once."""
        config = self.config
        refused = None
        if _is_reached(registry.count(), config.max_connections):
            refused = Refused.CAPACITY
        elif user is not None and _is_reached(registry.count_user(user), config.max_connections_per_user):
            refused = Refused.USER_CAP
        elif ip is not None and _is_reached(registry.count_ip(ip), config.max_connections_per_ip):
            refused = Refused.IP_CAP
        if refused is not None:
            return Refusal(refused, config.retry_after)
        wanted = _wanted(user, self._of_user(tier).upgrades, ip, config.per_ip.upgrades)
        wait = self._upgrades.take_all(wanted, now)
        return Refusal(Refused.RATE, wait) if wait else None

    @property
    def limits_messages(self) -> bool:
        """Whether `on_message` may refuse any."""
        config = self.config
        return any(rates.messages for rates in (config.per_ip, config.per_user, *config.tiers.values()))

    def on_message(self, *, user: str | None, tier: str | None, ip: str | None, now: float) -> float:
        """Count a message and return 0.0, or count nothing and return the seconds until one is allowed."""
        wanted = _wanted(user, self._of_user(tier).messages, ip, self.config.per_ip.messages)
        return self._messages.take_all(wanted, now) if wanted else 0.0

    def _of_user(self, tier: str | None) -> Rates:
        per_user = self.config.per_user
        return per_user if tier is None else self.config.tiers.get(tier, per_user)


def _wanted(
    user: str | None, user_limit: RateLimit | None, ip: str | None, ip_limit: RateLimit | None
) -> list[tuple[Hashable, RateLimit]]:
    wanted: list[tuple[Hashable, RateLimit]] = []
    if ip is not None and ip_limit is not None:
        wanted.append((("ip", ip), ip_limit))
    if user is not None and user_limit is not None:
        wanted.append((("user", user), user_limit))
    return wanted


def _is_reached(count: int, cap: int | None) -> bool:
    return cap is not None and count >= cap


def _is_count(value: object) -> bool:
    return isinstance(value, int) and value >= 1


def _check_rates(name: str, value: object) -> None:
    if not isinstance(value, Rates):
        raise ValueError(f"{name} is {value!r}; it must be Rates")
