from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import socket
import ssl
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import jwt
import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from wsconnkit.service.auth import JWTAuthenticator
from wsconnkit.service.principal import AuthenticationError, AuthFailure, KeysNeeded, KeysUnavailable, Principal

SETTINGS = settings(deadline=None)
SECRET = "a secret of at least 32 bytes, ok"
RSA_KEY, OTHER_RSA_KEY = (rsa.generate_private_key(65537, 2048) for _ in range(2))
WEAK_RSA_KEY = rsa.generate_private_key(65537, 1024)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()
PRIVATE: dict[str, Any] = {"rsa": RSA_KEY, "other": OTHER_RSA_KEY, "weak": WEAK_RSA_KEY, "ec": EC_KEY, "ed": ED_KEY}
ALGORITHM = {"rsa": "RS256", "other": "RS256", "weak": "RS256", "ec": "ES256", "ed": "EdDSA"}
URL = "https://issuer.example.org/jwks.json"

Claims = dict[str, Any]


def claims(**more: Any) -> Claims:
    """Return good claims, and `more`; what is None is left out."""
    all_claims = {"sub": "alice", "exp": int(time.time()) + 3600, **more}
    return {name: value for name, value in all_claims.items() if value is not None}


def hs256(payload: Claims | None = None, secret: str = SECRET, **options: Any) -> str:
    return jwt.encode(claims() if payload is None else payload, secret, **options)


def signed(name: str, kid: str | None = "", payload: Claims | None = None, **options: Any) -> str:
    """Return a token signed with the private key of that name, which is also its kid unless told otherwise."""
    headers = {} if kid is None else {"kid": kid or name}
    key = PRIVATE[name]
    return jwt.encode(claims() if payload is None else payload, key, ALGORITHM[name], headers, **options)


