from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsconnkit.protocol.errors import InvalidURI
from wsconnkit.protocol.uri import URI, parse_uri


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("ws://example.org", URI(False, "example.org", 80, "/", None, None)),
        ("wss://example.org", URI(True, "example.org", 443, "/", None, None)),
        ("ws://example.org/", URI(False, "example.org", 80, "/", None, None)),
        ("ws://example.org:8080/a/b", URI(False, "example.org", 8080, "/a/b", None, None)),
        ("ws://example.org:0/", URI(False, "example.org", 0, "/", None, None)),
        ("ws://example.org/?", URI(False, "example.org", 80, "/", None, None)),
        ("ws://example.org?a=b", URI(False, "example.org", 80, "/?a=b", None, None)),
        ("ws://example.org/a?b=c&d=e?f", URI(False, "example.org", 80, "/a?b=c&d=e?f", None, None)),
        ("WSS://EXAMPLE.Org/A", URI(True, "example.org", 443, "/A", None, None)),
        ("ws://127.0.0.1:3001/ws", URI(False, "127.0.0.1", 3001, "/ws", None, None)),
    ],
)
def test_parses_the_parts(uri: str, parts: URI) -> None:
    assert parse_uri(uri) == parts


def test_neither_password_nor_query_is_in_its_repr() -> None:
    assert repr(parse_uri("wss://ada:secret@[::1]:1/a?token=secret")) == "<URI: wss://[::1]:1/a>"
    assert repr(parse_uri("ws://example.org")) == "<URI: ws://example.org/>"


@pytest.mark.parametrize(
    ("uri", "host", "header"),
    [
        ("ws://example.org", "example.org", "example.org"),
        ("ws://example.org:80", "example.org", "example.org"),
        ("wss://example.org:443", "example.org", "example.org"),
        ("ws://example.org:443", "example.org", "example.org:443"),
        ("wss://example.org:80", "example.org", "example.org:80"),
        ("ws://[::1]/", "::1", "[::1]"),
        ("wss://[2001:db8::1]:8443/", "2001:db8::1", "[2001:db8::1]:8443"),
        ("ws://bücher.example:8080/", "xn--bcher-kva.example", "xn--bcher-kva.example:8080"),
        ("wss://faß.de/", "xn--fa-hia.de", "xn--fa-hia.de"),  # IDNA 2003 makes fass.de of it
        ("wss://name./", "name.", "name."),
        ("ws://[fe80::1%25eth0]:8080/", "fe80::1%eth0", "[fe80::1]:8080"),
        ("ws://xn--bcher-kva.example/", "xn--bcher-kva.example", "xn--bcher-kva.example"),
    ],
)
def test_host_is_for_the_resolver_and_the_host_header_for_the_request(uri: str, host: str, header: str) -> None:
    parsed = parse_uri(uri)
    assert parsed.host == host
    assert parsed.host_header == header


@pytest.mark.parametrize(
    ("userinfo", "user", "password"),
    [
        ("alice:s3cret@", "alice", "s3cret"),
        ("alice@", "alice", None),
        ("alice:@", "alice", ""),
        (":s3cret@", "", "s3cret"),
        ("al%40ice:s%3Acret%2F@", "al@ice", "s:cret/"),
        ("alice:a:b@", "alice", "a:b"),
        ("alice:a@b@", "alice", "a@b"),
        ("", None, None),
    ],
)
def test_userinfo_is_split_and_decoded(userinfo: str, user: str | None, password: str | None) -> None:
    parsed = parse_uri(f"ws://{userinfo}example.org:81/p")
    assert (parsed.user, parsed.password) == (user, password)
    assert (parsed.host_header, parsed.resource) == ("example.org:81", "/p")


@pytest.mark.parametrize(
    ("written", "resource"),
    [
        ("/a b", "/a%20b"),
        ("/ü?ü=ö", "/%C3%BC?%C3%BC=%C3%B6"),
        ("/a%20b%2Fc?d=%26", "/a%20b%2Fc?d=%26"),  # what is encoded stays so, and is not encoded again
        ('/"<>\\^`{|}', "/%22%3C%3E%5C%5E%60%7B%7C%7D"),
        ("/:@!$&'()*+,;=~-._", "/:@!$&'()*+,;=~-._"),
        ("/?[]/?:@!$&'()*+,;=~-._", "/?[]/?:@!$&'()*+,;=~-._"),
        ("/a%23b", "/a%23b"),
        ("//a//b", "//a//b"),
    ],
)
def test_what_http_does_not_allow_in_a_target_is_percent_encoded(written: str, resource: str) -> None:
    assert parse_uri("ws://example.org" + written).resource == resource


