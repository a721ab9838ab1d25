"""Finds out on trio whose a token is, and fetches keys off the event loop for those who need them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from wsconnkit.protocol.http import Response
from wsconnkit.protocol.upgrade import UpgradeRequest
from wsconnkit.service.keys import MAX_WAIT
from wsconnkit.service.log import log_server_error
from wsconnkit.service.principal import AuthenticationError, AuthFailure, KeysNeeded, Principal
from wsconnkit.service.verifier import TokenVerifier
from wsconnkit.trio.transport import interruptible

Authenticate = Callable[["str | None", UpgradeRequest], Awaitable["Principal | Response"]]
"""Called with the token and the request; returns whose it is, or a response that refuses it.

May raise AuthenticationError. A token that came in a message is given with the request that opened the connection.
"""


class Authentication:
    """Asks a `TokenVerifier` such as `JWTAuthenticator`, or a function of the application.

    nursery: where keys are fetched.
    """

    def __init__(self, authenticate: TokenVerifier | Authenticate, nursery: trio.Nursery) -> None:
        self._authenticate = authenticate
        self._nursery = nursery
        self._life = trio.CancelScope()
        self._fetching: trio.Event | None = None

    async def __call__(self, token: str | None, request: UpgradeRequest) -> Principal | Response:
        """Return whose `token` is; raises AuthenticationError, KeysUnavailable, and what the application raises."""
        if isinstance(self._authenticate, TokenVerifier):
            if token is None:
                raise AuthenticationError(AuthFailure.MISSING)
            return await self._verify(self._authenticate, token)
        answer: object = await interruptible(self._authenticate, token, request)
        if not isinstance(answer, (Principal, Response)):
            raise TypeError(f"authenticate returned {type(answer).__name__}; it must be a Principal or a Response")
        return answer

    def stop(self) -> None:
        """Wait for no more keys."""
        self._life.cancel()

    async def _verify(self, verifier: TokenVerifier, token: str) -> Principal:
        try:
            return verifier.verify(token, trio.current_time())
        except KeysNeeded:
            pass
        if self._fetching is None and verifier.begin_fetch(trio.current_time()):
            self._fetching = trio.Event()
            self._nursery.start_soon(self._fetch, verifier, self._fetching)
        if self._fetching is not None:
            # One for all who need them, whoever of them gives up.
            with trio.move_on_after(MAX_WAIT):
                await self._fetching.wait()
        return verifier.verify(token, trio.current_time(), waited=True)

    @trio.lowlevel.enable_ki_protection
    async def _fetch(self, verifier: TokenVerifier, fetched: trio.Event) -> None:
        try:
            with self._life:
                await trio.to_thread.run_sync(verifier.fetch, abandon_on_cancel=True)
        except Exception as error:
            log_server_error("auth_error", error)
        finally:
            self._fetching = None
            fetched.set()
