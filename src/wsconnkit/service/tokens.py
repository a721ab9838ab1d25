"""Where a request for a WebSocket may carry a token, and how to keep it out of what is printed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from urllib.parse import unquote

from wsconnkit.protocol.upgrade import HTTPRequest, UpgradeRequest

BEARER = "bearer"
"""The subprotocol whose next neighbour is a token: browsers cannot send headers of their own."""

_SHORTEST_SECRET = 4
"""Characters; what is shorter is no token, and would be found in every other word."""
_MAX_SECRETS = 16
_REDACTED = "***"


def token_of(request: UpgradeRequest | HTTPRequest) -> str | None:
    """Return the token that a request carries, None where there is none or it is nothing but spaces.

    It is looked for in the header `Authorization: Bearer` (RFC 6750, section 2.1), then behind the subprotocol
    `bearer`, then in the query parameter `token`, percent-decoded. Of several in one place the first counts.
    """
    in_headers = [credentials for scheme, credentials in _authorizations(request) if scheme.lower() == BEARER]
    in_query = [unquote(value) for value in _query_values(request)]
    return next((token for token in (*in_headers, *_offered(request), *in_query) if token.strip()), None)


def secrets_of(request: UpgradeRequest | HTTPRequest) -> tuple[str, ...]:
    """Return the credentials in a request, in each form in which they occur: what `redact` must be given.

    At most 16 of them: whoever sends more has none to lose, and every line would be searched for all.
    """
    found = [token_of(request) or ""]
    found += [credentials for _, credentials in _authorizations(request)]
    found += _offered(request)
    for value in _query_values(request):
        found += [value, unquote(value)]
    return tuple(dict.fromkeys(secret for secret in found if secret))[:_MAX_SECRETS]


def redact(text: str, secrets: Iterable[str]) -> str:
    """Return `text` with `***` in place of each of `secrets`, also where they stand as `repr` writes them.

    Those of less than 4 characters are left alone.
    """
    hidden = {form for secret in secrets for form in (secret, repr(secret)[1:-1]) if len(secret) >= _SHORTEST_SECRET}
    for secret in sorted(hidden, key=len, reverse=True):
        text = text.replace(secret, _REDACTED)
    # What was left on both sides of a secret can make up another one.
    return _REDACTED if any(secret in text for secret in hidden) else text


def _authorizations(request: UpgradeRequest | HTTPRequest) -> Iterator[tuple[str, str]]:
    """Give the scheme and the credentials of each Authorization header (RFC 9110, section 11.6.2)."""
    for value in request.headers.get_all("Authorization"):
        scheme, _, credentials = value.strip().partition(" ")
        # Without a scheme it is no credentials, but it may still be a secret.
        yield (scheme, credentials.strip()) if credentials else ("", scheme)


def _offered(request: UpgradeRequest | HTTPRequest) -> tuple[str, ...]:
    """Return what follows the subprotocol `bearer`, as a tuple of none or one."""
    names = tuple(request.headers.tokens("Sec-WebSocket-Protocol"))
    at = names.index(BEARER) + 1 if BEARER in names else len(names)
    return names[at : at + 1]


def _query_values(request: UpgradeRequest | HTTPRequest) -> Iterator[str]:
    """Give the values of all query parameters `token`, still encoded."""
    for pair in request.target.partition("?")[2].split("&"):
        name, _, value = pair.partition("=")
        if unquote(name) == "token":
            yield value
