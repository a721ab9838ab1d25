from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsconnkit.protocol.http import ExtensionOffer, Headers, Response, is_token, parse_extensions

TOKENS = st.text("!#$%&'*+-.^_`|~" + string.digits + string.ascii_letters, min_size=1, max_size=8)
OFFERS = st.lists(
    st.builds(
        ExtensionOffer, TOKENS, st.lists(st.tuples(TOKENS, st.none() | TOKENS), max_size=3).map(lambda pairs: (*pairs,))
    ),
    max_size=4,
)


def test_headers_keep_their_order_their_case_and_their_repetitions() -> None:
    items = [("X-B", "2"), ("x-a", "1"), ("X-A", "3")]
    headers = Headers(items)
    assert list(headers) == items
    assert len(headers) == 3


def test_headers_are_found_without_regard_to_case() -> None:
    headers = Headers([("X-A", "1"), ("x-a", "2"), ("X-AB", "3")])
    assert headers.get_all("x-A") == ["1", "2"]
    assert headers.get("x-A") == "1, 2"
    assert "X-a" in headers
    assert "X" not in headers
    assert 1 not in headers


def test_headers_without_a_name_are_the_others_in_their_order() -> None:
    headers = Headers([("A", "1"), ("B", "2"), ("a", "3"), ("C", "4")])
    assert list(headers.without("a")) == [("B", "2"), ("C", "4")]
    assert list(headers.without("D")) == list(headers)
    assert len(headers) == 4


def test_absent_headers_are_none_and_empty_lists_and_differ_from_empty_ones() -> None:
    headers = Headers([("X-Empty", "")])
    assert headers.get("X-None") is None
    assert headers.get_all("X-None") == []
    assert headers.tokens("X-None") == []
    assert headers.get("X-Empty") == ""
    assert "X-Empty" in headers


def test_headers_come_from_mappings_pairs_headers_and_nothing() -> None:
    from_mapping = Headers({"A": "1", "B": "2"})
    assert list(Headers(from_mapping)) == list(from_mapping) == [("A", "1"), ("B", "2")]
    assert list(Headers(iter([("A", "1")]))) == [("A", "1")]
    assert list(Headers()) == []


def test_headers_from_a_wire_are_latin_1_so_that_no_byte_can_fail() -> None:
    every_byte = bytes(range(256))
    ((name, value),) = Headers.from_raw([(b"X-\xe9", every_byte)])
    assert name == "X-é"
    assert value.encode("latin-1") == every_byte


def test_repr_of_headers_shows_no_values() -> None:
    # Values carry cookies and credentials; a repr ends up in a log.
    shown = repr(Headers([("Authorization", "Basic c2VjcmV0"), ("Cookie", "session=1")]))
    assert shown == "<Headers: Authorization, Cookie>"


def test_repr_of_a_response_shows_no_header_values() -> None:
    assert "s3cret" not in repr(Response(401, Headers({"Set-Cookie": "s3cret"})))


def test_tokens_are_the_items_of_all_headers_of_a_name_without_empty_ones() -> None:
    headers = Headers([("Connection", "keep-alive, ,Upgrade,"), ("connection", " x "), ("Connection", "")])
    assert headers.tokens("CONNECTION") == ["keep-alive", "Upgrade", "x"]


def test_a_response_has_no_headers_and_no_body_by_default() -> None:
    response = Response(204)
    assert (response.status, len(response.headers), response.body) == (204, 0, b"")


@pytest.mark.parametrize("value", ["a", "permessage-deflate", "!#$%&'*+-.^_`|~09azAZ"])
def test_tokens_of_http_are_tokens(value: str) -> None:
    assert is_token(value)


@pytest.mark.parametrize("value", ["", " ", "a b", "a,b", "a;b", 'a"', "a\n", "a\r\n", "é", "a/b", "a=b", "(a)"])
def test_other_strings_are_no_tokens(value: str) -> None:
    assert not is_token(value)


