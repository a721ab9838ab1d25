from __future__ import annotations

from wsconnkit.service.auth import JWTAuthenticator
from wsconnkit.service.principal import KeysNeeded, KeysUnavailable, Principal
from wsconnkit.service.verifier import TokenVerifier


class Badges:
    """Verifies tokens in a way of its own."""

    def __init__(self) -> None:
        self._names: dict[str, str] | None = None

    def verify(self, token: str, now: float, *, waited: bool = False) -> Principal:
        if self._names is None:
            raise KeysUnavailable if waited else KeysNeeded
        return Principal(subject=self._names[token])

    def begin_fetch(self, now: float) -> bool:
        return self._names is None

    def fetch(self) -> None:
        self._names = {"1815": "ada"}


def test_the_one_for_json_web_tokens_is_a_verifier() -> None:
    authenticator: TokenVerifier = JWTAuthenticator(secret="s" * 32)
    assert isinstance(authenticator, TokenVerifier)


def test_what_has_its_methods_is_a_verifier_without_being_told() -> None:
    badges: TokenVerifier = Badges()
    assert isinstance(badges, TokenVerifier)
    assert badges.begin_fetch(0.0)
    badges.fetch()
    assert badges.verify("1815", 0.0) == Principal(subject="ada")


def test_a_function_is_no_verifier() -> None:
    async def authenticate(token: str | None, request: object) -> Principal:
        return Principal(subject=f"{token} {request}")

    assert not isinstance(authenticate, TokenVerifier)
    assert not isinstance(Badges().verify, TokenVerifier)


def test_what_can_only_verify_is_no_verifier() -> None:
    class Half:
        def verify(self, token: str, now: float, *, waited: bool = False) -> Principal:
            return Principal(subject=token)

    assert not isinstance(Half(), TokenVerifier)
