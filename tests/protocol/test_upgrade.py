from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.deflate import DeflateParams
from wsconnkit.protocol.errors import LocalProtocolError
from wsconnkit.protocol.http import ExtensionOffer, Headers, Response
from wsconnkit.protocol.upgrade import (
    Agreement,
    HTTPRequest,
    UpgradeRequest,
    accept_key,
    agree,
    ask,
    check_answer,
    check_path,
    check_request,
    check_subprotocols,
    check_upgrade,
    refusal,
)
from wsconnkit.protocol.uri import parse_uri

from .handshakes import ACCEPT, KEY, NO_URIS, PLAIN, RESERVED


def changed(usual: dict[str, str], given: Sequence[tuple[str, str]], without: str) -> Headers:
    """Return the `usual` headers; those that are given replace those of the same name."""
    names = {name.lower() for name, _ in given} | {without.lower()}
    return Headers([*(item for item in usual.items() if item[0].lower() not in names), *given])


def asking(*given: tuple[str, str], without: str = "") -> Headers:
    """Return the headers of a request for a WebSocket."""
    usual = {
        "Connection": "keep-alive, Upgrade",
        "Upgrade": "WebSocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": KEY,
    }
    return changed(usual, given, without)


def answering(*given: tuple[str, str], without: str = "") -> Headers:
    """Return the headers of a 101 that answers KEY."""
    usual = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": ACCEPT}
    return changed(usual, given, without)


# What the client asks for.


EXAMPLE = parse_uri("ws://example.org/ws")


def test_ask_for_the_example_of_the_rfc() -> None:
    asked = ask(parse_uri("ws://example.org:8080/ws?a=b"), PLAIN, KEY)
    assert (asked.target, asked.path, asked.key) == ("/ws?a=b", "/ws", KEY)
    assert (asked.subprotocols, asked.extensions) == ((), ())
    assert list(asked.headers) == [
        ("Host", "example.org:8080"),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", KEY),
        ("Sec-WebSocket-Version", "13"),
        ("User-Agent", "wsconnkit"),
    ]


def test_ask_for_subprotocols_and_compression() -> None:
    asked = ask(EXAMPLE, ConnectionConfig(), KEY, subprotocols=("b", "a"))
    assert asked.headers.get("Sec-WebSocket-Protocol") == "b, a"
    assert asked.subprotocols == ("b", "a")
    offers = [
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover; client_max_window_bits",
        "permessage-deflate; client_max_window_bits",
    ]
    assert asked.headers.get_all("Sec-WebSocket-Extensions") == [", ".join(offers)]
    assert [extension.name for extension in asked.extensions] == ["permessage-deflate"] * 2


def test_subprotocols_that_differ_only_in_case_are_distinct() -> None:
    asked = ask(EXAMPLE, PLAIN, KEY, subprotocols=("a", "A"))
    assert asked.headers.get("Sec-WebSocket-Protocol") == "a, A"


@pytest.mark.parametrize(
    ("userinfo", "credentials"),
    [
        ("alice:s3cret@", b"alice:s3cret"),
        ("alice@", b"alice:"),
        ("al%C3%AFce:p%3Aw@", "alïce:p:w".encode()),
        (":x@", b":x"),
    ],
)
def test_ask_with_the_credentials_of_the_uri(userinfo: str, credentials: bytes) -> None:
    asked = ask(parse_uri(f"ws://{userinfo}example.org/"), PLAIN, KEY)
    assert asked.headers.get("Authorization") == f"Basic {base64.b64encode(credentials).decode()}"
    assert asked.headers.get("Host") == "example.org"


def test_headers_that_are_given_replace_ours() -> None:
    given_headers = [
        ("X-A", "1"),
        ("X-A", "2"),
        ("host", "other.example"),
        ("AUTHORIZATION", "Bearer token"),
        ("user-agent", "a/1"),
    ]
    asked = ask(parse_uri("ws://alice:s3cret@example.org/"), PLAIN, KEY, headers=given_headers)
    assert asked.headers.get_all("X-A") == ["1", "2"]
    assert next(iter(asked.headers)) == ("Host", "other.example")
    assert asked.headers.get_all("Host") == ["other.example"]
    assert asked.headers.get_all("Authorization") == ["Bearer token"]
    assert asked.headers.get_all("User-Agent") == ["a/1"]


