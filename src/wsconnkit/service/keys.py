"""Which of a set of fetched keys verifies a token, and when the set must be fetched anew."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

from wsconnkit.service.principal import KeysNeeded, KeysUnavailable

MAX_FETCHES, FETCH_WINDOW = 5, 60.0
"""So often, in so many seconds, keys are fetched at most: made-up key ids must not make us flood their server."""
MAX_WAIT = 5.0
"""Seconds that a token waits for a fetch; then the keys that are there decide."""


class VerificationKey(Protocol):
    """What must be known of a key."""

    @property
    def key_id(self) -> str | None:
        """The key's name within its set (RFC 7517, section 4.5)."""

    @property
    def algorithm_name(self) -> str:
        """The one algorithm that it is for."""


K = TypeVar("K", bound=VerificationKey)


class KeyCache(Generic[K]):
    """Keeps the set of keys that was fetched last, also when it is old and no newer one can be had.

    lifespan: seconds after which it is to be fetched again.
    `put` may be called in another thread than the rest.
    """

    def __init__(self, lifespan: float) -> None:
        self._lifespan = lifespan
        self._began_at: deque[float] = deque(maxlen=MAX_FETCHES)
        self._is_spent = False
        """A fetch that somebody needed could not begin."""
        # One attribute, so that other threads see the keys and their time change together.
        self._fetched: tuple[tuple[K, ...], float] | None = None

    def find(self, kid: str | None, algorithm: str, now: float, *, waited: bool = False) -> K | None:
        """Return the key for tokens that name `kid` and `algorithm`; without a `kid`, only where there is one choice.

        waited: there is nothing more to wait for: what is there must do, and None is returned where it does not.
        Raises KeysNeeded when that cannot be said before the keys are fetched, KeysUnavailable when they never were.
        """
        if self._fetched is None:
            if waited:
                raise KeysUnavailable("the keys that verify tokens could not be fetched so far")
            raise KeysNeeded("the keys that verify tokens must be fetched first")
        keys, fetched_at = self._fetched
        suitable = [key for key in keys if key.algorithm_name == algorithm and kid in (None, key.key_id)]
        key = suitable[0] if len(suitable) == 1 or (suitable and kid is not None) else None
        if not waited and (key is None or now - fetched_at >= self._lifespan):
            raise KeysNeeded("the keys that verify tokens must be fetched again")
        if key is None and self._is_spent:
            # It may be a new one: made-up key ids must not make us refuse it for good.
            raise KeysUnavailable("the keys that verify tokens cannot be fetched again so soon")
        return key

    def begin_fetch(self, now: float) -> bool:
        """Tell whether keys may be fetched now; if so, do it, and give them to `put` if that succeeds."""
        self._is_spent = len(self._began_at) == MAX_FETCHES and now - self._began_at[0] < FETCH_WINDOW
        if not self._is_spent:
            self._began_at.append(now)
        return not self._is_spent

    def put(self, keys: Iterable[K]) -> None:
        """Replace the set by the one that was fetched; it is as old as the last `begin_fetch`."""
        self._fetched = (tuple(keys), self._began_at[-1])
