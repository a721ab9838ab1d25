from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsconnkit.protocol.upgrade import UpgradeRequest
from wsconnkit.service.tokens import BEARER, redact, secrets_of, token_of

from .kit import upgrade_request

SETTINGS = settings(deadline=None)
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl"


def printed(request: UpgradeRequest) -> str:
    """Return a request as a careless log would print it."""
    return "\n".join([request.target, *(f"{name}: {value}" for name, value in request.headers)])


@st.composite
def encoded(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> tuple[str, str]:
    """Give a text, and one of the many ways to percent-encode it."""
    text = draw(texts)
    parts = []
    for char in text:
        may_stay = char.isascii() and char.isprintable() and char not in " #%&"
        if may_stay and draw(st.booleans()):
            parts.append(char)
        else:
            form = draw(st.sampled_from(["%{:02X}", "%{:02x}"]))
            parts.append("".join(form.format(byte) for byte in char.encode()))
    return text, "".join(parts)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_token_in_the_authorization_header_is_found_whatever_the_case(scheme: str) -> None:
    assert token_of(upgrade_request("/ws", ("authorization", f"{scheme}  {JWT} "))) == JWT


def test_a_token_behind_the_subprotocol_bearer_is_found() -> None:
    assert token_of(upgrade_request("/ws", ("Sec-WebSocket-Protocol", f"chat, {BEARER}, {JWT}, chat.v2"))) == JWT


@pytest.mark.parametrize(
    "target",
    [
        f"/ws?token={JWT}",
        f"/ws?a=b&token={JWT}&c=d",
        f"/ws?%74oken={JWT.replace('.', '%2e')}",
        f"http://example.org/ws?token={JWT}",
        f"/ws?token={JWT}&token=other",
    ],
)
def test_a_token_in_the_query_is_found_and_decoded(target: str) -> None:
    assert token_of(upgrade_request(target)) == JWT


def test_a_plus_in_the_query_is_a_plus() -> None:
    assert token_of(upgrade_request("/ws?token=a+b/c==")) == "a+b/c=="


def test_the_header_comes_before_the_subprotocol_and_that_before_the_query() -> None:
    header, subprotocol = ("Authorization", "Bearer one"), ("Sec-WebSocket-Protocol", "bearer, two")
    assert token_of(upgrade_request("/ws?token=three", header, subprotocol)) == "one"
    assert token_of(upgrade_request("/ws?token=three", subprotocol)) == "two"
    assert token_of(upgrade_request("/ws?token=three")) == "three"


def test_of_several_headers_the_first_bearer_counts() -> None:
    headers = [("Authorization", "Basic dXNlcjpwYXNz"), ("Authorization", "Bearer one"), ("Authorization", "Bearer 2")]
    assert token_of(upgrade_request("/ws", *headers)) == "one"


@pytest.mark.parametrize(
    ("target", "header"),
    [
        ("/ws", ("X-Other", "1")),
        ("/ws?", ("X-Other", "1")),
        ("/ws?token=", ("Authorization", "Bearer")),
        ("/ws?token", ("Authorization", "Bearer ")),
        ("/ws?token=%20%09%E3%80%80", ("Authorization", "Bearer   ")),
        ("/ws?Token=abcdef", ("Authorization", "")),
        ("/ws?tokens=abcdef", ("Authorization", "Basic dXNlcjpwYXNz")),
        ("/token=abcdef", ("Authorization", "Bearerabcdef")),
        ("/ws", ("Sec-WebSocket-Protocol", "bearer")),
        ("/ws", ("Sec-WebSocket-Protocol", "chat, bearer")),
        ("/ws", ("Sec-WebSocket-Protocol", "chat, Bearer, abcdef")),
    ],
)
def test_what_is_empty_or_somewhere_else_is_no_token(target: str, header: tuple[str, str]) -> None:
    assert token_of(upgrade_request(target, header)) is None


def test_an_empty_token_in_one_place_does_not_hide_one_in_another() -> None:
    assert token_of(upgrade_request("/ws?token=&token=%20&token=three", ("Authorization", "Bearer"))) == "three"


def test_secrets_are_all_credentials_in_all_their_forms() -> None:
    request = upgrade_request(
        "/ws?token=a%2Eb&x=y&token=c.d",
        ("Authorization", "Bearer one"),
        ("Authorization", "Basic dXNlcjpwYXNz"),
        ("Authorization", "naked"),
        ("Sec-WebSocket-Protocol", "chat, bearer, two"),
    )
    assert secrets_of(request) == ("one", "dXNlcjpwYXNz", "naked", "two", "a%2Eb", "a.b", "c.d")


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("/ws?" + "&".join(f"token=secret{number}" for number in range(360)), []),
        ("/ws?" + "&".join(f"token=secret%{number}" for number in range(10, 100)), []),
        ("/ws", [("Authorization", f"Bearer secret{number}") for number in range(90)]),
    ],
)
def test_of_ever_so_many_credentials_the_first_16_are_secrets(target: str, headers: list[tuple[str, str]]) -> None:
    request = upgrade_request(target, *headers)
    secrets = secrets_of(request)
    assert len(secrets) == 16
    assert token_of(request) in secrets
    redacted = redact(printed(request), secrets)
    assert [secret for secret in secrets if secret in redacted] == []


