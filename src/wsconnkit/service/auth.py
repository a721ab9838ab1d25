"""JSON Web Tokens (RFC 7519) over PyJWT: who sent one, by a shared secret or by the keys that an issuer publishes."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection, Sequence
from importlib.util import find_spec
from sys import float_info
from typing import Any

import jwt
from jwt.algorithms import HMACAlgorithm

from wsconnkit.download import download
from wsconnkit.protocol.errors import WsconnkitError
from wsconnkit.protocol.printable import printable
from wsconnkit.service.keys import KeyCache
from wsconnkit.service.principal import AuthenticationError, AuthFailure, Principal
from wsconnkit.service.tokens import redact

logger: logging.Logger = logging.getLogger("wsconnkit.auth")

_SECRET_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
"""The algorithms for a secret, and how long it must be: as the hash is (RFC 7518, section 3.2)."""
_PUBLIC_KEY = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES256K", "ES384", "ES512", "EdDSA")
_RSA_BITS = 2048
"""The least that an RSA key must have (RFC 7518, section 3.3)."""
_MAX_TOKEN = 64 * 1024
"""Characters; to decode much more would hold up other connections."""

_MAX_KEY_SET = 256 * 1024
"""Bytes of the answer of the server that publishes keys: those of some dozen keys, with their certificates."""
_MAX_DETAIL = 200
"""Characters of a log line that the server's words may be."""

_DOMAIN = re.compile(r"[A-Za-z0-9.-]+(:[0-9]+)?")
_URL = re.compile(r"https?://([A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]+)?([/?][!\"$-~]*)?", re.IGNORECASE)


