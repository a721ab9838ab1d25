from __future__ import annotations

import base64
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsconnkit.protocol.config import HandshakeLimits
from wsconnkit.protocol.errors import HandshakeInterrupted, InvalidHandshake, InvalidProxy, ProxyRefused
from wsconnkit.protocol.proxy import Proxy, Tunnel, authority, environment_proxy, is_loopback, parse_proxy

PROXY = Proxy(False, "proxy.example.org", 3128)


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("http://proxy.example.org:3128", PROXY),
        ("http://proxy.example.org:3128/", PROXY),
        ("HTTP://proxy.example.org:3128", PROXY),
        ("proxy.example.org:3128", PROXY),
        ("http://proxy.example.org", Proxy(False, "proxy.example.org", 80)),
        ("https://proxy.example.org", Proxy(True, "proxy.example.org", 443)),
        ("http://[2001:db8::1]:3128", Proxy(False, "2001:db8::1", 3128)),
        ("http://ada:l%40ve%3A@p:1", Proxy(False, "p", 1, "ada", "l@ve:")),
        ("ada:love@p:1", Proxy(False, "p", 1, "ada", "love")),
        ("http://ada@p:1", Proxy(False, "p", 1, "ada", None)),
        ("http://bücher.example:1", Proxy(False, "xn--bcher-kva.example", 1)),
    ],
)
def test_the_url_of_a_proxy_is_taken_apart(url: str, proxy: Proxy) -> None:
    assert parse_proxy(url) == proxy


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("socks5://p:1", "another scheme than http and https"),
        ("ftp://p:1", "another scheme than http and https"),
        ("", "cannot be parsed; write http://host:port"),
        ("http://", "cannot be parsed"),
        ("http://p:port", "cannot be parsed"),
        ("http://p:99999", "cannot be parsed"),
        ("http://p p:1", "cannot be parsed"),
        ("http://p:1#fragment", "cannot be parsed"),
        ("http://p:1/path", "has a path or a query"),
        ("http://p:1?query", "has a path or a query"),
    ],
)
def test_urls_of_no_proxy_are_refused(url: str, told: str) -> None:
    with pytest.raises(InvalidProxy, match=f"^the URL of the proxy {told}|^the URL of the proxy has {told}"):
        parse_proxy(url)


def test_passwords_are_in_no_error_and_no_repr() -> None:
    assert "secret" not in repr(parse_proxy("http://ada:secret@p:1"))
    for url in ("socks5://ada:secret@p:1", "http://ada:secret@p:port", "http://ada:secret@p:1/path"):
        with pytest.raises(InvalidProxy) as caught:
            parse_proxy(url)
        assert "secret" not in str(caught.value)


def chosen(host: str = "example.org", *, secure: bool = True, port: int = 443, **proxies: str) -> str | None:
    proxy = environment_proxy(host, port, secure=secure, proxies=proxies)
    return None if proxy is None else proxy.host


def test_without_a_word_in_the_environment_there_is_no_proxy() -> None:
    assert chosen() is None
    assert chosen(secure=False) is None


def test_the_most_particular_variable_counts() -> None:
    proxies: dict[str, Any] = {}
    for name, secure, insecure in [
        ("all", "all", "all"),
        ("http", "all", "http"),
        ("https", "https", "https"),
        ("ws", "https", "ws"),
        ("wss", "wss", "ws"),
    ]:
        proxies[name] = f"http://{name}:1"
        assert (chosen(**proxies), chosen(secure=False, **proxies)) == (secure, insecure)


@pytest.mark.parametrize("listed", ["example.org", ".example.org", "a,example.org", "*", "a, *", "example.org:443"])
def test_servers_can_be_reached_without(listed: str) -> None:
    assert chosen(https="http://p:1", no=listed) is None


