"""Finds out whose a token is, and fetches keys off the event loop for those who need them."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from wsconnkit.managed.runtime import Event, Runtime, Task, TaskCancelled, as_error
from wsconnkit.protocol.http import Response
from wsconnkit.protocol.upgrade import UpgradeRequest
from wsconnkit.service.attempts import Attempts
from wsconnkit.service.keys import MAX_WAIT
from wsconnkit.service.log import log_server_error
from wsconnkit.service.principal import AuthenticationError, AuthFailure, KeysNeeded, Principal
from wsconnkit.service.verifier import Authenticate, TokenVerifier

_SUSPENDED = 1.0
"""Seconds by which the clock on the wall must go further than the loop's to mean that the system was suspended."""


class _Age:
    """The loop's clock, but one that goes on while the system is suspended."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._ahead = runtime.wall_now() - runtime.now()
        self._suspended = 0.0

    def now(self) -> float:
        """Return the time in seconds; never less than before."""
        now = self._runtime.now()
        ahead = self._runtime.wall_now() - now
        if ahead > self._ahead + _SUSPENDED:
            self._suspended += ahead - self._ahead
            self._ahead = ahead
        self._ahead = min(ahead, self._ahead)
        return now + self._suspended


class Authentication:
    """Asks a `TokenVerifier` such as `JWTAuthenticator`, or a function of the application, but not for guessers.

    attempts: whose tokens are looked at.
    """

    def __init__(self, runtime: Runtime, authenticate: TokenVerifier | Authenticate, attempts: Attempts) -> None:
        self._runtime = runtime
        self._authenticate = authenticate
        self._attempts = attempts
        self._age = _Age(runtime)  # of the keys
        self._fetching: Task | None = None
        self._fetched: Event = runtime.event()

    async def __call__(self, token: str | None, request: UpgradeRequest, ip: str | None) -> Principal | Response:
        """Return whose `token` is, which came from `ip`, as `network_key` makes it.

        Raises AuthenticationError, KeysUnavailable, TooManyFailures, and what the application raises.
        """
        try:
            return await self._whose(token, request, ip)
        except AuthenticationError as error:
            self._attempts.on_failure(ip, error, self._runtime.now())
            raise

    async def _whose(self, token: str | None, request: UpgradeRequest, ip: str | None) -> Principal | Response:
        # Nothing is awaited between this and the verdict of a verifier, so that many at once are no way around it.
        self._attempts.check(ip, self._runtime.now())
        if isinstance(self._authenticate, TokenVerifier):
            if token is None:
                raise AuthenticationError(AuthFailure.MISSING)
            return await self._verify(self._authenticate, token, ip)
        answer: object = await self._runtime.call(self._authenticate, token, request)
        if not isinstance(answer, (Principal, Response)):
            raise TypeError(f"authenticate returned {type(answer).__name__}; it must be a Principal or a Response")
        if isinstance(answer, Response) and answer.status == HTTPStatus.UNAUTHORIZED and token is not None:
            self._attempts.on_failure(ip, AuthenticationError(AuthFailure.INVALID), self._runtime.now())
        return answer

    async def within(
        self, seconds: float, token: str | None, request: UpgradeRequest, ip: str | None
    ) -> Principal | Response:
        """Do the same, but raise TimeoutError after `seconds`; what takes longer is cancelled, and not waited for."""
        outcome: Any = None
        ended = self._runtime.event()

        def on_end(result: Any) -> None:
            nonlocal outcome
            outcome = result
            ended.set()

        verifying = self._runtime.start(self, token, request, ip, on_end=on_end)
        try:
            if not await self._runtime.wait(ended, seconds):
                raise TimeoutError(f"the token was not verified within {seconds:g} s")
        finally:
            verifying.cancel()
        if isinstance(outcome, BaseException):
            raise as_error(outcome)
        return outcome  # type: ignore[no-any-return] # what `__call__` returns

    def stop(self) -> None:
        """Wait for no more keys."""
        if self._fetching is not None:
            self._fetching.cancel()

    async def _verify(self, verifier: TokenVerifier, token: str, ip: str | None) -> Principal:
        try:
            return verifier.verify(token, self._age.now())
        except KeysNeeded:
            pass
        if self._fetching is None and verifier.begin_fetch(self._age.now()):
            self._fetched = self._runtime.event()
            self._fetching = self._runtime.start(self._runtime.in_thread, verifier.fetch, on_end=self._on_fetched)
        if self._fetching is not None:
            # One for all who need them, whoever of them gives up.
            await self._runtime.wait(self._fetched, MAX_WAIT)
            self._attempts.check(ip, self._runtime.now())
        return verifier.verify(token, self._age.now(), waited=True)

    def _on_fetched(self, outcome: Any) -> None:
        self._fetching = None
        self._fetched.set()
        if isinstance(outcome, BaseException) and not isinstance(outcome, TaskCancelled):
            log_server_error("auth_error", outcome)
