"""Finds out on asyncio whose a token is, and fetches keys off the event loop for those who need them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from wsconnkit.protocol.http import Response
from wsconnkit.protocol.upgrade import UpgradeRequest
from wsconnkit.service.keys import MAX_WAIT
from wsconnkit.service.log import log_server_error
from wsconnkit.service.principal import AuthenticationError, AuthFailure, KeysNeeded, Principal
from wsconnkit.service.verifier import TokenVerifier

Authenticate = Callable[["str | None", UpgradeRequest], Awaitable["Principal | Response"]]
"""Called with the token and the request; returns whose it is, or a response that refuses it.

May raise AuthenticationError. A token that came in a message is given with the request that opened the connection.
"""


class Authentication:
    """Asks a `TokenVerifier` such as `JWTAuthenticator`, or a function of the application."""

    def __init__(self, authenticate: TokenVerifier | Authenticate) -> None:
        self._authenticate = authenticate
        self._loop = asyncio.get_running_loop()
        self._fetching: asyncio.Task[None] | None = None

    async def __call__(self, token: str | None, request: UpgradeRequest) -> Principal | Response:
        """Return whose `token` is; raises AuthenticationError, KeysUnavailable, and what the application raises."""
        if isinstance(self._authenticate, TokenVerifier):
            if token is None:
                raise AuthenticationError(AuthFailure.MISSING)
            return await self._verify(self._authenticate, token)
        answer: object = await self._authenticate(token, request)
        if not isinstance(answer, (Principal, Response)):
            raise TypeError(f"authenticate returned {type(answer).__name__}; it must be a Principal or a Response")
        return answer

    def stop(self) -> list[asyncio.Task[None]]:
        """Wait for no more keys; return the tasks that are about to end."""
        if self._fetching is None:
            return []
        self._fetching.cancel()
        return [self._fetching]

    async def _verify(self, verifier: TokenVerifier, token: str) -> Principal:
        try:
            return verifier.verify(token, self._loop.time())
        except KeysNeeded:
            pass
        if self._fetching is None and verifier.begin_fetch(self._loop.time()):
            self._fetching = self._loop.create_task(self._fetch(verifier))
        if self._fetching is not None:
            # One for all who need them, whoever of them gives up.
            await asyncio.wait({self._fetching}, timeout=MAX_WAIT)
        return verifier.verify(token, self._loop.time(), waited=True)

    async def _fetch(self, verifier: TokenVerifier) -> None:
        try:
            await asyncio.to_thread(verifier.fetch)
        except Exception as error:
            log_server_error("auth_error", error)
        finally:
            self._fetching = None