class JWTAuthenticator:
    """Verifies JSON Web Tokens. Exactly one of `secret`, `jwks_url` and `domain` is given.

    secret: what the issuer signs with (HS256); at least 32 bytes, 48 for HS384, 64 for HS512.
    jwks_url: where the issuer publishes its keys (RFC 7517, section 5), for RS256 and ES256. Needs the extra `crypto`.
    domain: the same for an issuer whose keys are at `https://{domain}/.well-known/jwks.json`.
    audience: one of these must be in `aud`. Without it, a token with an `aud` is meant for someone else, and invalid.
    issuer: what `iss` must be; by default `https://{domain}/` for a domain, else anything.
    algorithms: those that are accepted, in place of the ones above.
    leeway: seconds that the issuer's clock may differ from ours.
    tier_claim: the claim that names the user's tier, in place of `tier` or else `app_metadata.tier`.
    jwks_lifespan: seconds after which keys are fetched again.
    jwks_timeout: seconds that fetching them may take in all. An answer of more than 256 KiB is none.

    A token must have `exp` and `sub`. Its times are compared with the clock of the system.
    Raises ValueError for bad settings, and ModuleNotFoundError when the extra is missing.
    """

    def __init__(
        self,
        *,
        secret: str | bytes | None = None,
        jwks_url: str | None = None,
        domain: str | None = None,
        audience: str | Sequence[str] | None = None,
        issuer: str | None = None,
        algorithms: Sequence[str] | None = None,
        leeway: float = 10.0,
        tier_claim: str | None = None,
        jwks_lifespan: float = 300.0,
        jwks_timeout: float = 5.0,
    ) -> None:
        given = sum(value is not None for value in (secret, jwks_url, domain))
        if given != 1:
            raise ValueError(f"{given} of secret, jwks_url and domain are given; it must be exactly one")
        if domain is not None:
            jwks_url = f"https://{_domain(domain)}/.well-known/jwks.json"
            issuer = f"https://{domain}/" if issuer is None else issuer
        if not (_is_seconds(leeway) and leeway >= 0):
            raise ValueError(f"leeway is {leeway!r}; it must be a finite number of seconds, 0 or more")
        for name, value in (("jwks_lifespan", jwks_lifespan), ("jwks_timeout", jwks_timeout)):
            if not (_is_seconds(value) and value > 0):
                raise ValueError(f"{name} is {value!r}; it must be a finite number of seconds, more than 0")
        self._audience = None if audience is None else _texts("audience", audience)
        # Never a string: PyJWT 2.10.0 accepts any part of it.
        self._issuer = None if issuer is None else [_text("issuer", issuer)]
        self._tier_claim = None if tier_claim is None else _text("tier_claim", tier_claim)
        self._leeway = leeway
        self._secret: bytes | None = None
        self._url: str | None = None
        self._timeout = jwks_timeout
        self._keys: KeyCache[jwt.PyJWK] = KeyCache(jwks_lifespan)
        if jwks_url is None:
            self._algorithms = _algorithms(["HS256"] if algorithms is None else algorithms, _SECRET_BYTES)
            self._secret = _secret_bytes(secret, self._algorithms)
            self._source = "secret"
        else:
            self._algorithms = _algorithms(["RS256", "ES256"] if algorithms is None else algorithms, _PUBLIC_KEY)
            self._url = _url(jwks_url)
            self._source = jwks_url.partition("?")[0]

    def __repr__(self) -> str:
        return f"<JWTAuthenticator: {self._source}, {', '.join(self._algorithms)}>"

    def verify(self, token: str, now: float, *, waited: bool = False) -> Principal:
        """Return who `token` was issued to. `now` is monotonic, and only tells how old the keys are.

        waited: there is nothing more to wait for: the keys that are there decide.
        Raises AuthenticationError; KeysUnavailable when `waited` and no keys were ever fetched; KeysNeeded when keys
        must be fetched first: then `begin_fetch`, or wait for the fetch under way, and verify again with `waited`.
        """
        try:
            return self._principal(token, now, waited)
        except WsconnkitError:
            raise
        except jwt.ExpiredSignatureError as error:
            raise AuthenticationError(AuthFailure.EXPIRED, type(error).__name__) from None
        except Exception as error:  # of PyJWT's own, or one that a malformed token got past it
            raise AuthenticationError(AuthFailure.INVALID, type(error).__name__) from None

    def begin_fetch(self, now: float) -> bool:
        """Tell whether keys may be fetched now; if so, call `fetch` at once, in a thread and one at a time.

        False when they were fetched 5 times within a minute.
        """
        return self._url is not None and self._keys.begin_fetch(now)

    def fetch(self) -> None:
        """Fetch the keys, which blocks for `jwks_timeout` at most; if that fails, log it and keep those from before."""
        assert self._url is not None  # begin_fetch said so
        try:
            body = download(self._url, max_bytes=_MAX_KEY_SET, timeout=self._timeout)
            keys = [key for key in _key_set(body) if self._is_usable(key)]
            if not keys:
                raise jwt.PyJWKSetError(f"none of the keys is for {' or '.join(self._algorithms)}")
        except Exception as error:  # whatever their server does
            # Hidden before it is cut, so that no part of a secret is left; some of it are the server's own words.
            name, text = type(error).__name__, redact(str(error), [self._url.partition("?")[2]])
            text = printable(text[:_MAX_DETAIL])
            failed = {"type": "auth_error", "url": self._source, "error": name, "detail": text}
            logger.error("auth_error %s: %s: %s", self._source, name, text, extra=failed)
        else:
            self._keys.put(keys)
            fetched = {"type": "auth_keys_fetched", "url": self._source, "keys": len(keys)}
            logger.debug("auth_keys_fetched %s: %d", self._source, len(keys), extra=fetched)

    def _principal(self, token: str, now: float, waited: bool) -> Principal:
        claims: dict[str, Any] = jwt.decode(
            token,
            self._key(token, now, waited),
            algorithms=self._algorithms,
            audience=self._audience,
            issuer=self._issuer,
            leeway=self._leeway,
            options={"require": ["exp", "sub"]},
        )
        if not claims["sub"]:
            raise jwt.MissingRequiredClaimError("sub")
        if not _is_seconds(claims["exp"]):
            raise jwt.DecodeError("exp is not a number")  # PyJWT takes "123" for one
        return Principal(
            subject=claims["sub"],
            tier=self._tier(claims),
            claims=claims,
            expires_at=float(claims["exp"]),
            leeway=self._leeway,
        )

    def _key(self, token: str, now: float, waited: bool) -> jwt.PyJWK | bytes:
        if len(token) > _MAX_TOKEN:
            raise jwt.DecodeError("the token is too long")
        header = jwt.get_unverified_header(token)
        if "crit" in header:  # extensions that must be understood (RFC 7515, section 4.1.11)
            raise jwt.InvalidTokenError("there are critical extensions")
        algorithm = header.get("alg")
        if algorithm not in self._algorithms:
            raise jwt.InvalidAlgorithmError("the algorithm is not allowed")
        if self._secret is not None:
            return self._secret
        # A key is only found for its own algorithm: the token does not choose how it is verified.
        key = self._keys.find(header.get("kid"), algorithm, now, waited=waited)
        if key is None:
            raise AuthenticationError(AuthFailure.INVALID, "no such key")
        return key

    def _tier(self, claims: dict[str, Any]) -> str | None:
        if self._tier_claim is not None:
            tiers = [claims.get(self._tier_claim)]
        else:
            # Not from user_metadata, which users write themselves.
            metadata = claims.get("app_metadata")
            tiers = [claims.get("tier"), metadata.get("tier") if isinstance(metadata, dict) else None]
        return next((tier for tier in tiers if isinstance(tier, str)), None)

    def _is_usable(self, key: jwt.PyJWK) -> bool:
        is_weak = key.key_type == "RSA" and key.key.key_size < _RSA_BITS
        return key.public_key_use in (None, "sig") and key.algorithm_name in self._algorithms and not is_weak


