"""Who a connection belongs to: tokens of real keys, wherever they are sent, over real sockets."""

from __future__ import annotations

import asyncio
import base64
import hmac
import logging
import time
from collections.abc import Generator
from typing import Any
from urllib.parse import quote

import aiohttp
import jwt
import pytest
import websockets.asyncio.client
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from websockets.typing import Subprotocol

from wsconnkit.asyncio import serve
from wsconnkit.service.auth import JWTAuthenticator
from wsconnkit.service.principal import Principal

from .issuer import RSA_KEY, SECRET, Issuer, by_secret, claims, hs256, new_key, running_issuer
from .peers import Arrivals, Got, RawClient, Run, bearer, info, opened, refused, uri

GOOD = {"aud": "app", "iss": "https://issuer.example.org/"}


@pytest.fixture
def issuer() -> Generator[Issuer, None, None]:
    with running_issuer() as issuer:
        yield issuer


def authenticator(kind: str, of: Issuer, /, **options: Any) -> JWTAuthenticator:
    return by_secret(**options) if kind == "HS256" else of.authenticator(**options)


def token_of_kind(kind: str, issuer: Issuer, **more: Any) -> str:
    return hs256(**more) if kind == "HS256" else issuer.token(kind, **more)


def assert_unauthorized(got: Got, failure: str) -> None:
    assert (got.status, got.error) == (401, f"{failure} token")
    # RFC 6750, section 3.1
    assert got.headers.get("WWW-Authenticate") == ("Bearer" if failure == "missing" else 'Bearer error="invalid_token"')


@pytest.mark.parametrize("kind", ["HS256", "RS256", "ES256"])
def test_a_connection_belongs_to_whom_its_token_was_issued(run: Run, issuer: Issuer, kind: str) -> None:
    expires_at = int(time.time()) + 600
    more = {"exp": expires_at, "tier": "gold", "org": 7, "aud": "app"}

    async def main() -> None:
        arrivals = Arrivals()
        authenticate = authenticator(kind, issuer, audience="app", leeway=3.0)
        async with serve(arrivals, "127.0.0.1", 0, authenticate=authenticate) as server:
            async with await opened(server, token=token_of_kind(kind, issuer, **more)) as client:
                ws = await arrivals.connections.get()
                assert ws.principal == Principal(
                    subject="alice",
                    tier="gold",
                    claims={"sub": "alice", **more},
                    expires_at=expires_at,
                    leeway=3.0,
                )
                assert server.connections.by_user("alice") == (ws,)
                assert client.principal is None
            await ws.wait_closed()
            assert server.connections.by_user("alice") == ()

    run(main())


def test_without_authentication_there_is_no_principal(run: Run) -> None:
    async def main() -> None:
        arrivals = Arrivals()
        async with serve(arrivals, "127.0.0.1", 0) as server, await opened(server, token=hs256()):
            assert (await arrivals.connections.get()).principal is None

    run(main())


# Where a token is sent.


@pytest.mark.parametrize("name", ["Authorization", "authorization", "AUTHORIZATION"])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_token_is_found_in_the_header_in_any_case(run: Run, name: str, scheme: str) -> None:
    async def main() -> None:
        arrivals = Arrivals()
        async with serve(arrivals, "127.0.0.1", 0, authenticate=by_secret()) as server:
            async with RawClient.open(server, headers=[(name, f"{scheme} {hs256()}")]):
                principal = (await arrivals.connections.get()).principal
                assert principal is not None
                assert principal.subject == "alice"

    run(main())


def test_a_token_is_found_in_the_query_however_it_is_encoded(run: Run) -> None:
    async def main() -> None:
        arrivals = Arrivals()
        token = hs256()
        encoded = "".join(f"%{byte:02x}" for byte in token.encode())
        async with serve(arrivals, "127.0.0.1", 0, path="/ws", authenticate=by_secret()) as server:
            for query in (f"token={token}", f"room=1&token={quote(token)}&x", f"%74oken={encoded}"):
                async with await opened(server, f"/ws?{query}"):
                    assert (await arrivals.connections.get()).principal is not None
            assert_unauthorized(await refused(server, f"/ws?tokens={token}"), "missing")
            assert_unauthorized(await refused(server, "/ws?token="), "missing")

    run(main())