@pytest.mark.parametrize("name", RESERVED)
def test_headers_of_the_handshake_itself_cannot_be_given(name: str) -> None:
    asked = ask(EXAMPLE, PLAIN, KEY)
    for written in (name, name.upper(), name.lower()):
        message = f"^the header '{written}' belongs to the handshake; it cannot be given$"
        with pytest.raises(LocalProtocolError, match=message):
            ask(EXAMPLE, PLAIN, KEY, headers=[("X-A", "1"), (written, "1")])
        with pytest.raises(LocalProtocolError, match=message):
            agree(asked, PLAIN, headers={written: "1"})


@pytest.mark.parametrize(
    "subprotocols",
    [
        ("a\r\nX-Evil: 1",),
        ("a\x00",),
        ("a", "b c"),
        ("a, b",),
        ("a;b",),
        ("",),
        ("\xe9",),
        ("\N{SNOWMAN}",),
        ("a", "b", "a"),
        ["a", "a"],
        # A str is a sequence too, of subprotocols that nobody meant.
        "chat",
        "a",
        "",
        b"ab",
        {"a"},
        (5,),
        (None,),
        None,
    ],
)
def test_subprotocols_must_be_distinct_tokens(subprotocols: Any) -> None:
    # A server of ours would refuse them (RFC 6455, section 4.1), and a line break would bring in a header.
    asked = ask(EXAMPLE, PLAIN, KEY)
    for call in (
        lambda: check_subprotocols(subprotocols),
        lambda: ask(EXAMPLE, PLAIN, KEY, subprotocols=subprotocols),
        lambda: agree(asked, PLAIN, subprotocols=subprotocols),
    ):
        with pytest.raises(LocalProtocolError) as caught:
            call()
        assert str(caught.value) == f"subprotocols is {subprotocols!r}; it must be a list of distinct tokens"


@pytest.mark.parametrize("subprotocols", [(), [], ("a",), ["b", "a"], ("a", "A"), ("v1.chat~!#$%&'*+-.^_`|",)])
def test_distinct_tokens_are_subprotocols_in_their_order(subprotocols: Sequence[str]) -> None:
    assert check_subprotocols(subprotocols) == tuple(subprotocols)
    assert ask(EXAMPLE, PLAIN, KEY, subprotocols=subprotocols).subprotocols == tuple(subprotocols)
    for name in subprotocols:
        asked = ask(EXAMPLE, PLAIN, KEY, subprotocols=(name,))
        assert agree(asked, PLAIN, subprotocols=subprotocols).subprotocol == name


def test_requests_show_neither_query_nor_headers() -> None:
    asked = ask(parse_uri("ws://example.org/ws?token=secret"), PLAIN, KEY, subprotocols=("secret",))
    assert repr(asked) == "<UpgradeRequest '/ws'>"
    assert repr(HTTPRequest("GET", "/healthz?token=secret", Headers())) == "<HTTPRequest GET '/healthz'>"


# What the server makes of it.


def test_check_upgrade_works_for_servers_that_parse_http_themselves() -> None:
    checked = check_upgrade(
        "GET",
        "/ws?a=b",
        "1.1",
        asking(("Sec-WebSocket-Protocol", "a, b"), ("Sec-WebSocket-Extensions", "x; y=1, z")),
    )
    assert isinstance(checked, UpgradeRequest)
    assert (checked.target, checked.path, checked.key) == ("/ws?a=b", "/ws", KEY)
    assert checked.subprotocols == ("a", "b")
    assert checked.extensions == (ExtensionOffer("x", (("y", "1"),)), ExtensionOffer("z"))


@pytest.mark.parametrize(
    ("version", "status"),
    [
        ("1.1", None),
        # A higher minor version is taken for the highest that one knows (RFC 9110, section 2.5).
        ("1.2", None),
        ("1.9", None),
        # In HTTP/1.0 an Upgrade is ignored (RFC 9110, section 7.8).
        ("1.0", 426),
        # HTTP/2 has no such header (RFC 9113, section 8.2.2).
        *((version, 505) for version in ("0.9", "1", "1.10", "1.1 ", "HTTP/1.1", "2", "2.0", "3", "")),
    ],
)
def test_check_upgrade_needs_http_1_1(version: str, status: int | None) -> None:
    checked = check_upgrade("GET", "/", version, asking())
    assert (checked.status if isinstance(checked, Response) else None) == status


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/", "/"),
        ("/a/b?c/d", "/a/b"),
        ("//a//b", "//a//b"),
        ("/%61?x", "/%61"),
        ("/a;b", "/a;b"),
        # The absolute form, which a server must accept (RFC 9112, section 3.2.2).
        ("http://example.org/a?b", "/a"),
        ("ws://example.org:8080/a/b", "/a/b"),
        ("http://example.org", "/"),
        ("http://example.org?x", "/"),
        ("HTTP://example.org/a", "/a"),
        ("https://example.org/a?b", "/a"),
        ("wss://example.org?x", "/"),
        ("WSS://[2001:db8::1]:/a//b", "/a//b"),
    ],
)
def test_path_is_the_target_without_query_and_authority(target: str, path: str) -> None:
    assert UpgradeRequest(target, Headers(), KEY, (), ()).path == path