def _is_seconds(value: object) -> bool:
    return isinstance(value, (int, float)) and abs(value) <= float_info.max


def _text(name: str, value: object) -> str:
    if not (isinstance(value, str) and value):
        raise ValueError(f"{name} is {value!r}; it must be a string that is not empty")
    return value


def _texts(name: str, value: object) -> list[str]:
    values = value if isinstance(value, (list, tuple)) else [value]
    if not (values and all(isinstance(item, str) and item for item in values)):
        raise ValueError(f"{name} is {value!r}; it must be a string or a list of strings, none of them empty")
    return list(values)


def _domain(domain: object) -> str:
    if not (isinstance(domain, str) and _DOMAIN.fullmatch(domain)):
        raise ValueError(f"domain is {domain!r}; it must be the name of a host, as in tenant.example.org")
    return domain


def _algorithms(value: Sequence[str], known: Collection[str]) -> list[str]:
    algorithms = _texts("algorithms", value)
    if not set(algorithms) <= set(known):
        raise ValueError(f"algorithms is {value!r}; for this kind of key there are {', '.join(known)}")
    return algorithms


def _secret_bytes(secret: object, algorithms: list[str]) -> bytes:
    if isinstance(secret, str):
        secret = secret.encode("utf-8", "surrogateescape")  # as bytes come in through os.environ
    if not isinstance(secret, bytes):
        raise ValueError(f"secret is of type {type(secret).__name__}; it must be str or bytes")
    for algorithm in algorithms:
        least = _SECRET_BYTES[algorithm]
        if len(secret) < least:
            raise ValueError(f"secret has {len(secret)} bytes; {algorithm} takes at least {least}")
    if not secret.decode("utf-8", "replace").strip():
        raise ValueError("secret is nothing but whitespace; it must be a value nobody can know")
    try:
        HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(secret)
    except jwt.InvalidKeyError:
        raise ValueError("secret is a public key, a certificate or a JWK; it must be a value nobody can know") from None
    return secret


def _url(url: object) -> str:
    # The URL is not quoted: its query may hold a key.
    if not (isinstance(url, str) and _URL.fullmatch(url)):
        raise ValueError("jwks_url is no URL to fetch keys from; write https://host/path, without user and fragment")
    if find_spec("cryptography") is None:
        needs = "JWTAuthenticator needs cryptography for public keys"
        raise ModuleNotFoundError(f"{needs}; install it with: pip install 'wsconnkit[crypto]'", name="cryptography")
    return url


def _key_set(body: bytes) -> list[jwt.PyJWK]:
    """Return the keys of a JSON Web Key Set (RFC 7517, section 5); raises for what is none."""
    key_set = json.loads(body)
    if not isinstance(key_set, dict):
        raise jwt.PyJWKSetError("the answer is no JSON object")
    return jwt.PyJWKSet.from_dict(key_set).keys