@pytest.mark.parametrize("uri", ["ws://example.org/a\r\nX-Evil: 1", "ws://example.org/?a\r\nb", "ws://exa\nmple.org/"])
def test_line_breaks_cannot_reach_the_request(uri: str) -> None:
    parsed = parse_uri(uri)
    assert not re.search(r"\s", parsed.resource + parsed.host_header)


@pytest.mark.parametrize("around", ["\n", " ", "\t\0\x1f "])
def test_spaces_and_controls_around_it_are_no_part_of_it(around: str) -> None:
    # WHATWG URL, section 4.4; a file or a variable often ends in a newline.
    assert parse_uri(f"{around}ws://example.org/a{around}") == parse_uri("ws://example.org/a")


MALFORMED = "the URI cannot be parsed; write ws://host:port/path, and %-encode what is special"
SCHEME = " another scheme than ws and wss; write ws://host:port/path"
NO_SCHEME = " no scheme; write ws:// or wss:// in front, as in ws://host:port/path"
HOST = "in the URI, the host is missing; write ws://host:port/path"
FRAGMENT = "the URI has a fragment; write a '#' in a path or query as %23"
PORT = "; it must be a number from 0 to 65535"
ORDER = "in the URI, the brackets are not in order; write an IPv6 address as in ws://[::1]:port/path"
BRACKETS = "; write an IPv6 address in brackets, as in ws://[::1]:port/path"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("http://example.org/", "the URI 'http://example.org/' has" + SCHEME),
        ("wsss://example.org/", "the URI 'wsss://example.org/' has" + SCHEME),
        ("http:///#a", "the URI 'http:///' has" + SCHEME),  # the first fault is the one that is told
        ("http://example.org:port/", "the URI 'http://example.org:port/' has" + SCHEME),
        ("http://[::1/", MALFORMED),
        ("localhost:3001", "the URI 'localhost:3001' has" + NO_SCHEME),
        ("example.org/ws", "the URI 'example.org/ws' has" + NO_SCHEME),
        ("//example.org/ws", "the URI '//example.org/ws' has" + NO_SCHEME),
        ("", "the URI '' has" + NO_SCHEME),
        ("ws:///path", HOST),
        ("ws:/path", HOST),
        ("ws://:80/", HOST),
        ("ws://alice@/", HOST),
        ("ws:///#a", HOST),
        ("ws://example.org/#", FRAGMENT),
        ("ws://example.org#", FRAGMENT),
        ("ws://example.org/a#b", FRAGMENT),
        ("ws://example.org/?a#b", FRAGMENT),
        ("ws://x:99999/", "in the URI, the port is '99999'" + PORT),
        ("ws://example.org:port/", "in the URI, the port is 'port'" + PORT),
        ("ws://example.org:65536/", "in the URI, the port is '65536'" + PORT),
        ("ws://example.org:-1/", "in the URI, the port is '-1'" + PORT),
        ("ws://example.org:\N{ARABIC-INDIC DIGIT ONE}/", "in the URI, the port is '\N{ARABIC-INDIC DIGIT ONE}'" + PORT),
        (f"ws://example.org:{'1' * 5000}/", f"in the URI, the port is '{'1' * 5000}'" + PORT),
        ("ws://::1/", "in the URI, the host is '::1'" + BRACKETS),
        ("ws://fe80::1:80/", "in the URI, the host is 'fe80::1:80'" + BRACKETS),
        ("ws://[::1/", MALFORMED),
        ("ws://::1]/", ORDER),
        ("ws://[::1]x/", ORDER),
        ("ws://x[::1]/", ORDER),
        ("ws://a:%FF@example.org/", MALFORMED),  # or other credentials would be sent than were meant
        ("ws://[::g]/", "in the URI, the host '[::g]' is no IPv6 address"),
    ],
    ids=lambda text: text[:30],
)
def test_other_uris_are_refused_with_what_is_wrong(uri: str, message: str) -> None:
    with pytest.raises(InvalidURI) as caught:
        parse_uri(uri)
    # What it takes for brackets differs between versions of Python.
    assert str(caught.value) in ({message, MALFORMED} if "]" in uri else {message})