@pytest.mark.parametrize(
    ("value", "offers"),
    [
        ("", []),
        (" \t ", []),
        (",", []),
        (" , ,, ", []),
        ("foo", [ExtensionOffer("foo")]),
        ("foo, bar; baz=2", [ExtensionOffer("foo"), ExtensionOffer("bar", (("baz", "2"),))]),
        (" ,foo", [ExtensionOffer("foo")]),
        ("foo , ", [ExtensionOffer("foo")]),
        (",foo,,bar,", [ExtensionOffer("foo"), ExtensionOffer("bar")]),
        ("foo;a;b=1;a=2", [ExtensionOffer("foo", (("a", None), ("b", "1"), ("a", "2")))]),
        (" foo ; a = 1 ; b , bar ", [ExtensionOffer("foo", (("a", "1"), ("b", None))), ExtensionOffer("bar")]),
        ('foo; a="10"', [ExtensionOffer("foo", (("a", "10"),))]),
        (r'foo; a="1\0"', [ExtensionOffer("foo", (("a", "10"),))]),
        ('foo; a="1", bar', [ExtensionOffer("foo", (("a", "1"),)), ExtensionOffer("bar")]),
        ("foo, foo", [ExtensionOffer("foo"), ExtensionOffer("foo")]),
    ],
)
def test_parses_extensions(value: str, offers: list[ExtensionOffer]) -> None:
    assert parse_extensions(value) == offers


@pytest.mark.parametrize(
    "value",
    [
        ";",
        "=",
        "foo bar",
        "foo;",
        "foo; ;a",
        "foo; =1",
        "foo; a=",
        "foo; a b",
        "foo; a=1 b",
        "foo, ;a",
        "foo/1",
        "föö",
        '"foo"',
        'foo; "a"=1',
        'foo; a="',
        'foo; a="1',
        r'foo; a="1\"',
        'foo; a="1"b',
        # What stands in quotes must still be a token once unescaped (RFC 6455, section 9.1).
        'foo; a=""',
        'foo; a="1,2"',
        'foo; a="1;2"',
        'foo; a="1 2"',
        r'foo; a="\""',
        r'foo; a="\\"',
        # Not even where the rest would make sense again.
        'foo; a="x, bar; b=",c"',
        "foo, bar baz",
    ],
)
def test_malformed_extensions_are_none(value: str) -> None:
    assert parse_extensions(value) is None


@st.composite
def rendered(draw: st.DrawFn) -> tuple[list[ExtensionOffer], str]:
    """Draw offers and one of the many ways to write them."""
    offers = draw(OFFERS)

    def space() -> str:
        return draw(st.sampled_from(["", " ", "\t", "  "]))

    def written(value: str) -> str:
        if draw(st.booleans()):
            return value
        return '"' + "".join(("\\" if draw(st.booleans()) else "") + char for char in value) + '"'

    items = []
    for name, parameters in offers:
        item = space() + name
        for key, value in parameters:
            item += f"{space()};{space()}{key}"
            if value is not None:
                item += f"{space()}={space()}{written(value)}"
        items.append(item + space())
        if draw(st.booleans()):
            items.append(space())  # an empty item
    return offers, ",".join(items)


@settings(deadline=None, max_examples=150)
@given(rendered())
def test_every_way_of_writing_offers_parses_to_them(case: tuple[list[ExtensionOffer], str]) -> None:
    offers, value = case
    assert parse_extensions(value) == offers


@settings(deadline=None, max_examples=300)
@given(st.text('ab;,=" \t\\', max_size=30) | st.text(max_size=20))
def test_whatever_is_parsed_consists_of_tokens(value: str) -> None:
    for name, parameters in parse_extensions(value) or []:
        assert is_token(name)
        assert all(is_token(key) and (text is None or is_token(text)) for key, text in parameters)


@pytest.mark.parametrize("value", ['a;b="' + "\\a" * 50_000, "a" + " " * 100_000 + "b", "a;" * 50_000, "," * 100_000])
def test_long_nonsense_takes_no_more_than_linear_time(value: str) -> None:
    # With backtracking that multiplies, this would not end within the life of the test run.
    assert parse_extensions(value) in (None, [])


def test_a_response_takes_headers_in_any_form() -> None:
    pairs = [("A", "1"), ("B", "2")]
    for headers in (Headers(pairs), pairs, dict(pairs)):
        assert list(Response(200, headers).headers) == pairs


def test_the_body_of_a_response_must_be_bytes() -> None:
    with pytest.raises(TypeError, match="body is of type str; it must be bytes"):
        Response(200, body="text")  # type: ignore[arg-type]
