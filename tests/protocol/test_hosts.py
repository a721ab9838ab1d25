from __future__ import annotations

import sys

import pytest

from wsconnkit.protocol.hosts import ascii_name, parse_host, server_name

# The cases of WHATWG URL's tests that concern hosts, and RFC 3986's.
TAKEN = {
    "example.org": "example.org",
    "EXAMPLE.Org": "example.org",
    "example.org.": "example.org.",
    "a_b.example": "a_b.example",
    "-a-.example": "-a-.example",
    "ex%41mple.org": "example.org",
    "%77%77%77": "www",
    "b%C3%BCcher.example": "xn--bcher-kva.example",
    "bücher.example": "xn--bcher-kva.example",
    "BÜCHER.example": "xn--bcher-kva.example",
    "bu\N{COMBINING DIAERESIS}cher.example": "xn--bcher-kva.example",
    "faß.de": "xn--fa-hia.de",
    "FAẞ.de": "xn--fa-hia.de",
    "βόλος.com": "xn--nxasmm1c.com",
    "ශ්‍රී.com": "xn--10cl1a0b660p.com",
    "نامه‌ای.com": "xn--mgba3gch31f060k.com",
    "日本語。jp": "xn--wgv71a119e.jp",
    "\uff27\uff2f.com": "go.com",
    "a\N{SOFT HYPHEN}b.com": "ab.com",
    "_a.faß.de": "_a.xn--fa-hia.de",
    "faß.de.": "xn--fa-hia.de.",
    "xn--fa-hia.de": "xn--fa-hia.de",
    "127.0.0.1": "127.0.0.1",
    "127.0.0.1.": "127.0.0.1",
    "127.1": "127.0.0.1",
    "192.0x00A80001": "192.168.0.1",
    "0x7f.1": "127.0.0.1",
    "0x.0x.0": "0.0.0.0",
    "0300.168.0.0xF0": "192.168.0.240",
    "00000000000300.0xa8.1": "192.168.0.1",
    "2130706433": "127.0.0.1",
    "256": "0.0.1.0",
    "4294967295": "255.255.255.255",
    "\uff11\uff12\uff17.0.0.1": "127.0.0.1",
    "%30%78%63%30%2e%30%32%35%30.01": "192.168.0.1",
    "1.2.3.4.example": "1.2.3.4.example",
    "[::1]": "::1",
    "[2001:DB8:0:0::1]": "2001:db8::1",
    "[::127.0.0.1]": "::7f00:1",
    "[fe80::1%25eth0]": "fe80::1%eth0",
    "[FE80::1%25Eth0.1]": "fe80::1%Eth0.1",
    "[fe80::1%25a%3A1]": "fe80::1%a:1",
    "[fe80::1%eth0]": "fe80::1%eth0",
    "[fe80::1%en1]": "fe80::1%en1",
}
CHARACTER = " has a character that no name has"
LABELS = " is no name; between its dots it must have 1 to 63 characters, 253 in all"
NO_IPV4 = " ends in a number, but is no IPv4 address; write four decimal numbers"
NO_ZONE = " has no zone that can be read; write it as [fe80::1%25eth0]"
REFUSED = {
    "a b": CHARACTER,
    "a%20b": CHARACTER,
    "a%00b": CHARACTER,
    "a%2Fb": CHARACTER,
    "a%zz": CHARACTER,
    "a%": CHARACTER,
    "a<b": CHARACTER,
    "a^b": CHARACTER,
    "a|b": CHARACTER,
    "a\\b": CHARACTER,
    "%3Aa": CHARACTER,
    "a!b": CHARACTER,  # RFC 3986 has "sub-delims" in a name, and no resolver does
    "\uff0541.com": CHARACTER,  # "%41" when it is mapped: nothing is decoded twice
    "%EF%BC%85%EF%BC%94%EF%BC%91.com": CHARACTER,
    "%FF.org": " is no UTF-8 where it is %-encoded",
    ".": LABELS,
    "..": LABELS,
    "a..b": LABELS,
    ".b": LABELS,
    "a..": LABELS,
    "a" * 64: LABELS,
    ".".join(["a" * 63] * 4): LABELS,
    "256.0.0.1": NO_IPV4,
    "1.2.3.256": NO_IPV4,
    "1.2.3.4.5": NO_IPV4,
    "1.2.3.08": NO_IPV4,
    "1.2.3.09": NO_IPV4,
    "foo.0x4": NO_IPV4,
    "foo.09": NO_IPV4,
    "foo.0x": NO_IPV4,
    "4294967296": NO_IPV4,
    "0x100000000": NO_IPV4,
    "127.0.0x10000": NO_IPV4,
    "[]": " is no IPv6 address",
    "[1::2::3]": " is no IPv6 address",
    "[::1.2.3]": " is no IPv6 address",
    "[::1.2.3.4x]": " is no IPv6 address",
    "[::1.]": " is no IPv6 address",
    "[v1.x]": " is no IPv6 address",  # an "IPvFuture"
    "[fe80::1%25]": NO_ZONE,
    "[fe80::1%]": NO_ZONE,
    "[fe80::1%ee1]": NO_ZONE,  # which may be encoded, and may not
    "[fe80::1%25a%20b]": NO_ZONE,
}


@pytest.mark.parametrize("text", TAKEN)
def test_a_host_is_taken_as_a_resolver_takes_it(text: str) -> None:
    assert parse_host(text) == TAKEN[text]


@pytest.mark.parametrize("text", TAKEN)
def test_what_is_read_once_is_read_the_same_again(text: str) -> None:
    host = parse_host(text)
    again = f"[{host.replace('%', '%25')}]" if ":" in host else host
    assert parse_host(again) == host


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: text[:20])
def test_what_names_no_host_is_refused_with_what_is_wrong(text: str) -> None:
    with pytest.raises(ValueError, match=r"^the host ") as caught:
        parse_host(text)
    assert str(caught.value) == f"the host {text!r}{REFUSED[text]}"


@pytest.mark.parametrize("name", ["☃.net", "xn--\u0080.org", "ü" * 64, "a\N{ZERO WIDTH NON-JOINER}b.de", "א1a.org"])
def test_names_that_idna_2008_does_not_allow_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"is none that IDNA 2008 allows: .*; write its xn-- form$"):
        parse_host(name)


@pytest.mark.parametrize(
    ("name", "form"), [("faß.de", "xn--fa-hia.de"), ("www.BÜCHER.example.", "www.xn--bcher-kva.example.")]
)
def test_without_idna_the_error_names_the_form_to_write_and_the_extra(
    name: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "idna", None)
    with pytest.raises(ValueError, match=r"^the host ") as caught:
        parse_host(name)
    expected = f"the host {name!r} goes beyond ASCII; write {form}, or pip install 'wsconnkit[idna]'"
    assert str(caught.value) == expected
    assert parse_host(form) == form


def test_a_name_in_ascii_is_left_as_it_is() -> None:
    assert ascii_name("::1") == "::1"
    assert ascii_name("Example.org.") == "Example.org."


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("example.org", "example.org"),
        ("example.org.", "example.org"),
        ("fe80::1%eth0", "fe80::1"),
        ("::1", "::1"),
        ("127.0.0.1", "127.0.0.1"),
    ],
)
def test_tls_has_no_last_dot_and_no_zone(host: str, name: str) -> None:
    assert server_name(host) == name
