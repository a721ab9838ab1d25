"""What verifies tokens, with keys that may have to be fetched first."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from wsconnkit.service.principal import Principal


@runtime_checkable
class TokenVerifier(Protocol):
    """Verifies tokens without I/O, but for `fetch`; `JWTAuthenticator` is one."""

    def verify(self, token: str, now: float, *, waited: bool = False) -> Principal:
        """Return whose `token` is.

        waited: keys were fetched just now, or cannot be.
        Raises AuthenticationError, KeysNeeded when keys must be fetched first (only where not `waited`), and
        KeysUnavailable.
        """

    def begin_fetch(self, now: float) -> bool:
        """Tell whether `fetch` may be called now; then it must be, once, off the event loop."""

    def fetch(self) -> None:
        """Fetch the keys; blocks, and raises nothing for what the network does."""
