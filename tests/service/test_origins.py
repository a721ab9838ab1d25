from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wsconnkit.protocol.http import Headers
from wsconnkit.protocol.upgrade import UpgradeRequest, check_upgrade
from wsconnkit.service.origins import Origins

SETTINGS = settings(deadline=None)
DEFAULT_PORTS = {"http": 80, "https": 443}


def request(*origins: str, hosts: Collection[str] = ("chat.example",)) -> UpgradeRequest:
    """Return a request that came with these Origin and Host headers."""
    headers = Headers(
        [
            *(("Host", host) for host in hosts),
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
            *(("Origin", origin) for origin in origins),
        ]
    )
    checked = check_upgrade("GET", "/ws", "1.1", headers)
    assert isinstance(checked, UpgradeRequest)
    return checked


@pytest.mark.parametrize("allowed", [(), ["https://app.example"], None], ids=str)
def test_a_request_without_origin_is_allowed(allowed: Collection[str] | None) -> None:
    assert Origins(allowed).allows(request())
    assert Origins(allowed).allows(request(hosts=[]))


@pytest.mark.parametrize(
    "origins", [["https://evil.example"], ["null"], [""], ["https://a.example", "https://b.example"], ["\xff"]]
)
def test_every_origin_is_allowed_where_all_are(origins: list[str]) -> None:
    assert Origins(None).allows(request(*origins))


@pytest.mark.parametrize(
    "origin",
    [
        "https://app.example",
        "https://app.example:443",
        "https://app.example:0443",
        "HTTPS://App.Example",
        "http://localhost:3000",
        "http://[::1]:8080",
        "http://[0:0:0:0:0:0:0:1]:8080",
        "capacitor://localhost",
        "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
        "app://.",
        "app://obsidian.md",
        "file://",
        "FILE://",
        "https://xn--bcher-kva.example",
    ],
)
def test_a_listed_origin_is_allowed_however_it_is_written(origin: str) -> None:
    listed = [
        "https://APP.example",
        "http://LocalHost:3000",
        "http://[::01]:8080",
        "capacitor://localhost",
        "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
        "app://.",
        "app://obsidian.md",
        "file://",
        "https://xn--bcher-kva.example",
    ]
    assert Origins(listed).allows(request(origin))


@pytest.mark.parametrize(
    "origin",
    [
        "http://app.example",
        "https://app.example:8443",
        "https://sub.app.example",
        "https://xapp.example",
        "https://app.example.",
        "https://app.example.evil.example",
        "https://evil.example",
        "null",
        "file://",
    ],
)
def test_an_origin_that_is_not_listed_is_not_allowed(origin: str) -> None:
    assert not Origins(["https://app.example"]).allows(request(origin))


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://chat.example", "chat.example"),
        ("http://chat.example", "chat.example"),
        ("https://chat.example", "chat.example:443"),
        ("http://chat.example:80", "CHAT.example"),
        ("https://Chat.Example:8443", "chat.EXAMPLE:8443"),
        ("http://127.0.0.1:3001", "127.0.0.1:3001"),
        ("http://[2001:db8::1]:3001", "[2001:DB8:0::1]:3001"),
        ("https://[::1]", "[::1]"),
        ("https://chat.example.", "chat.example."),
        ("http://under_score.example", "under_score.example"),
    ],
)
def test_the_own_host_is_allowed_without_being_listed(origin: str, host: str) -> None:
    assert Origins().allows(request(origin, hosts=[host]))
    assert Origins(["https://other.example"]).allows(request(origin, hosts=[host]))


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://chat.example", "chat.example:80"),
        ("http://chat.example", "chat.example:443"),
        ("https://chat.example:8443", "chat.example"),
        ("https://chat.example", "chat.example."),
        ("https://evil.example", "chat.example"),
        ("https://chat.example.evil.example", "chat.example"),
        ("https://[::2]", "[::1]"),
        # Of other schemes nobody knows the port, and an extension's id is no host.
        ("chrome-extension://chat.example", "chat.example"),
        ("chrome-extension://chat.example", "chat.example:443"),
        ("null", "null"),
        ("null", ""),
        ("file://", ""),
        ("file://", "file"),
    ],
)
def test_another_host_or_port_than_our_own_is_not_allowed(origin: str, host: str) -> None:
    assert not Origins().allows(request(origin, hosts=[host]))


@pytest.mark.parametrize(
    "hosts",
    [
        [],
        ["chat.example", "chat.example"],
        ["chat.example", "evil.example"],
        ["chat.example, chat.example"],
        [""],
        ["chat.example:"],
        ["chat.example:x"],
        ["chat.example:99999"],
        ["user@chat.example"],
        ["chat.example/"],
        ["https://chat.example"],
        [" chat.example"],
        ["chat.example\n"],
    ],
)
def test_no_origin_is_our_own_without_exactly_one_sound_host(hosts: list[str]) -> None:
    assert not Origins().allows(request("https://chat.example", hosts=hosts))
    assert Origins(["https://chat.example"]).allows(request("https://chat.example", hosts=hosts))