@pytest.mark.parametrize(
    ("offered", "spoken", "answer"),
    [
        (["bearer", "TOKEN"], [], "bearer"),
        (["chat", "bearer", "TOKEN"], [], "bearer"),
        (["bearer", "TOKEN", "chat"], ["chat"], "chat"),
        (["v1", "v2", "bearer", "TOKEN"], ["v2", "v1"], "v2"),
    ],
)
@pytest.mark.parametrize("library", ["wsconnkit", "websockets", "aiohttp"])
def test_a_token_in_the_subprotocols_is_never_the_answer(
    run: Run, library: str, offered: list[str], spoken: list[str], answer: str
) -> None:
    async def main() -> None:
        arrivals = Arrivals()
        names = [hs256() if name == "TOKEN" else name for name in offered]
        async with serve(arrivals, "127.0.0.1", 0, authenticate=by_secret(), subprotocols=spoken) as server:
            if library == "wsconnkit":
                async with await opened(server, subprotocols=names) as client:
                    assert client.subprotocol == answer
            elif library == "websockets":
                protocols = [Subprotocol(name) for name in names]
                async with websockets.asyncio.client.connect(uri(server), subprotocols=protocols, proxy=None) as peer:
                    assert peer.subprotocol == answer
            else:
                async with aiohttp.ClientSession() as session:
                    async with session.ws_connect(uri(server, scheme="http"), protocols=names) as other:
                        assert other.protocol == answer
            ws = await arrivals.connections.get()
            assert (ws.subprotocol, ws.principal is not None) == (answer, True)

    run(main())


def test_a_bearer_without_a_token_behind_it_is_no_token(run: Run) -> None:
    async def main() -> None:
        async with serve(Arrivals(), "127.0.0.1", 0, authenticate=by_secret()) as server:
            assert_unauthorized(await refused(server, subprotocols=["chat", "bearer"]), "missing")
            assert_unauthorized(await refused(server, subprotocols=["bearer", "chat"]), "invalid")

    run(main())


def test_other_libraries_send_their_token_in_a_header(run: Run) -> None:
    async def main() -> None:
        arrivals = Arrivals()
        headers = bearer(hs256())
        async with serve(arrivals, "127.0.0.1", 0, authenticate=by_secret()) as server:
            async with websockets.asyncio.client.connect(uri(server), additional_headers=headers, proxy=None):
                assert (await arrivals.connections.get()).principal is not None
            async with aiohttp.ClientSession() as session:
                async with session.ws_connect(uri(server, scheme="http"), headers=headers):
                    assert (await arrivals.connections.get()).principal is not None
                with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                    await session.ws_connect(uri(server, scheme="http"))
                assert caught.value.status == 401

    run(main())


def test_a_client_gives_one_kind_of_credentials(run: Run) -> None:
    async def main() -> None:
        arrivals = Arrivals()
        async with serve(arrivals, "127.0.0.1", 0, authenticate=by_secret()) as server:
            async with await opened(server, token=hs256(), headers={"X-Mine": "yes"}):
                request = (await arrivals.connections.get()).upgrade_request
                assert request.headers.get("X-Mine") == "yes"
            with pytest.raises(ValueError, match="other credentials"):
                await opened(server, token=hs256(), headers={"authorization": "Basic eDp5"})

    run(main())


# Tokens that are no good.


def unsigned() -> str:
    return jwt.encode(claims(), "", "none")


def signed_with_a_public_key() -> str:
    """Return what a server would accept that took its public key for a shared secret."""
    pem = RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signed = jwt.encode(claims(), SECRET, "HS256", {"kid": "RS256"}).rpartition(".")[0]
    signature = hmac.new(pem, signed.encode(), "sha256").digest()
    return f"{signed}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def tampered_with() -> str:
    head, _, signature = hs256().split(".")
    return f"{head}.{hs256(sub='mallory').split('.')[1]}.{signature}"