@pytest.mark.parametrize(
    "uri", ["ws://example.org/\ud800", "ws://example.org/?\ud800", "ws://\ud800/", "ws://\ud800@a/", "ws://a:\ud800@a/"]
)
def test_text_that_utf_8_cannot_carry_is_an_invalid_uri(uri: str) -> None:
    # A user and a password travel as UTF-8 too (in Authorization).
    with pytest.raises(InvalidURI) as caught:
        parse_uri(uri)
    assert str(caught.value) == MALFORMED


@pytest.mark.parametrize(
    "uri",
    [
        "http://alice:hunter2@example.org/",
        "http://alice:x@hunter2@example.org/",
        "ws://alice:hunter2@example.org:port/",
        "ws://alice:hunter2@example.org/#fragment",
        "ws://alice:hunter2@/path",
        "ws://alice:hunter2@[::1/",
        "http://example.org/?token=hunter2",
        "ws://example.org:port/?token=hunter2",
        "ws://example.org/?token=hunter2#fragment",
        "ws:///?token=hunter2",
        "example.org/ws?token=hunter2",
        # An "@" in the query is no userinfo.
        "ws://example.org/?mail=me@example.org&token=hunter2#fragment",
        "http://example.org/?mail=me@example.org&token=hunter2",
        # The standard library's own words quote the whole authority, or what it took for a port.
        "ws://alice:hunter2@ex\N{ACCOUNT OF}ample.org/",
        "ws://alice:hunter2/3@example.org/",
        "ws://alice:hunter2?3@example.org/",
        "ws://alice:hunter2#3@example.org/",
        "ws://hunter2!/3@example.org/",
        "ws://hunter2:99999/3@example.org/",
        # A scheme forgotten or mistyped.
        "alice:hunter2@example.org",
        "ws:alice:hunter2@example.org",
        "ws:/alice:hunter2@example.org",
        "//alice:hunter2@example.org/",
        # OAuth's implicit flow puts tokens into fragments.
        "ws://example.org/#token=hunter2",
    ],
)
def test_no_password_and_no_token_in_an_error(uri: str) -> None:
    with pytest.raises(InvalidURI) as caught:
        parse_uri(uri)
    assert len(caught.value.args) == 1
    assert "hunter2" not in str(caught.value)
    # A traceback would show what an error before this one says.
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__


HOSTS = st.sampled_from(["example.org", "a.b.c", "127.0.0.1", "::1", "2001:db8::1", "localhost"])
TEXT = st.text(st.characters(codec="utf-8"), max_size=10)


def encoded(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode())


@settings(deadline=None, max_examples=150)
@given(st.booleans(), HOSTS, st.none() | st.integers(0, 65535), TEXT, TEXT, TEXT)
def test_what_is_put_together_comes_apart_again(
    secure: bool, host: str, port: int | None, user: str, password: str, path: str
) -> None:
    literal = f"[{host}]" if ":" in host else host
    authority = f"{encoded(user)}:{encoded(password)}@{literal}" + ("" if port is None else f":{port}")
    parsed = parse_uri(f"{'wss' if secure else 'ws'}://{authority}/{encoded(path)}")
    default = 443 if secure else 80
    assert parsed == URI(secure, host, default if port is None else port, f"/{encoded(path)}", user, password)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(["", "ws:", "ws://", "ws://example.org/", "wss://a:b@"]), st.text() | st.text("ws:/@[]?#%.1"))
def test_any_text_is_a_uri_that_http_can_carry_or_is_refused(start: str, rest: str) -> None:
    try:
        parsed = parse_uri(start + rest)
    except InvalidURI:
        return
    assert re.fullmatch(r"/[!-~]*", parsed.resource)
    assert parsed.host.isascii()
    assert 0 <= parsed.port <= 65535