def by_hand(header: object, payload: object, secret: bytes = SECRET.encode()) -> str:
    """Return a token with a right HMAC-SHA256 over a header and a payload that need not make sense."""
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, payload)]
    segments = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    signature = hmac.new(secret, segments, hashlib.sha256).digest()
    return (segments + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


def jwk(name: str, kid: str | None = "", **more: Any) -> dict[str, Any]:
    """Return the public key of that name as it is published."""
    public: Any = PRIVATE[name].public_key()
    kinds: dict[str, Any] = {"ec": ECAlgorithm, "ed": OKPAlgorithm}
    key = kinds.get(name, RSAAlgorithm).to_jwk(public, as_dict=True)
    named = {} if kid is None else {"kid": kid or name}
    return {**key, "use": "sig", **named, **more}


class Issuer:
    """A server that publishes keys, or does not."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.keys: list[Any] = []
        self.body: bytes | None = None
        """In place of the keys."""
        self.status = 200
        self.reason = ""
        self.hangs_up = self.drips = False
        self.requests: list[tuple[str, str]] = []
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.requests.append((self.path, self.headers["User-Agent"]))
                if issuer.hangs_up:
                    return
                self.send_response(issuer.status, issuer.reason or None)
                if issuer.drips:
                    self.flush_headers()
                    with suppress(OSError):
                        while not threading.Event().wait(0.01):
                            self.wfile.write(b"X: y\r\n")
                    return
                self.end_headers()
                self.wfile.write(json.dumps({"keys": issuer.keys}).encode() if issuer.body is None else issuer.body)

            def log_message(self, *args: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        if context is not None:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"http://127.0.0.1:{self.server.server_port}/jwks.json"


@contextmanager
def running(issuer: Issuer) -> Iterator[Issuer]:
    thread = threading.Thread(target=issuer.server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield issuer
    finally:
        issuer.server.shutdown()
        thread.join()
        issuer.server.server_close()


@pytest.fixture
def issuer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Issuer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with running(Issuer()) as issuer:
        yield issuer


def published(server: Issuer, /, *keys: Any, **options: Any) -> JWTAuthenticator:
    """Return an authenticator for the keys of `server`, not fetched yet."""
    server.keys = list(keys)
    return JWTAuthenticator(jwks_url=server.url, **options)


def ask(auth: JWTAuthenticator, token: str, now: float = 0.0) -> Principal:
    """Verify as a server does, which fetches keys when they are needed."""
    try:
        return auth.verify(token, now)
    except KeysNeeded:
        if auth.begin_fetch(now):
            auth.fetch()
        return auth.verify(token, now, waited=True)


def refusal(auth: JWTAuthenticator, token: Any, now: float = 0.0) -> tuple[AuthFailure, str]:
    """Return why `token` is not accepted."""
    with pytest.raises(AuthenticationError) as caught:
        ask(auth, token, now)
    assert "jwt.exceptions" not in "".join(traceback.format_exception(caught.value))  # they quote from tokens
    return caught.value.failure, caught.value.detail


# Claims


def test_a_token_says_who_sent_it_and_until_when() -> None:
    expires_at = int(time.time()) + 60
    token = hs256({"sub": "alice", "exp": expires_at, "tier": "premium", "scope": "read"})
    principal = JWTAuthenticator(secret=SECRET).verify(token, 0.0)
    assert principal == Principal(
        subject="alice",
        tier="premium",
        claims={"sub": "alice", "exp": expires_at, "tier": "premium", "scope": "read"},
        expires_at=float(expires_at),
        leeway=10.0,
    )
    assert principal.valid_until == expires_at + 10.0


def test_a_secret_may_be_bytes() -> None:
    assert JWTAuthenticator(secret=SECRET.encode()).verify(hs256(), 0.0).subject == "alice"


def test_a_secret_that_is_no_utf8_works_as_the_environment_gives_it() -> None:
    secret = b"\xff\xfe" * 16
    auth = JWTAuthenticator(secret=secret.decode("utf-8", "surrogateescape"))
    assert auth.verify(jwt.encode(claims(), secret), 0.0).subject == "alice"


def test_a_secret_never_needs_keys() -> None:
    assert not JWTAuthenticator(secret=SECRET).begin_fetch(0.0)


@pytest.mark.parametrize(("ago", "accepted"), [(950, True), (1050, False)])
def test_an_expired_token_is_accepted_within_the_leeway(ago: int, accepted: bool) -> None:
    auth = JWTAuthenticator(secret=SECRET, leeway=1000)
    token = hs256(claims(exp=int(time.time()) - ago))
    if accepted:
        assert auth.verify(token, 0.0).subject == "alice"
    else:
        assert refusal(auth, token) == (AuthFailure.EXPIRED, "ExpiredSignatureError")


@pytest.mark.parametrize("claim", ["nbf", "iat"])
@pytest.mark.parametrize(("ahead", "accepted"), [(950, True), (1050, False)])
def test_a_token_from_the_future_is_accepted_within_the_leeway(claim: str, ahead: int, accepted: bool) -> None:
    auth = JWTAuthenticator(secret=SECRET, leeway=1000)
    token = hs256(claims(exp=int(time.time()) + 5000, **{claim: int(time.time()) + ahead}))
    if accepted:
        assert auth.verify(token, 0.0).subject == "alice"
    else:
        assert refusal(auth, token) == (AuthFailure.INVALID, "ImmatureSignatureError")


def test_an_expired_token_with_a_wrong_signature_is_invalid() -> None:
    token = hs256(claims(exp=1), secret="another secret of 32 bytes or more")
    assert refusal(JWTAuthenticator(secret=SECRET), token) == (AuthFailure.INVALID, "InvalidSignatureError")


def test_the_monotonic_clock_says_nothing_about_tokens() -> None:
    assert JWTAuthenticator(secret=SECRET).verify(hs256(), 1e12).subject == "alice"


@pytest.mark.parametrize("missing", [{"exp": None}, {"sub": None}, {"sub": ""}])
def test_expiry_and_subject_are_required(missing: Claims) -> None:
    token = hs256(claims(**missing))
    assert refusal(JWTAuthenticator(secret=SECRET), token) == (AuthFailure.INVALID, "MissingRequiredClaimError")


@pytest.mark.parametrize(
    ("audience", "aud", "accepted"),
    [
        ("us", "us", True),
        ("us", ["them", "us"], True),
        (["us", "we"], "we", True),
        (("us", "we"), ["we"], True),
        (None, None, True),
        ("us", "them", False),
        ("us", ["them", "usual"], False),
        ("us", "usual", False),
        ("us", None, False),
        ("us", {"us": 1}, False),
        ("us", ["us", 1], False),
        (None, "us", False),
    ],
)
def test_a_token_must_be_for_our_audience(audience: Any, aud: Any, accepted: bool) -> None:
    auth, token = JWTAuthenticator(secret=SECRET, audience=audience), hs256(claims(aud=aud))
    if accepted:
        assert auth.verify(token, 0.0).subject == "alice"
    else:
        assert refusal(auth, token)[0] is AuthFailure.INVALID


@pytest.mark.parametrize("iss", ["https://issuer.example.org", "issuer", "", None, 5, ["https://issuer.example.org/"]])
def test_a_token_must_be_of_our_issuer(iss: Any) -> None:
    auth = JWTAuthenticator(secret=SECRET, issuer="https://issuer.example.org/")
    header = {"alg": "HS256"}
    assert auth.verify(by_hand(header, claims(iss="https://issuer.example.org/")), 0.0).subject == "alice"
    assert refusal(auth, by_hand(header, claims(iss=iss)))[0] is AuthFailure.INVALID


@pytest.mark.parametrize(
    ("more", "tier"),
    [
        ({}, None),
        ({"tier": "free"}, "free"),
        ({"app_metadata": {"tier": "premium"}}, "premium"),
        ({"tier": "free", "app_metadata": {"tier": "premium"}}, "free"),
        ({"tier": 7, "app_metadata": {"tier": "premium"}}, "premium"),
        ({"tier": ["enterprise"]}, None),
        ({"app_metadata": "enterprise"}, None),
        ({"app_metadata": {"tier": 7}}, None),
        ({"user_metadata": {"tier": "enterprise"}}, None),
        ({"https://example.org/tier": "enterprise"}, None),
    ],
)
def test_the_tier_is_a_string_that_users_cannot_write(more: Claims, tier: str | None) -> None:
    assert JWTAuthenticator(secret=SECRET).verify(hs256(claims(**more)), 0.0).tier == tier


@pytest.mark.parametrize(
    ("more", "tier"),
    [
        ({"https://example.org/tier": "enterprise", "tier": "free"}, "enterprise"),
        ({"tier": "free", "app_metadata": {"tier": "premium"}}, None),
        ({"https://example.org/tier": 7}, None),
    ],
)
def test_a_tier_claim_is_taken_in_place_of_all_others(more: Claims, tier: str | None) -> None:
    auth = JWTAuthenticator(secret=SECRET, tier_claim="https://example.org/tier")
    assert auth.verify(hs256(claims(**more)), 0.0).tier == tier


# Tokens that are none


def deep(depth: int = 100_000) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


GOOD = {"alg": "HS256", "typ": "JWT"}
LATER = 2**40
MALFORMED = {
    "empty": "",
    "no segments": "token",
    "two segments": "a.b",
    "four segments": hs256() + ".a",
    "three empty segments": "..",
    "not base64": "!.!.!",
    "not ascii": "é.é.é",
    "a lone surrogate": "\ud800.a.b",
    "a null": hs256() + "\x00",
    "bytes": b"\xff.\xff.\xff",
    "no text": 7,
    "nothing": None,
    "too long": hs256(claims(scope="x" * 65536)),
    "header no json": by_hand(b"{", claims()),
    "header no object": by_hand(["alg"], claims()),
    "header deep": by_hand(deep(), claims()),
    "no algorithm": by_hand({}, claims()),
    "algorithm null": by_hand({"alg": None}, claims()),
    "algorithm a list": by_hand({"alg": ["HS256"]}, claims()),
    "algorithm an object": by_hand({"alg": {}}, claims()),
    "algorithm of another case": by_hand({"alg": "hs256"}, claims()),
    "algorithm not allowed": hs256(secret=SECRET * 2, algorithm="HS384"),
    "algorithm unknown": by_hand({"alg": "HS257"}, claims()),
    "algorithm none": by_hand({"alg": "none"}, claims()).rpartition(".")[0] + ".",
    "no signature": hs256().rpartition(".")[0] + ".",
    "critical unknown": by_hand({**GOOD, "crit": ["exp"], "exp": 1}, claims()),
    "critical known": by_hand({**GOOD, "crit": ["b64"], "b64": True}, claims()),
    "critical empty": by_hand({**GOOD, "crit": []}, claims()),
    "critical no list": by_hand({**GOOD, "crit": None}, claims()),
    "detached payload": by_hand({**GOOD, "crit": ["b64"], "b64": False}, b""),
    "kid a number": by_hand({**GOOD, "kid": 7}, claims()),
    "kid null": by_hand({**GOOD, "kid": None}, claims()),
    "kid a list": by_hand({**GOOD, "kid": ["a"]}, claims()),
    "payload no json": by_hand(GOOD, b"{"),
    "payload no utf-8": by_hand(GOOD, b'{"sub": "\xff"}'),
    "payload a list": by_hand(GOOD, [claims()]),
    "payload a number": by_hand(GOOD, 7),
    "payload empty": by_hand(GOOD, b""),
    "payload deep": by_hand(GOOD, deep(10_000)),
    "payload with a number of 5000 digits": by_hand(GOOD, b'{"sub": "alice", "exp": ' + b"9" * 5000 + b"}"),
    "sub a number": by_hand(GOOD, claims(sub=7)),
    "sub an object": by_hand(GOOD, claims(sub={})),
    "exp text": by_hand(GOOD, claims(exp=str(LATER))),
    "exp other text": by_hand(GOOD, claims(exp="never")),
    "exp a list": by_hand(GOOD, claims(exp=[LATER])),
    "exp nan": by_hand(GOOD, claims(exp=float("nan"))),
    "exp infinite": by_hand(GOOD, claims(exp=float("inf"))),
    "exp minus infinite": by_hand(GOOD, claims(exp=float("-inf"))),
    "exp more than a float holds": by_hand(GOOD, claims(exp=10**400)),
    "nbf a list": by_hand(GOOD, claims(nbf=[])),
    "nbf infinite": by_hand(GOOD, claims(nbf=float("inf"))),
    "iat an object": by_hand(GOOD, claims(iat={})),
    "iat nan": by_hand(GOOD, claims(iat=float("nan"))),
    "jti a number": by_hand(GOOD, claims(jti=7)),
}


@pytest.mark.parametrize("token", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_no_good_token_is_invalid_and_nothing_worse(token: Any) -> None:
    failure, detail = refusal(JWTAuthenticator(secret=SECRET), token)
    assert failure is AuthFailure.INVALID
    assert detail.isidentifier()


def test_a_time_may_have_a_fraction() -> None:
    assert JWTAuthenticator(secret=SECRET).verify(hs256(claims(exp=LATER + 0.5)), 0.0).expires_at == LATER + 0.5


def test_a_time_may_be_as_far_away_as_a_float_can_say() -> None:
    assert JWTAuthenticator(secret=SECRET).verify(hs256(claims(exp=1e308)), 0.0).valid_until == 1e308


def verdict(auth: JWTAuthenticator, token: Any) -> Principal | AuthFailure:
    """Return what comes out; nothing but an AuthenticationError may be raised."""
    try:
        return auth.verify(token, 0.0, waited=True)
    except AuthenticationError as error:
        return error.failure


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=8), values, max_size=3),
    max_leaves=6,
)
HEADERS = st.fixed_dictionaries(
    {"alg": st.just("HS256") | JSON}, optional=dict.fromkeys(("kid", "crit", "b64", "typ", "jwk"), JSON)
)
PAYLOADS = st.fixed_dictionaries(
    {"sub": st.just("alice") | JSON, "exp": st.just(LATER) | JSON},
    optional=dict.fromkeys(("nbf", "iat", "aud", "iss", "jti", "tier", "app_metadata"), JSON),
)


@SETTINGS
@given(st.text() | st.binary() | st.from_regex(r"[\w=-]*\.[\w=-]*\.[\w=-]*", fullmatch=True))
def test_no_text_and_no_bytes_are_accepted_by_chance(token: str | bytes) -> None:
    assert verdict(JWTAuthenticator(secret=SECRET), token) is AuthFailure.INVALID


@SETTINGS
@given(HEADERS | JSON, PAYLOADS | JSON)
def test_whatever_was_signed_there_is_a_verdict(header: Any, payload: Any) -> None:
    came_out = verdict(JWTAuthenticator(secret=SECRET), by_hand(header, payload))
    if isinstance(came_out, Principal):
        assert (header["alg"], came_out.subject, came_out.claims) == ("HS256", payload["sub"], payload)


@SETTINGS
@given(st.data())
def test_a_token_that_was_changed_anywhere_is_not_accepted(data: st.DataObject) -> None:
    token = hs256(claims(exp=LATER))
    at = data.draw(st.integers(0, len(token) - 2))  # the last character has bits that mean nothing
    char = data.draw(st.characters(max_codepoint=255))
    changed = token[:at] + char + token[at + 1 :]
    if changed != token:
        assert verdict(JWTAuthenticator(secret=SECRET), changed) is AuthFailure.INVALID


# Published keys


@pytest.mark.parametrize("name", ["rsa", "ec"])
def test_tokens_are_verified_with_published_keys(issuer: Issuer, name: str) -> None:
    auth = published(issuer, jwk("rsa"), jwk("ec"))
    assert ask(auth, signed(name)).subject == "alice"
    assert issuer.requests == [("/jwks.json", "wsconnkit")]


def test_other_algorithms_are_accepted_when_asked_for(issuer: Issuer) -> None:
    auth = published(issuer, jwk("rsa"), jwk("ed"), algorithms=["EdDSA"])
    assert ask(auth, signed("ed")).subject == "alice"
    assert refusal(auth, signed("rsa")) == (AuthFailure.INVALID, "InvalidAlgorithmError")


def test_keys_are_needed_before_the_first_verdict_and_then_no_more(issuer: Issuer) -> None:
    auth = published(issuer, jwk("rsa"))
    with pytest.raises(KeysNeeded):
        auth.verify(signed("rsa"), 0.0)
    ask(auth, signed("rsa"))
    assert auth.verify(signed("rsa"), 299.0).subject == "alice"
    assert len(issuer.requests) == 1


def test_keys_are_fetched_again_when_their_lifespan_is_over(issuer: Issuer) -> None:
    auth = published(issuer, jwk("rsa"), jwks_lifespan=10.0)
    ask(auth, signed("rsa"), 0.0)
    ask(auth, signed("rsa"), 9.0)
    assert len(issuer.requests) == 1
    ask(auth, signed("rsa"), 10.0)
    assert len(issuer.requests) == 2


def test_rotated_keys_are_fetched_for_the_first_token_that_names_one(issuer: Issuer) -> None:
    auth = published(issuer, jwk("rsa"))
    ask(auth, signed("rsa"))
    issuer.keys = [jwk("other")]
    assert ask(auth, signed("other"), 1.0).subject == "alice"
    assert refusal(auth, signed("rsa"), 2.0) == (AuthFailure.INVALID, "no such key")


def test_an_unknown_key_is_asked_for_once_per_token_and_5_times_a_minute(issuer: Issuer) -> None:
    auth = published(issuer, jwk("rsa"))
    ask(auth, signed("rsa"))
    for count in range(2, 6):
        assert refusal(auth, signed("other"), 1.0) == (AuthFailure.INVALID, "no such key")
        assert len(issuer.requests) == count
    for _ in range(3):
        # It may be a new one, which is for nobody to say while the issuer may not be asked.
        with pytest.raises(KeysUnavailable):
            ask(auth, signed("other"), 1.0)
    assert len(issuer.requests) == 5
    assert ask(auth, signed("rsa"), 2.0).subject == "alice"


def test_tokens_that_no_key_could_verify_cause_no_fetch(issuer: Issuer) -> None:
    auth = published(issuer, jwk("rsa"))
    for token in ("garbage", hs256(), by_hand({"alg": "none", "kid": "rsa"}, claims()), signed("ed")):
        assert refusal(auth, token)[0] is AuthFailure.INVALID
    assert issuer.requests == []


def test_keys_that_were_never_there_are_unavailable(issuer: Issuer) -> None:
    auth = published(issuer)
    issuer.status = 500
    for _ in range(7):
        with pytest.raises(KeysUnavailable):
            ask(auth, signed("rsa"))
    assert len(issuer.requests) == 5
    issuer.status, issuer.keys = 200, [jwk("rsa")]
    assert ask(auth, signed("rsa"), 60.0).subject == "alice"


BROKEN = {
    "error": {"status": 500},
    "not found": {"status": 404},
    "redirect": {"status": 302},
    "no reply": {"hangs_up": True},
    "no json": {"body": b"<html>"},
    "no text": {"body": b"\xff\xfe\xff"},
    "nothing": {"body": b""},
    "too much": {"body": b'{"keys": [' + b" " * 256 * 1024 + b"]}"},
    "no object": {"body": b"[]"},
    "no keys": {"body": b"{}"},
    "keys no list": {"body": b'{"keys": {"a": 1}}'},
    "deep": {"body": deep()},
    "keys no objects": {"keys": ["a", 7, None]},
    "only keys for others": {"keys": [jwk("ed"), {"kty": "oct", "k": "c2VjcmV0"}]},
    "only keys to encrypt": {"keys": [jwk("rsa", use="enc")]},
    "only weak keys": {"keys": [jwk("weak")]},
    "only broken keys": {"keys": [{}, {"kty": "RSA"}, {"kty": "RSA", "n": "!", "e": 5}, {"kty": "X"}]},
    "an algorithm that is a list": {"keys": [jwk("rsa", alg=["RS256"])]},
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys())
def test_when_a_fetch_fails_old_keys_go_on_and_the_log_says_so(
    issuer: Issuer, broken: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    auth = published(issuer, jwk("rsa"))
    ask(auth, signed("rsa"))
    for name, value in broken.items():
        setattr(issuer, name, value)
    assert ask(auth, signed("rsa"), 1000.0).subject == "alice"
    assert len(issuer.requests) == 2
    assert refusal(auth, signed("other"), 1000.0) == (AuthFailure.INVALID, "no such key")
    records = [record for record in caplog.records if record.name == "wsconnkit.auth"]
    assert [(record.levelname, vars(record)["type"]) for record in records] == [("ERROR", "auth_error")] * 2
    assert [vars(record)["url"] for record in records] == [issuer.url] * 2
    assert all(vars(record)["error"] in record.getMessage() for record in records)


def test_a_server_that_is_not_there_or_says_nothing_makes_a_fetch_fail(caplog: pytest.LogCaptureFixture) -> None:
    began_at = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        auth = JWTAuthenticator(jwks_url=f"http://127.0.0.1:{port}/", jwks_timeout=0.05)
        with pytest.raises(KeysUnavailable):
            ask(auth, signed("rsa"))
    with pytest.raises(KeysUnavailable):
        ask(auth, signed("rsa"))
    assert time.monotonic() - began_at < 4
    assert [vars(record)["type"] for record in caplog.records] == ["auth_error"] * 2


def test_an_answer_that_drips_makes_a_fetch_fail_in_time(issuer: Issuer, caplog: pytest.LogCaptureFixture) -> None:
    auth = published(issuer, jwk("rsa"), jwks_timeout=0.2)
    issuer.drips = True
    with pytest.raises(KeysUnavailable):
        ask(auth, signed("rsa"))
    assert "TimeoutError: there was no complete answer within 0.2 s" in caplog.text
    issuer.drips = False
    assert ask(auth, signed("rsa")).subject == "alice"


def test_what_the_server_says_is_told_escaped_and_cut(issuer: Issuer, caplog: pytest.LogCaptureFixture) -> None:
    auth = published(issuer, jwk("rsa"))
    issuer.status, issuer.reason = 500, "\x1b]0;title\a\x9b31m" + 10_000 * "x"
    with pytest.raises(KeysUnavailable):
        ask(auth, signed("rsa"))
    detail = vars(caplog.records[0])["detail"]
    assert detail.startswith(r"HTTP Error 500: \x1b]0;title\x07\x9b31mxxx")
    assert detail in caplog.records[0].getMessage()
    assert caplog.records[0].getMessage().isprintable()
    assert len(caplog.records[0].getMessage()) < 400


def test_keys_that_cannot_be_used_do_not_hide_those_that_can(issuer: Issuer) -> None:
    auth = published(issuer, {}, {"kty": "X"}, jwk("weak"), jwk("rsa", alg="RSA-OAEP", use="enc"), jwk("rsa"))
    assert ask(auth, signed("rsa")).subject == "alice"
    assert refusal(auth, by_hand({"alg": "RS256", "kid": "weak"}, claims())) == (AuthFailure.INVALID, "no such key")


def test_a_key_to_encrypt_verifies_nothing(issuer: Issuer) -> None:
    auth = published(issuer, jwk("rsa", use="enc"), jwk("other"))
    assert refusal(auth, signed("rsa")) == (AuthFailure.INVALID, "no such key")


def test_a_key_without_a_use_is_used(issuer: Issuer) -> None:
    key = jwk("rsa")
    del key["use"]
    assert ask(published(issuer, key), signed("rsa")).subject == "alice"


@pytest.mark.parametrize("kid", [None, "one", 7])
def test_without_a_kid_the_only_key_for_the_algorithm_is_used(issuer: Issuer, kid: Any) -> None:
    auth = published(issuer, jwk("rsa", kid), jwk("ec"))
    assert ask(auth, signed("rsa", None)).subject == "alice"


def test_without_a_kid_there_is_no_choice_between_two_keys(issuer: Issuer) -> None:
    auth = published(issuer, jwk("rsa"), jwk("other"), jwk("ec"))
    assert refusal(auth, signed("rsa", None)) == (AuthFailure.INVALID, "no such key")
    assert ask(auth, signed("ec", None)).subject == "alice"


def test_a_key_of_the_same_kid_for_another_algorithm_is_told_apart(issuer: Issuer) -> None:
    auth = published(issuer, jwk("rsa", "same"), jwk("ec", "same"))
    assert ask(auth, signed("rsa", "same")).subject == ask(auth, signed("ec", "same")).subject == "alice"


def test_a_token_with_the_kid_of_another_key_is_invalid(issuer: Issuer) -> None:
    auth = published(issuer, jwk("rsa"), jwk("other"), jwk("ec"))
    assert refusal(auth, signed("rsa", "other")) == (AuthFailure.INVALID, "InvalidSignatureError")
    assert refusal(auth, signed("rsa", "ec")) == (AuthFailure.INVALID, "no such key")


def test_a_public_key_is_no_secret_to_sign_with(issuer: Issuer) -> None:
    auth = published(issuer, jwk("rsa"))
    ask(auth, signed("rsa"))
    pem = RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for algorithm in ("HS256", "RS256"):
        token = by_hand({"alg": algorithm, "kid": "rsa"}, claims(), pem)
        assert refusal(auth, token)[0] is AuthFailure.INVALID


def test_a_published_secret_is_no_key(issuer: Issuer) -> None:
    secret = {"kty": "oct", "k": base64.urlsafe_b64encode(SECRET.encode()).decode(), "kid": "oct"}
    auth = published(issuer, secret, jwk("rsa"))
    for algorithm in ("HS256", "RS256"):
        assert refusal(auth, by_hand({"alg": algorithm, "kid": "oct"}, claims()))[0] is AuthFailure.INVALID


def test_claims_are_looked_at_as_with_a_secret(issuer: Issuer) -> None:
    auth = published(issuer, jwk("rsa"), audience="us", issuer="them")
    good = claims(aud=["us"], iss="them", tier="free")
    assert ask(auth, signed("rsa", payload=good)).tier == "free"
    assert refusal(auth, signed("rsa", payload={**good, "exp": 1}))[0] is AuthFailure.EXPIRED
    assert refusal(auth, signed("rsa", payload={**good, "aud": "x"})) == (AuthFailure.INVALID, "InvalidAudienceError")
    assert refusal(auth, signed("rsa", payload={**good, "iss": "x"})) == (AuthFailure.INVALID, "InvalidIssuerError")


def test_keys_may_be_fetched_in_another_thread(issuer: Issuer) -> None:
    auth = published(issuer, jwk("rsa"))
    assert auth.begin_fetch(0.0)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(auth.fetch).result(10)
    assert auth.verify(signed("rsa"), 0.0).subject == "alice"


def test_no_token_gets_past_published_keys_by_chance(issuer: Issuer) -> None:
    auth = published(issuer, jwk("rsa"), jwk("ec"))
    ask(auth, signed("rsa"))
    names = st.sampled_from(["rsa", "ec", "RS256", "ES256", "HS256", "none"])

    @SETTINGS
    @given(st.fixed_dictionaries({"alg": names | JSON}, optional={"kid": names | JSON, "crit": JSON}), PAYLOADS)
    def hold(header: Any, payload: Any) -> None:
        assert verdict(auth, by_hand(header, payload)) is AuthFailure.INVALID

    hold()


def test_a_fetch_is_told_at_debug_level(issuer: Issuer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "wsconnkit.auth")
    ask(published(issuer, jwk("rsa"), jwk("ec"), jwk("ed")), signed("rsa"))
    [record] = caplog.records
    assert (record.levelname, vars(record)["type"], vars(record)["keys"]) == ("DEBUG", "auth_keys_fetched", 2)


def test_the_query_of_the_url_is_asked_with_and_never_told(issuer: Issuer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "wsconnkit.auth")
    auth = JWTAuthenticator(jwks_url=f"{issuer.url}?api_key=hush")
    issuer.keys = [jwk("rsa")]
    ask(auth, signed("rsa"))
    issuer.status, issuer.reason = 403, "no access to /jwks.json?api_key=hush"
    assert ask(auth, signed("rsa"), 1000.0).subject == "alice"
    assert [path for path, _ in issuer.requests] == ["/jwks.json?api_key=hush"] * 2
    assert "no access to /jwks.json?***" in caplog.text
    assert not any("hush" in str(vars(record)) for record in caplog.records)
    assert "hush" not in repr(auth)


# Settings


def test_a_domain_stands_for_its_keys_and_its_issuer(monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with running(Issuer(context)) as issuer, authority.cert_pem.tempfile() as path:
        monkeypatch.setenv("SSL_CERT_FILE", path)
        domain = f"127.0.0.1:{issuer.server.server_port}"
        issuer.keys = [jwk("rsa")]
        ours = signed("rsa", payload=claims(iss=f"https://{domain}/"))
        theirs = signed("rsa", payload=claims(iss="https://login.example.org/"))
        auth = JWTAuthenticator(domain=domain)
        assert ask(auth, ours).subject == "alice"
        assert refusal(auth, theirs) == (AuthFailure.INVALID, "InvalidIssuerError")
        assert refusal(auth, signed("rsa")) == (AuthFailure.INVALID, "MissingRequiredClaimError")
        other = JWTAuthenticator(domain=domain, issuer="https://login.example.org/")
        assert ask(other, theirs).subject == "alice"
        assert refusal(other, ours) == (AuthFailure.INVALID, "InvalidIssuerError")
    assert [path for path, _ in issuer.requests] == ["/.well-known/jwks.json"] * 2
    assert repr(auth) == f"<JWTAuthenticator: https://{domain}/.well-known/jwks.json, RS256, ES256>"


def test_the_repr_does_not_show_the_secret() -> None:
    auth = JWTAuthenticator(secret=SECRET * 2, algorithms=["HS256", "HS512"])
    assert repr(auth) == "<JWTAuthenticator: secret, HS256, HS512>"


@pytest.mark.parametrize("url", [URL, "HTTP://localhost:8080", "http://[::1]:8080/jwks?a=b", "https://a?b=c"])
def test_keys_may_be_at_any_web_address(url: str) -> None:
    assert JWTAuthenticator(jwks_url=url).begin_fetch(0.0)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "issuer.example.org",
        "file:///etc/passwd",
        "ftp://issuer.example.org/",
        "https://",
        "https:///jwks.json",
        "https://user:hush@issuer.example.org/jwks.json",
        "https://issuer.example.org/jwks.json#hush",
        "https://issuer.example.org/jwks.json?a=hush b",
        "https://issuer.example.org/jwks.json?hush\n",
        "https://issuer.example.org:hush/",
        "https://issuér.example.org/?hush",
        7,
    ],
)
def test_other_addresses_are_refused_and_not_quoted(url: Any) -> None:
    with pytest.raises(ValueError, match="jwks_url is no URL to fetch keys from") as caught:
        JWTAuthenticator(jwks_url=url)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "0 of secret, jwks_url and domain are given; it must be exactly one"),
        ({"secret": SECRET, "domain": "a"}, "2 of secret, jwks_url and domain are given; it must be exactly one"),
        ({"domain": "https://a/"}, "domain is 'https://a/'; it must be the name of a host, as in tenant.example.org"),
        ({"domain": ""}, "domain is ''; it must be the name of a host, as in tenant.example.org"),
        ({"domain": 7}, "domain is 7; it must be the name of a host, as in tenant.example.org"),
        ({"leeway": -1}, "leeway is -1; it must be a finite number of seconds, 0 or more"),
        ({"leeway": "10"}, "leeway is '10'; it must be a finite number of seconds, 0 or more"),
        ({"jwks_lifespan": 0}, "jwks_lifespan is 0; it must be a finite number of seconds, more than 0"),
        ({"jwks_timeout": float("nan")}, "jwks_timeout is nan; it must be a finite number of seconds, more than 0"),
        ({"jwks_timeout": float("inf")}, "jwks_timeout is inf; it must be a finite number of seconds, more than 0"),
        ({"audience": ""}, "audience is ''; it must be a string or a list of strings, none of them empty"),
        ({"audience": []}, "audience is []; it must be a string or a list of strings, none of them empty"),
        ({"audience": ["a", 7]}, "audience is ['a', 7]; it must be a string or a list of strings, none of them empty"),
        ({"issuer": ""}, "issuer is ''; it must be a string that is not empty"),
        ({"issuer": ["a"]}, "issuer is ['a']; it must be a string that is not empty"),
        ({"tier_claim": ""}, "tier_claim is ''; it must be a string that is not empty"),
        ({"algorithms": []}, "algorithms is []; it must be a string or a list of strings, none of them empty"),
        ({"algorithms": ["none"]}, "algorithms is ['none']; for this kind of key there are HS256, HS384, HS512"),
        ({"algorithms": ["RS256"]}, "algorithms is ['RS256']; for this kind of key there are HS256, HS384, HS512"),
        ({"secret": 7}, "secret is of type int; it must be str or bytes"),
        ({"secret": "hush"}, "secret has 4 bytes; HS256 takes at least 32"),
        ({"secret": " " * 40}, "secret is nothing but whitespace; it must be a value nobody can know"),
        ({"secret": b"\t\n" * 20}, "secret is nothing but whitespace; it must be a value nobody can know"),
        ({"secret": "\u3000" * 20}, "secret is nothing but whitespace; it must be a value nobody can know"),
        ({"algorithms": ["HS256", "HS512"]}, "secret has 33 bytes; HS512 takes at least 64"),
    ],
)
def test_a_bad_setting_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    kind: dict[str, Any] = {} if {"secret", "domain"} & set(options) or not options else {"secret": SECRET}
    with pytest.raises(ValueError, match=r" (is|has|are) ") as caught:
        JWTAuthenticator(**kind, **options)
    assert str(caught.value) == message


@pytest.mark.parametrize("algorithm", ["HS256", "none"])
def test_published_keys_are_not_for_secrets(algorithm: str) -> None:
    with pytest.raises(ValueError, match="for this kind of key there are RS256, RS384,"):
        JWTAuthenticator(jwks_url=URL, algorithms=["RS256", algorithm])


def test_what_everyone_may_know_is_no_secret() -> None:
    pem = RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(ValueError, match="secret is a public key, a certificate or a JWK"):
        JWTAuthenticator(secret=pem)


def test_published_keys_need_an_extra_and_a_secret_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'wsconnkit\[crypto\]'") as caught:
        JWTAuthenticator(domain="tenant.example.org")
    assert caught.value.name == "cryptography"
    code = (
        "import sys; sys.modules['cryptography'] = None; from wsconnkit.service.auth import JWTAuthenticator;"
        f"print(JWTAuthenticator(secret={SECRET!r}).verify({hs256()!r}, 0.0).subject)"
    )
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (run.stdout, run.stderr) == ("alice\n", "")