@pytest.mark.parametrize(
    ("listed", "host"),
    [
        ("example.com, 10.0.0.0/8", "10.1.2.3"),
        ("10.9.9.9/8", "10.1.2.3"),
        ("10.1.2.3", "10.1.2.3"),
        ("10.1.2.3:443", "10.1.2.3"),
        ("2001:db8::/32", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("example.org", "example.org."),
        ("example.org", "a.EXAMPLE.org"),
        ("EXAMPLE.org:443", "a.example.org"),
    ],
)
def test_they_are_named_as_names_addresses_or_networks(listed: str, host: str) -> None:
    proxies: dict[str, Any] = {"https": "http://p:1", "no": listed}
    assert chosen(host, **proxies) is None
    assert chosen("11.1.2.3", **proxies) == chosen("2001:db9::1", **proxies) == chosen("other.test", **proxies) == "p"


@pytest.mark.parametrize("listed", ["", ",.,", "example.com", "ample.org", "example.org:80", "2.3", "a.example.org"])
@pytest.mark.parametrize("host", ["example.org", "2001:db8::1", "10.1.2.3"])
def test_others_are_not(listed: str, host: str) -> None:
    assert chosen(host, https="http://p:1", no=listed) == "p"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.", "app.localhost", "127.0.0.1", "127.8.8.8", "::1"])
def test_this_machine_has_names_and_addresses(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["example.org", "notlocalhost", "localhost.example.org", "10.0.0.1", "2001:db8::1"])
def test_other_machines_have_others(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize("socks", ["socks5h://s:1", "SOCKS5://s:1"])
def test_an_http_proxy_is_taken_where_there_is_a_socks_proxy_too(socks: str) -> None:
    assert chosen(https=socks, all="http://p:1") == "p"


def test_a_socks_proxy_alone_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(InvalidProxy, match=r"names only a SOCKS proxy.*pass proxy=None to connect without one"):
        chosen(all="socks5://s:1")
    assert chosen(all="socks5://s:1", no="example.org") is None


def test_the_request_names_the_server_and_its_port() -> None:
    assert Tunnel(PROXY, "example.org", 443).data_to_send() == (
        b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\nUser-Agent: wsconnkit\r\n\r\n"
    )
    assert authority("::1", 80) == "[::1]:80"


@pytest.mark.parametrize(("password", "sent"), [("l@ve:ü", "ada:l@ve:ü"), (None, "ada:")])
def test_the_request_carries_credentials(password: str | None, sent: str) -> None:
    tunnel = Tunnel(Proxy(False, "p", 1, "ada", password), "example.org", 443)
    data = tunnel.data_to_send()
    assert b"\r\nProxy-Authorization: Basic " + base64.b64encode(sent.encode()) + b"\r\n" in data
    assert tunnel.data_to_send() == b""


ANSWERS = [
    b"HTTP/1.1 200 OK\r\n\r\n",
    b"HTTP/1.0 200 Connection established\r\n\r\n",
    b"HTTP/1.1 204 \r\nProxy-Agent: a\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    # "A server MUST NOT send [these] in a 2xx response to CONNECT. A client MUST ignore [them]".
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
]


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_success_opens_the_tunnel_however_it_arrives(answer: bytes, size: int) -> None:
    tunnel = Tunnel(PROXY, "example.org", 443)
    for at in range(0, len(answer), size):
        assert (tunnel.is_open, tunnel.error) == (False, None)
        tunnel.receive_data(answer[at : at + size])
    assert (tunnel.is_open, tunnel.error) == (True, None)
    tunnel.receive_data(b"")
    tunnel.receive_eof()
    assert (tunnel.is_open, tunnel.error) == (True, None)


@pytest.mark.parametrize("size", [1, 1000])
def test_a_proxy_that_says_more_than_its_answer_is_not_taken_for_the_server(size: int) -> None:
    tunnel = Tunnel(PROXY, "example.org", 443)
    data = ANSWERS[0] + b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
    for at in range(0, len(data), size):
        tunnel.receive_data(data[at : at + size])
    assert not tunnel.is_open
    assert type(tunnel.error) is InvalidHandshake
    assert str(tunnel.error).startswith("the proxy sent more than its answer")


@pytest.mark.parametrize("status", [301, 403, 407, 503])
def test_a_refusal_is_told_with_its_status_and_headers(status: int) -> None:
    tunnel = Tunnel(PROXY, "example.org", 443)
    tunnel.receive_data(b"HTTP/1.1 %d No\r\nRetry-After: 5\r\nContent-Length: 4\r\n\r\nbody" % status)
    assert isinstance(tunnel.error, ProxyRefused)
    assert (tunnel.error.response.status, tunnel.error.response.headers.get("Retry-After")) == (status, "5")
    assert not tunnel.is_open
    first = tunnel.error
    tunnel.receive_data(ANSWERS[0])
    tunnel.receive_eof()
    assert tunnel.error is first


@pytest.mark.parametrize("data", [b"SSH-2.0-OpenSSH\r\n\r\n", b"\x16\x03\x01\x00\x05\r\n\r\n", b"x" * 1001])
def test_what_is_no_http_is_told(data: bytes) -> None:
    tunnel = Tunnel(PROXY, "example.org", 443, HandshakeLimits(max_head=1000))
    tunnel.receive_data(data)
    assert type(tunnel.error) is InvalidHandshake
    assert str(tunnel.error).startswith("the proxy's response is malformed: ")


def test_a_proxy_that_never_comes_to_its_answer_is_not_listened_to_for_ever() -> None:
    tunnel = Tunnel(PROXY, "example.org", 443, HandshakeLimits(max_head=1000))
    hint = b"HTTP/1.1 103 " + b"." * 183 + b"\r\n\r\n"
    for _ in range(5):
        assert tunnel.error is None
        tunnel.receive_data(hint)
    assert tunnel.error is None  # 1000 bytes are allowed
    tunnel.receive_data(b"H")
    assert str(tunnel.error) == "the proxy sent over 1000 bytes without an answer"


def test_a_refusal_counts_whatever_comes_with_it() -> None:
    tunnel = Tunnel(PROXY, "example.org", 443, HandshakeLimits(max_head=1000))
    tunnel.receive_data(b"HTTP/1.1 407 No\r\nContent-Length: 5000\r\n\r\n" + b"." * 5000)
    assert isinstance(tunnel.error, ProxyRefused)


@pytest.mark.parametrize(
    ("error", "told"), [(None, "EOF"), (ConnectionResetError(104, "reset by peer"), "[Errno 104] reset by peer")]
)
def test_a_transport_that_ends_before_the_answer_is_told(error: OSError | None, told: str) -> None:
    tunnel = Tunnel(PROXY, "example.org", 443)
    tunnel.receive_data(b"HTTP/1.1 2")
    tunnel.receive_eof(error)
    assert isinstance(tunnel.error, HandshakeInterrupted)
    assert str(tunnel.error) == f"the connection to the proxy ended before its answer: {told}"


@given(st.lists(st.one_of(st.binary(max_size=40), st.sampled_from([*ANSWERS, b"HTTP/1.1 ", b"\r\n"])), max_size=6))
def test_nothing_that_a_proxy_says_raises(pieces: list[bytes]) -> None:
    tunnel = Tunnel(PROXY, "example.org", 443)
    for piece in pieces:
        tunnel.receive_data(piece)
    tunnel.receive_eof()
    assert tunnel.is_open is (tunnel.error is None)


def test_what_is_reached_without_a_proxy_may_go_beyond_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    proxies = {"https": "proxy.test:1", "no": "faß.test"}
    assert environment_proxy("xn--fa-hia.test", 443, secure=True, proxies=proxies) is None
    monkeypatch.setitem(sys.modules, "idna", None)
    with pytest.raises(InvalidProxy, match=r"^what no_proxy names cannot be read: .* write xn--fa-hia\.test, or pip"):
        environment_proxy("xn--fa-hia.test", 443, secure=True, proxies=proxies)