@pytest.mark.parametrize("target", [*NO_URIS, "http://\N{ACCOUNT OF}/ws", ""])
def test_no_target_is_too_strange_to_have_a_path(target: str) -> None:
    assert UpgradeRequest(target, Headers(), KEY, (), ()).path == "/"


def test_a_target_on_which_versions_of_python_differ_has_a_path_too() -> None:
    assert UpgradeRequest("http://[x]/ws", Headers(), KEY, (), ()).path in ("/", "/ws")


@pytest.mark.parametrize("target", [*NO_URIS, "http://\N{ACCOUNT OF}/ws", ""])
def test_check_upgrade_refuses_a_target_that_is_no_uri(target: str) -> None:
    checked = check_upgrade("GET", target, "1.1", asking())
    assert isinstance(checked, Response)
    assert (checked.status, json.loads(checked.body)) == (400, {"error": "the request target is no URI"})
    # Not even a client that could not open a WebSocket anyway is told to try again with another version.
    checked = check_upgrade("GET", target, "1.0", Headers())
    assert isinstance(checked, Response)
    assert checked.status == 400


@pytest.mark.parametrize("target", ["ht\ntp://a/b", " http://a/b", "http://a/b\n", "/\x00", "/a b", "/a#b", "", "*"])
def test_check_upgrade_refuses_targets_that_no_request_has(target: str) -> None:
    checked = check_upgrade("GET", target, "1.1", Headers())
    assert isinstance(checked, Response)
    assert (checked.status, json.loads(checked.body)) == (400, {"error": "the request target is no URI"})