MALFORMED = [
    "",
    " ",
    "*",
    "app.example",
    "//app.example",
    "://app.example",
    "https:app.example",
    "https:/app.example",
    "https://",
    "WSS://",
    "https://:443",
    "file",
    "file:",
    "file:/",
    "file:///",
    "file:///android_asset/www",
    "file://:80",
    "https://app.example/",
    "https://app.example/path",
    "https://app.example?query",
    "https://app.example#fragment",
    "https://app.example:",
    "https://app.example:x",
    "https://app.example:-1",
    "https://app.example:65536",
    "https://app.example:000443",
    "https://app.example:\u0664\u0664\u0663",
    "https://user@app.example",
    "https://user:password@app.example",
    "https://app.example@evil.example",
    "https://app.example\\@evil.example",
    "https://app.example https://app.example",
    "https://app.example,https://app.example",
    " https://app.example",
    "https://app.example\n",
    "https://app.example\x00",
    "https://app%2eexample",
    "https://*.example",
    "https://b\xfccher.example",
    "http\u017f://app.example",
    "https://\u212aapp.example",
    "https://[::1",
    "https://::1",
    "https://[::1]x",
    "https://[:::1]",
    "https://[fe80::1%25eth0]",
    "https://[1.2.3.4]",
    "https://[app.example]",
    "1https://app.example",
    "Null",
    "NULL",
    "null ",
]


@pytest.mark.parametrize("origin", MALFORMED)
def test_a_malformed_origin_is_not_allowed(origin: str) -> None:
    origins = Origins(["https://app.example", "https://kapp.example", "null"])
    assert not origins.allows(request(origin, hosts=["app.example"]))


@pytest.mark.parametrize(
    "entry", [*MALFORMED, None, 5, b"https://app.example", ("https", "app.example", 443)], ids=repr
)
def test_an_entry_that_is_no_origin_is_refused_with_what_to_write(entry: Any) -> None:
    with pytest.raises(ValueError, match="is no origin; write 'scheme://host' or 'scheme://host:port'") as caught:
        Origins(["https://fine.example", entry])
    assert str(caught.value).startswith(f"{entry!r} is no origin")
    assert "'file://' or 'null'; to accept every origin, give None in place of the list" in str(caught.value)


def test_a_single_string_in_place_of_the_list_is_refused_with_what_to_write() -> None:
    with pytest.raises(ValueError, match="must be a list") as caught:
        Origins("https://app.example")
    assert str(caught.value) == (
        "allowed is 'https://app.example'; it must be a list of origins, such as ['https://app.example'], or None"
    )


def test_null_is_allowed_only_where_it_is_listed() -> None:
    assert Origins(["null"]).allows(request("null"))
    assert not Origins(["https://app.example"]).allows(request("null"))
    assert not Origins().allows(request("null"))


def test_a_page_without_a_host_is_allowed_only_where_its_scheme_is_listed() -> None:
    assert not Origins(["null", "app://."]).allows(request("file://"))
    assert not Origins(["file://"]).allows(request("null"))
    assert not Origins(["file://"]).allows(request("file://evil.example"))
    assert not Origins(["file://evil.example"]).allows(request("file://"))
    # A scheme of that name is not what browsers say of pages in a sandbox.
    assert not Origins(["null"]).allows(request("null://"))
    assert not Origins(["null://"]).allows(request("null"))


def test_several_origins_are_not_allowed_even_if_each_alone_would_be() -> None:
    origins = Origins(["https://app.example", "null"])
    assert not origins.allows(request("https://app.example", "https://app.example"))
    assert not origins.allows(request("null", "null"))
    assert not origins.allows(request("https://chat.example", ""))


def test_the_entries_are_copied() -> None:
    listed = ["https://app.example"]
    origins = Origins(listed)
    listed.append("https://evil.example")
    assert not origins.allows(request("https://evil.example"))


def test_names_of_headers_are_compared_without_case() -> None:
    ours = request()
    headers = Headers([("host", "chat.example"), ("ORIGIN", "https://evil.example")])
    assert not Origins().allows(UpgradeRequest(ours.target, headers, ours.key, (), ()))


SOUP = st.text(alphabet=st.sampled_from("aA.:/[]@%-_0123456789,; \t\n\x00\xe4\u0661\u212a*?#\\"), max_size=20)
ANY = SOUP | st.text(max_size=20) | st.builds("{}://{}".format, SOUP, SOUP) | st.builds("https://{}".format, SOUP)


@SETTINGS
@given(st.lists(ANY, max_size=3), st.lists(ANY, max_size=3))
@example(["https://[::1%1]"], ["[::1%1]"])
def test_whatever_the_headers_hold_the_answer_is_yes_or_no(origins: list[str], hosts: list[str]) -> None:
    sent = request(*origins, hosts=hosts)
    assert Origins(None).allows(sent)
    assert Origins(["https://app.example"]).allows(sent) in (True, False)
    assert Origins().allows(sent) or origins


@SETTINGS
@given(ANY)
def test_what_is_taken_as_an_entry_is_allowed_as_an_origin_and_all_else_is_not(text: str) -> None:
    try:
        origins = Origins([text])
    except ValueError:
        assert not Origins(["null"]).allows(request(text, hosts=[text]))
    else:
        assert origins.allows(request(text))


HOSTS = st.sampled_from(["a.example", "b.example", "a.example.", "127.0.0.1", "[::1]", "[2001:db8::2]"])
PORTS = st.none() | st.sampled_from([80, 443, 8080, 65535])


def spell(host: str, port: int | None, *, upper: bool) -> str:
    text = host if port is None else f"{host}:{port}"
    return text.upper() if upper else text


@SETTINGS
@given(st.sampled_from(["http", "https"]), HOSTS, PORTS, HOSTS, PORTS, st.booleans(), st.booleans())
def test_an_origin_is_our_own_exactly_when_host_and_port_are_ours(
    scheme: str, host: str, port: int | None, our_host: str, our_port: int | None, shouted: bool, we_shout: bool
) -> None:
    default = DEFAULT_PORTS[scheme]
    origin = f"{scheme}://{spell(host, port, upper=shouted)}"
    sent = request(origin, hosts=[spell(our_host, our_port, upper=we_shout)])
    assert Origins().allows(sent) is ((host, port or default) == (our_host, our_port or default))
