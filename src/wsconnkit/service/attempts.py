"""Which addresses have brought so many bad tokens that no more of theirs are looked at: guessing must cost time."""

from __future__ import annotations

from wsconnkit.machines.ratelimit import TokenBuckets
from wsconnkit.service.admission import AdmissionConfig
from wsconnkit.service.log import Seldom, log_auth_limited
from wsconnkit.service.principal import AuthenticationError, AuthFailure, TooManyFailures
from wsconnkit.service.serverstats import ServerStats


class Attempts:
    """Holds addresses to `AdmissionConfig.failed_auth`.

    Only they are: whoever sends tokens with a user's name, or with that of a key, could lock out others. Addresses are
    given as `network_key` makes them; one that is None is not limited.
    """

    def __init__(self, config: AdmissionConfig, stats: ServerStats) -> None:
        self._limit = config.failed_auth
        self._stats = stats
        # Apart from those of upgrades, which a flood from everywhere would make us forget.
        self._failures = TokenBuckets(config.max_keys)
        self._seldom = Seldom()

    def check(self, ip: str | None, now: float) -> None:
        """Raise TooManyFailures, and count that, when a token from `ip` is not to be looked at."""
        if ip is None or self._limit is None:
            return
        wait = self._failures.wait(ip, self._limit, now)
        if not wait:
            return
        self._stats.on_limited("auth")
        if count := self._seldom.count(now):
            log_auth_limited(count, ip, wait)
        raise TooManyFailures(wait)

    def on_failure(self, ip: str | None, error: AuthenticationError, now: float) -> None:
        """Count a token from `ip` that was invalid; one that has expired was good, and one that is missing no guess."""
        if ip is not None and self._limit is not None and error.failure is AuthFailure.INVALID:
            self._failures.take(ip, self._limit, now)