@pytest.mark.parametrize(
    ("wrong", "failure"),
    [
        ({"exp": time.time() - 60}, "expired"),
        ({"exp": None}, "invalid"),
        ({"sub": None}, "invalid"),
        ({"nbf": time.time() + 3000}, "invalid"),
        ({"aud": "another"}, "invalid"),
        ({"aud": None}, "invalid"),
        ({"iss": "https://elsewhere.example.org/"}, "invalid"),
        ({"iss": None}, "invalid"),
    ],
)
@pytest.mark.parametrize("kind", ["HS256", "ES256"])
def test_a_token_with_claims_that_are_no_good_is_refused(
    run: Run, issuer: Issuer, kind: str, wrong: dict[str, Any], failure: str
) -> None:
    async def main() -> None:
        arrivals = Arrivals()
        authenticate = authenticator(kind, issuer, audience="app", issuer=GOOD["iss"])
        async with serve(arrivals, "127.0.0.1", 0, authenticate=authenticate) as server:
            bad, good = (token_of_kind(kind, issuer, **{**GOOD, **more}) for more in (wrong, {}))
            assert_unauthorized(await refused(server, token=bad), failure)
            await (await opened(server, token=good)).close()
            assert arrivals.connections.qsize() == 1

    run(main())


@pytest.mark.parametrize("kind", ["HS256", "RS256"])
def test_a_token_that_was_not_signed_with_the_key_is_refused(run: Run, issuer: Issuer, kind: str) -> None:
    async def main() -> None:
        async with serve(Arrivals(), "127.0.0.1", 0, authenticate=authenticator(kind, issuer)) as server:
            of_another_secret = jwt.encode(claims(), "another secret of more than 32 bytes", "HS256")
            of_another_key = issuer.token("RS256", rsa.generate_private_key(65537, 2048))
            forged = (unsigned(), signed_with_a_public_key(), tampered_with(), of_another_secret, of_another_key)
            for token in (*forged, issuer.token("ES256", new_key()), "a.b.c", "garbage", "ü"):
                assert_unauthorized(await refused(server, f"/?token={quote(token)}"), "invalid")
            assert_unauthorized(await refused(server), "missing")

    run(main())


def test_a_token_is_never_told_nor_logged(run: Run, issuer: Issuer, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        arrivals = Arrivals()
        bodies = []
        async with serve(arrivals, "127.0.0.1", 0, authenticate=by_secret()) as server:
            for token in (hs256(), hs256(exp=1), unsigned(), issuer.token("ES256")):
                for path, kwargs in (
                    (f"/?token={token}", {}),
                    ("/", {"token": token}),
                    ("/", {"subprotocols": ["bearer", token]}),
                ):
                    tokens.append(token)
                    if token == tokens[0]:
                        ws = await opened(server, path, **kwargs)
                        bodies.append(repr(await arrivals.connections.get()) + repr(ws.response_headers.get("x")))
                        bodies.append(repr(list(ws.response_headers)))
                        await ws.close()
                        assert info(ws).clean
                    else:
                        got = await refused(server, path, **kwargs)
                        bodies.append(f"{got.headers!r} {list(got.headers)} {got.body!r}")
        for text in (*bodies, caplog.text, *(str(record.__dict__) for record in caplog.records)):
            assert not any(token in text for token in tokens)

    tokens: list[str] = []
    with caplog.at_level(logging.DEBUG, "wsconnkit"):
        run(main())
    failed = [record.__dict__["reason"] for record in caplog.records if record.__dict__["type"] == "auth_failed"]
    assert failed == ["expired"] * 3 + ["invalid"] * 6


def test_upgrades_are_decided_at_the_same_time(run: Run, issuer: Issuer) -> None:
    async def main() -> None:
        arrivals = Arrivals()
        async with serve(arrivals, "127.0.0.1", 0, authenticate=by_secret()) as server:
            users = [f"user-{number}" for number in range(50)]
            clients = await asyncio.gather(*(opened(server, token=hs256(sub=user)) for user in users))
            for user, client in zip(users, clients, strict=True):
                (ws,) = server.connections.by_user(user)
                assert ws.remote_address == client.local_address
            await asyncio.gather(*(client.close() for client in clients))

    run(main())