def test_a_request_without_credentials_has_no_secrets() -> None:
    assert (
        secrets_of(upgrade_request("/ws?token=&a=b", ("Authorization", ""), ("Sec-WebSocket-Protocol", "bearer"))) == ()
    )


def test_secrets_are_blotted_out() -> None:
    assert redact(f"GET /ws?token={JWT} failed", [JWT]) == "GET /ws?token=*** failed"
    assert redact("abcd and abcdef", ["abcd", "abcdef"]) == "*** and ***"
    assert redact("nothing to hide", []) == "nothing to hide"


def test_what_is_too_short_for_a_secret_is_left_alone() -> None:
    assert redact("the cat sat on the mat", ["", "a", "at", "the"]) == "the cat sat on the mat"
    assert redact("the cats", ["cats"]) == "the ***"


def test_a_text_in_which_blotting_out_makes_up_another_secret_is_blotted_out_whole() -> None:
    assert redact("left a1234567b right", ["1234567", "a***b"]) == "left *** right"
    assert redact("left a12b right", ["left ***", "a12b"]) == "***"
    assert redact("left ******* right", ["*****"]) == "***"


def test_secrets_that_make_each_other_up_ever_again_are_blotted_out_at_once() -> None:
    tokens = ["1234", "a***b", *(f"other{number}" for number in range(358))]
    secrets = secrets_of(upgrade_request("/ws?" + "&".join(f"token={token}" for token in tokens)))
    assert len(secrets) == 16
    assert redact("a" * 5000 + "1234" + "b" * 5000, secrets) == "***"


@pytest.mark.parametrize(
    "secret", ["tab\there", "back\\slash", "line\nend", "it's", 'say "it\'s"', "caf\xe9\x00", "\ud800abc"]
)
def test_a_secret_is_found_as_repr_writes_it_too(secret: str) -> None:
    assert redact(f"cannot read {secret!r}", [secret]) in ("cannot read '***'", 'cannot read "***"')
    assert redact(f"cannot read {secret} or {[secret]}", [secret]) in (
        "cannot read *** or ['***']",
        'cannot read *** or ["***"]',
    )


def test_what_is_too_short_for_a_secret_is_left_alone_as_repr_writes_it_too() -> None:
    assert redact("a string ends with \\x00", ["\x00"]) == "a string ends with \\x00"


@SETTINGS
@given(
    st.lists(st.one_of(st.text("ab*%", max_size=12), st.text(max_size=12))),
    st.lists(st.one_of(st.text("ab*%", max_size=6), st.text(max_size=6))),
    st.data(),
)
def test_no_secret_survives_redaction(texts: list[str], secrets: list[str], data: st.DataObject) -> None:
    reprs = [repr(secret)[1:-1] for secret in secrets if len(secret) >= 4]
    text = "".join(data.draw(st.permutations(texts + secrets + reprs)))
    redacted = redact(text, secrets)
    assert [secret for secret in secrets if len(secret) >= 4 and secret in redacted] == []
    assert [form for form in reprs if form in redacted] == []
    assert len(redacted) <= len(text)


@SETTINGS
@given(st.text(max_size=30), st.lists(st.text(max_size=3)))
def test_a_text_without_secrets_stays_as_it_is(text: str, secrets: list[str]) -> None:
    assert redact(text, secrets) == text


@SETTINGS
@given(
    encoded(st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda text: bool(text.strip()))),
    encoded(st.just("token")),
)
def test_a_token_in_the_query_is_found_however_it_is_encoded(token: tuple[str, str], name: tuple[str, str]) -> None:
    assert token_of(upgrade_request(f"/ws?a=b&{name[1]}={token[1]}&c=d")) == token[0]


@SETTINGS
@given(encoded(st.text(st.characters(codec="utf-8"), min_size=4)), encoded(st.just("token")))
def test_nothing_of_a_token_in_the_query_survives(token: tuple[str, str], name: tuple[str, str]) -> None:
    plain, raw = token
    request = upgrade_request(f"/ws?{name[1]}={raw}")
    told = f"{printed(request)} {quote(plain)} {plain}"
    redacted = redact(told, [*secrets_of(request), quote(plain)])
    assert plain not in redacted
    assert raw not in redacted


TOKEN68 = st.from_regex(r"[A-Za-z0-9._~+/-]{4,40}={0,2}", fullmatch=True)
HTTP_TOKEN = st.from_regex(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{4,40}", fullmatch=True).filter(lambda name: name != BEARER)


@SETTINGS
@given(TOKEN68, HTTP_TOKEN, encoded(TOKEN68))
def test_no_token_of_a_request_survives_wherever_it_was(header: str, subprotocol: str, query: tuple[str, str]) -> None:
    request = upgrade_request(
        f"/ws?token={query[1]}",
        ("Authorization", f"Bearer {header}"),
        ("Sec-WebSocket-Protocol", f"bearer, {subprotocol}"),
    )
    redacted = redact(f"{printed(request)} {query[0]}", secrets_of(request))
    assert [secret for secret in (header, subprotocol, *query) if secret in redacted] == []


@SETTINGS
@given(st.from_regex(r"/[!\"$-~\x80-\xff]*", fullmatch=True), st.text(st.characters(max_codepoint=255), max_size=20))
def test_no_request_makes_the_search_for_tokens_fail(target: str, authorization: str) -> None:
    request = upgrade_request(target, ("Authorization", authorization))
    token = token_of(request)
    assert token is None or token in secrets_of(request)