VERSION = {"Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
REFUSED: dict[str, tuple[Headers, int, dict[str, str], str]] = {
    "no upgrade": (asking(without="Upgrade"), 426, VERSION, "this is a WebSocket endpoint"),
    "other upgrade": (asking(("Upgrade", "h2c")), 426, VERSION, "this is a WebSocket endpoint"),
    "no connection": (asking(without="Connection"), 426, VERSION, "this is a WebSocket endpoint"),
    "other connection": (asking(("Connection", "keep-alive")), 426, VERSION, "this is a WebSocket endpoint"),
    "strange connection": (asking(("Connection", "\xff\xfe")), 426, VERSION, "this is a WebSocket endpoint"),
    "no version": (asking(without="Sec-WebSocket-Version"), 426, VERSION, "Sec-WebSocket-Version must be 13"),
    "old version": (asking(("Sec-WebSocket-Version", "8")), 426, VERSION, "Sec-WebSocket-Version must be 13"),
    "two versions": (asking(("Sec-WebSocket-Version", "13, 8")), 426, VERSION, "Sec-WebSocket-Version must be 13"),
    "body": (asking(("Content-Length", "5")), 400, {}, "has no body"),
    "chunked": (asking(("Transfer-Encoding", "chunked")), 400, {}, "has no body"),
    "no key": (asking(without="Sec-WebSocket-Key"), 400, {}, "Sec-WebSocket-Key must be 16 bytes"),
    "short key": (asking(("Sec-WebSocket-Key", "Zm9v")), 400, {}, "Sec-WebSocket-Key must be 16 bytes"),
    "no base64": (asking(("Sec-WebSocket-Key", "*" * 24)), 400, {}, "Sec-WebSocket-Key must be 16 bytes"),
    "padding": (asking(("Sec-WebSocket-Key", KEY[:-1])), 400, {}, "Sec-WebSocket-Key must be 16 bytes"),
    "strange key": (asking(("Sec-WebSocket-Key", "\xe9" + KEY)), 400, {}, "Sec-WebSocket-Key must be 16 bytes"),
    "two keys": (asking(*[("Sec-WebSocket-Key", KEY)] * 2), 400, {}, "Sec-WebSocket-Key must be 16 bytes"),
    "subprotocol": (asking(("Sec-WebSocket-Protocol", "a b")), 400, {}, "must list distinct tokens"),
    "same subprotocols": (asking(("Sec-WebSocket-Protocol", "a, b, a")), 400, {}, "must list distinct tokens"),
    "extensions": (
        asking(("Sec-WebSocket-Extensions", "permessage-deflate; ;")),
        400,
        {},
        "Sec-WebSocket-Extensions is malformed",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_check_upgrade_refuses_what_asks_for_no_websocket_or_wrongly(name: str) -> None:
    headers, status, more, error = REFUSED[name]
    checked = check_upgrade("GET", "/ws", "1.1", headers)
    assert isinstance(checked, Response)
    assert checked.status == status
    assert error in json.loads(checked.body)["error"]
    assert list(checked.headers) == [("Content-Type", "application/json"), *more.items()]


@pytest.mark.parametrize("method", ["POST", "HEAD", "CONNECT", "get", ""])
def test_check_upgrade_needs_get(method: str) -> None:
    checked = check_upgrade(method, "/ws", "1.1", asking())
    assert isinstance(checked, Response)
    assert (checked.status, checked.headers.get("Allow")) == (405, "GET")
    assert json.loads(checked.body) == {"error": f"the method is {method}; a WebSocket opens with GET"}


@pytest.mark.parametrize(
    ("target", "path", "status"),
    [
        ("/ws", "/ws", None),
        ("/ws?a=b", "/ws", None),
        ("/other", None, None),
        ("/other", "/ws", 404),
        ("/w", "/ws", 404),
    ],
)
def test_check_path_refuses_requests_for_another_path(target: str, path: str | None, status: int | None) -> None:
    refused = check_path(UpgradeRequest(target, Headers(), KEY, (), ()), path)
    assert (None if refused is None else refused.status) == status


@pytest.mark.parametrize("http", [False, True])
@pytest.mark.parametrize(
    ("target", "path", "status"),
    [
        ("/ws", None, None),
        ("/ws?a=b", "/ws", None),
        ("http://example.org/ws", "/ws", None),
        ("/other", None, None),
        ("/other", "/ws", 404),
        ("/ws/", "/ws", 404),
        ("http://ws/other", "/ws", 404),
        ("*", "/ws", 400),
        ("*", None, 400),
    ],
)
def test_check_request_lets_upgrades_to_its_path_through(
    target: str, path: str | None, status: int | None, http: bool
) -> None:
    checked = check_request("GET", target, "1.1", asking(), path=path, http=http)
    assert (checked.status if isinstance(checked, Response) else None) == status
    if status is None:
        assert isinstance(checked, UpgradeRequest)
        assert checked.target == target


@pytest.mark.parametrize("target", ["/ws", "/healthz?x=1", "http://example.org/ws"])
@pytest.mark.parametrize(("method", "version"), [("GET", "1.1"), ("POST", "1.1"), ("HEAD", "1.0")])
def test_check_request_lets_other_requests_through_where_it_is_told_to(method: str, version: str, target: str) -> None:
    headers = Headers({"Host": "example.org", "Upgrade": "h2c", "X-A": "1"})
    checked = check_request(method, target, version, headers, path="/ws", http=True)
    assert isinstance(checked, HTTPRequest)
    assert (checked.method, checked.target) == (method, target)
    assert (checked.headers.get("Host"), checked.headers.get("X-A")) == ("example.org", "1")
    assert isinstance(check_request(method, target, version, headers, path="/ws", http=False), Response)


@pytest.mark.parametrize("headers", [Headers(), asking()])
def test_check_request_lets_no_target_through_that_is_no_uri(headers: Headers) -> None:
    checked = check_request("GET", "/ws#a", "1.1", headers, path=None, http=True)
    assert isinstance(checked, Response)
    assert (checked.status, json.loads(checked.body)) == (400, {"error": "the request target is no URI"})


def test_an_upgrade_that_is_malformed_is_no_other_request() -> None:
    checked = check_request("GET", "/", "1.1", asking(without="Sec-WebSocket-Key"), path=None, http=True)
    assert isinstance(checked, Response)
    assert checked.status == 400


def passed(method: str, target: str, version: str, headers: Headers) -> UpgradeRequest | HTTPRequest | Response:
    return check_request(method, target, version, headers, path=None, http=True)


@pytest.mark.parametrize(
    "host", ["", "example.org", "example.org:", "example.org:80", "127.0.0.1", "[::1]:8080", "a_b"]
)
def test_check_request_takes_a_host_with_or_without_a_port(host: str) -> None:
    assert isinstance(passed("GET", "/", "1.1", asking(("Host", host), without="Host")), UpgradeRequest)
    assert isinstance(passed("GET", "/", "1.1", Headers({"Host": host})), HTTPRequest)


@pytest.mark.parametrize(
    "host",
    ["a b", "alice@example.org", "http://a", "a/b", "a:b", ":80", "[::1", "::1", "a\x00", "\xe9", "a?", "a#b"],
)
@pytest.mark.parametrize("target", ["/", "http://example.org/"])
def test_check_request_refuses_a_host_that_is_none(host: str, target: str) -> None:
    for headers in (asking(("Host", host), without="Host"), Headers({"Host": host})):
        checked = passed("GET", target, "1.1", headers)
        assert isinstance(checked, Response)
        assert (checked.status, json.loads(checked.body)["error"]) == (400, "Host is no host, with or without a port")


def test_the_host_of_an_absolute_target_overrules_the_header() -> None:
    headers = asking(("Host", "front.example"), ("X-A", "1"), without="Host")
    for given in (headers, Headers({"Host": "front.example", "X-A": "1"}), Headers({"X-A": "1"})):
        checked = passed("GET", "http://back.example:81/ws", "1.1", given)
        assert not isinstance(checked, Response)
        assert (checked.headers.get_all("Host"), checked.headers.get("X-A")) == (["back.example:81"], "1")
        assert checked.target == "http://back.example:81/ws"


def test_an_upgrade_in_http_1_0_is_a_plain_request() -> None:
    checked = passed("GET", "/", "1.0", asking())
    assert isinstance(checked, HTTPRequest)
    assert "Upgrade" not in checked.headers
    refused = check_request("GET", "/", "1.0", asking(), path=None, http=False)
    assert isinstance(refused, Response)
    assert refused.status == 426


@pytest.mark.parametrize(("version", "status"), [("2.0", 505), ("0.9", 505)])
def test_another_major_version_is_refused_whatever_is_asked_for(version: str, status: int) -> None:
    for headers in (asking(), Headers({"Host": "a"})):
        checked = passed("GET", "/", version, headers)
        assert isinstance(checked, Response)
        assert checked.status == status


@pytest.mark.parametrize("target", ["example.org:443", "/", "http://example.org/"])
def test_no_tunnel_is_asked_of_the_application(target: str) -> None:
    checked = passed("CONNECT", target, "1.1", Headers({"Host": "a"}))
    assert isinstance(checked, Response)
    assert (checked.status, checked.headers.get("Allow")) == (405, "GET")


# What the server answers.


def test_accept_key_of_the_rfc() -> None:
    assert accept_key(KEY) == ACCEPT


def test_a_refusal_is_json_that_says_why() -> None:
    made = refusal(403, 'the "Origin" is not welcome', {"X-A": "1"})
    assert made.status == 403
    assert json.loads(made.body) == {"error": 'the "Origin" is not welcome'}
    assert list(made.headers) == [("Content-Type", "application/json"), ("X-A", "1")]


@pytest.mark.parametrize(
    ("ours", "theirs", "chosen"),
    [
        ((), (), None),
        (("a",), (), None),
        ((), ("a",), None),
        (("a", "b"), ("b", "a"), "a"),
        (("a", "b"), ("c", "b"), "b"),
        (("A",), ("a",), None),
    ],
)
def test_agree_chooses_the_subprotocol_that_we_prefer(
    ours: tuple[str, ...], theirs: tuple[str, ...], chosen: str | None
) -> None:
    asked = UpgradeRequest("/", Headers(), KEY, theirs, ())
    agreement = agree(asked, PLAIN, subprotocols=ours, headers={"X-A": "1"})
    assert agreement.subprotocol == chosen
    assert agreement.headers.get("Sec-WebSocket-Protocol") == chosen
    assert agreement.headers.get("Sec-WebSocket-Accept") == ACCEPT
    assert agreement.headers.get("X-A") == "1"
    assert agreement.deflate is None


def test_agree_compresses_only_where_both_want_to() -> None:
    offer = ExtensionOffer("permessage-deflate")
    asked = UpgradeRequest("/", Headers(), KEY, (), (offer,))
    agreement = agree(asked, ConnectionConfig())
    assert agreement.deflate == DeflateParams(True, True, 15, 15)
    answer = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
    assert agreement.headers.get_all("Sec-WebSocket-Extensions") == [answer]
    # A window that the client names is in the answer, although the parameters alone do not need it.
    named = replace(asked, extensions=(ExtensionOffer(offer.name, (("server_max_window_bits", "15"),)),))
    agreement = agree(named, ConnectionConfig())
    assert agreement.deflate == DeflateParams(True, True, 15, 15)
    assert agreement.headers.get_all("Sec-WebSocket-Extensions") == [answer + "; server_max_window_bits=15"]
    for nothing in (agree(asked, PLAIN), agree(replace(asked, extensions=()), ConnectionConfig())):
        assert nothing.deflate is None
        assert "Sec-WebSocket-Extensions" not in nothing.headers


# What the client makes of that.


DEFLATE = "permessage-deflate; server_no_context_takeover"


def extension(answer: str) -> tuple[str, str]:
    return ("Sec-WebSocket-Extensions", answer)


@pytest.mark.parametrize(
    "headers",
    [
        answering(),
        answering(("Upgrade", "WebSocket"), ("Connection", "keep-alive, UPGRADE")),
        answering(extension("")),
        answering(extension(",")),
    ],
)
def test_check_answer_takes_an_answer_to_our_key(headers: Headers) -> None:
    for config in (PLAIN, ConnectionConfig()):
        assert check_answer(ask(EXAMPLE, config, KEY), config, "1.1", headers) == Agreement(headers, None, None)


def test_check_answer_tells_what_was_agreed_on() -> None:
    asked = ask(EXAMPLE, ConnectionConfig(), KEY, subprotocols=("a", "b"))
    answer = "permessage-deflate; server_no_context_takeover; server_max_window_bits=10"
    headers = answering(("Sec-WebSocket-Protocol", "b"), extension(answer))
    agreement = check_answer(asked, ConnectionConfig(), "1.1", headers)
    assert agreement == Agreement(headers, "b", DeflateParams(True, True, 10, 15))


@pytest.mark.parametrize(
    ("headers", "wrong"),
    [
        (answering(without="Upgrade"), "Upgrade is not websocket"),
        (answering(("Upgrade", "h2c")), "Upgrade is not websocket"),
        (answering(("Upgrade", "websocket, h2c")), "Upgrade is not websocket"),
        (answering(without="Connection"), "Connection does not name Upgrade"),
        (answering(("Connection", "keep-alive")), "Connection does not name Upgrade"),
        (answering(("Connection", "\xff")), "Connection does not name Upgrade"),
        (answering(without="Sec-WebSocket-Accept"), "Sec-WebSocket-Accept does not answer our key"),
        (answering(("Sec-WebSocket-Accept", ACCEPT.lower())), "Sec-WebSocket-Accept does not answer our key"),
        (answering(("Sec-WebSocket-Accept", KEY)), "Sec-WebSocket-Accept does not answer our key"),
        *(
            (answering(("Sec-WebSocket-Protocol", name)), f"it chose the subprotocol {name!r}, which was not offered")
            for name in ("c", "a, b", "A", "")
        ),
        *(
            (answering(*map(extension, answers)), "Sec-WebSocket-Extensions is not an answer to what was offered")
            for answers in (
                ["unknown"],
                ["permessage-deflate; server_max_window_bits"],
                [DEFLATE, DEFLATE],
                [DEFLATE + ", unknown"],
                [DEFLATE + "; ;"],
            )
        ),
    ],
)
def test_check_answer_says_what_is_wrong_with_an_answer(headers: Headers, wrong: str) -> None:
    asked = ask(EXAMPLE, ConnectionConfig(), KEY, subprotocols=("a", "b"))
    assert check_answer(asked, ConnectionConfig(), "1.1", headers) == wrong


@pytest.mark.parametrize("version", ["1.0", "0.9", "1.10", "2.0"])
def test_check_answer_needs_http_1_1(version: str) -> None:
    # A proxy may have answered that does not know what it switches to, whatever else it says.
    asked = ask(EXAMPLE, PLAIN, KEY)
    for headers in (answering(), answering(("Upgrade", "h2c"))):
        assert check_answer(asked, PLAIN, version, headers) == "it is not HTTP/1.1"
    assert isinstance(check_answer(asked, PLAIN, "1.2", answering()), Agreement)


@pytest.mark.parametrize(
    "header", [extension(DEFLATE), ("Sec-WebSocket-Protocol", "a"), ("Sec-WebSocket-Protocol", "")]
)
def test_check_answer_refuses_what_was_not_asked_for_at_all(header: tuple[str, str]) -> None:
    assert isinstance(check_answer(ask(EXAMPLE, PLAIN, KEY), PLAIN, "1.1", answering(header)), str)
