"""What verifies tokens, with keys that may have to be fetched first."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, runtime_checkable

from wsconnkit.protocol.http import Response
from wsconnkit.protocol.upgrade import UpgradeRequest
from wsconnkit.service.principal import Principal

Authenticate = Callable[["str | None", UpgradeRequest], Awaitable["Principal | Response"]]
"""Called with the token and the request; returns whose it is, or a response that refuses it.

May raise AuthenticationError. A token that came in a message is given with the request that opened the connection.
"""


@runtime_checkable
class TokenVerifier(Protocol):
    """Verifies tokens without I/O, but for `fetch`; `JWTAuthenticator` is one."""

    def verify(self, token: str, now: float, *, waited: bool = False) -> Principal:
        """Return whose `token` is.

        now: seconds on a clock that is never set back, and goes on while the system is suspended: the age of keys.
        waited: keys were fetched just now, or cannot be.
        Raises AuthenticationError, KeysNeeded when keys must be fetched first (only where not `waited`), and
        KeysUnavailable.
        """

    def begin_fetch(self, now: float) -> bool:
        """Tell whether `fetch` may be called now; then it must be, once, off the event loop."""

    def fetch(self) -> None:
        """Fetch the keys; blocks, and raises nothing for what the network does."""
