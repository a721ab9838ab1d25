"""Who a connection belongs to, and why that could not be found out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from sys import float_info
from typing import Any, NoReturn

from wsconnkit.protocol.errors import WsconnkitError


class AuthFailure(Enum):
    """What is wrong with a token, as far as its sender is told."""

    MISSING = "missing"
    INVALID = "invalid"
    EXPIRED = "expired"


class AuthenticationError(WsconnkitError):
    """The sender of a token has not proved who they are; for authenticators to raise.

    detail: more for the log, without anything from the token. `str()` leaves it out.
    """

    def __init__(self, failure: AuthFailure, detail: str = "") -> None:
        super().__init__(failure, detail)
        self.failure = failure
        self.detail = detail

    def __str__(self) -> str:
        return f"the token is {self.failure.value}"


class KeysNeeded(WsconnkitError):
    """The keys that verify tokens must be fetched before there is a verdict."""


class KeysUnavailable(WsconnkitError):
    """The keys that verify tokens could not be fetched, and there are none from before."""


class TooManyFailures(WsconnkitError):
    """The token was not looked at, because its sender's address has brought too many that were invalid.

    retry_after: seconds after which one is looked at again.
    """

    def __init__(self, retry_after: float) -> None:
        super().__init__(retry_after)
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"too many tokens from this address were invalid; the next is looked at in {self.retry_after:.3g} s"


class _Claims(dict[str, Any]):
    """A dictionary that is only read, and like any other can be copied, pickled and made JSON of."""

    def _refuse(self, *args: object, **kwargs: object) -> NoReturn:
        raise TypeError("the claims of a token are read-only")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[object, ...]:
        return _Claims, (dict(self),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who has proved to be on the other side. Raises ValueError for values other than those below.

    subject: the user's id; not empty.
    tier: what the user may use, or None.
    claims: everything the token says, as a read-only copy; not in the repr.
    expires_at: seconds since the epoch, or None for never.
    leeway: seconds that the clocks may differ; 0 or more.
    """

    subject: str
    tier: str | None = None
    claims: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)
    expires_at: float | None = None
    leeway: float = 0.0

    def __post_init__(self) -> None:
        for name, is_good, wanted in (
            ("subject", _is_text(self.subject) and self.subject, "a string that is not empty"),
            ("tier", self.tier is None or _is_text(self.tier), "a string, or None"),
            ("expires_at", self.expires_at is None or _is_finite(self.expires_at), "seconds since the epoch, or None"),
            ("leeway", _is_finite(self.leeway) and self.leeway >= 0, "a finite number of seconds, 0 or more"),
        ):
            if not is_good:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be {wanted}")
        object.__setattr__(self, "claims", _Claims(self.claims))

    @property
    def valid_until(self) -> float | None:
        """When the leeway after `expires_at` is over, in seconds since the epoch, or None."""
        return None if self.expires_at is None else self.expires_at + self.leeway


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and abs(value) <= float_info.max
