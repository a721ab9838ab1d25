from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any, Literal, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wsconnkit.protocol.http import Headers
from wsconnkit.service.proxies import MAX_HOPS, TrustedProxies, network_key

SETTINGS = settings(deadline=None)
HeaderName = Literal["X-Forwarded-For", "Forwarded"]
HEADERS: list[HeaderName] = ["X-Forwarded-For", "Forwarded"]

NETWORKS = ["10.0.0.0/8", "2001:db8:aaaa::/48", "unix"]
PROXY = ("10.0.0.1", 40000)


def forwarded_for(*values: str, peer: object = PROXY, networks: list[str] = NETWORKS) -> str | None:
    headers = Headers([("X-Forwarded-For", value) for value in values])
    return TrustedProxies(networks).client_ip(peer, headers)


def forwarded(*values: str, peer: object = PROXY) -> str | None:
    headers = Headers([("Forwarded", value) for value in values])
    return TrustedProxies(NETWORKS, header="Forwarded").client_ip(peer, headers)


@pytest.mark.parametrize(
    ("peer", "ip"),
    [
        (("192.0.2.1", 40000), "192.0.2.1"),
        (("2001:DB8:0::1", 40000, 0, 0), "2001:db8::1"),
        (("::ffff:192.0.2.1", 40000, 0, 0), "192.0.2.1"),
        (("fe80::1%eth0", 40000, 0, 2), "fe80::1"),
        (("192.0.2.1",), "192.0.2.1"),
        (("testclient", 50000), None),
        (("", 0), None),
        ((3, 5000), None),
        ((b"192.0.2.1", 40000), None),
        ((), None),
        ("", None),
        ("/run/app.sock", None),
        (b"\x00abstract", None),
        (None, None),
        (5, None),
        ("192.0.2.1", None),
    ],
)
def test_without_proxies_the_peer_is_the_client_whatever_the_headers_say(peer: object, ip: str | None) -> None:
    headers = Headers([("X-Forwarded-For", "203.0.113.9"), ("Forwarded", "for=203.0.113.9")])
    assert TrustedProxies().client_ip(peer, headers) == ip
    assert TrustedProxies(header="Forwarded").client_ip(peer, headers) == ip
    assert TrustedProxies(["10.0.0.0/8"]).client_ip(peer, headers) == ip


@pytest.mark.parametrize(
    ("value", "ip"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("198.51.100.7, 203.0.113.9", "203.0.113.9"),
        ("198.51.100.7, 203.0.113.9, 10.0.0.2", "203.0.113.9"),
        ("198.51.100.7,203.0.113.9,10.0.0.3,10.0.0.2", "203.0.113.9"),
        ("10.0.0.9, 203.0.113.9, 10.0.0.2", "203.0.113.9"),
        # Everyone is trusted: then it began with the first.
        ("10.0.0.9, 10.0.0.2", "10.0.0.9"),
        (" \t203.0.113.9\t ", "203.0.113.9"),
        ("203.0.113.9:4711", "203.0.113.9"),
        ("2001:db8::9", "2001:db8::9"),
        ("[2001:DB8::9]", "2001:db8::9"),
        ("[2001:db8::9]:4711", "2001:db8::9"),
        ("203.0.113.9, 2001:db8:aaaa::1", "203.0.113.9"),
        ("203.0.113.9, ::ffff:10.0.0.2", "203.0.113.9"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
    ],
)
def test_the_client_is_the_last_hop_that_is_no_proxy_of_ours(value: str, ip: str) -> None:
    assert forwarded_for(value) == ip


UNKNOWN = [
    "",
    " ",
    "unknown",
    "_hidden",
    "-",
    "example.org",
    "203.0.113",
    "203.0.113.256",
    "203.0.113.09",
    "203.0.113.9.1",
    "203.0.113.9:",
    "203.0.113.9:port",
    "203.0.113.9:123456",
    "203.0.113.9 203.0.113.10",
    "203.0.113.9;",
    "203.0.113.9/32",
    "0xcb007109",
    "3405803785",
    '"203.0.113.9"',
    "[203.0.113.9]",
    "[2001:db8::9",
    "2001:db8::9]",
    "[2001:db8::9]4711",
    "2001:db8:::9",
    "fe80::9%eth0",
    "[fe80::9%25eth0]",
    "\xa0203.0.113.9",
    "203.0.113.9\n",
    "\u0662\u0660\u0663.0.113.9",
    "\xff",
    "\x00",
]


@pytest.mark.parametrize("unknown", UNKNOWN)
def test_an_unknown_hop_ends_the_chain_at_the_last_address_that_is_known(unknown: str) -> None:
    assert forwarded_for(unknown) == "10.0.0.1"
    assert forwarded_for(f"198.51.100.7, {unknown}") == "10.0.0.1"
    assert forwarded_for(f"198.51.100.7, {unknown}, 10.0.0.2") == "10.0.0.2"
    assert forwarded_for(f"198.51.100.7, {unknown}, 203.0.113.9") == "203.0.113.9"


@pytest.mark.parametrize("unknown", [node for node in UNKNOWN if node != '"203.0.113.9"'])
def test_an_unknown_node_of_forwarded_ends_the_chain_in_the_same_place(unknown: str) -> None:
    quoted = f'"{unknown}"'
    assert forwarded(f"for={quoted}") == "10.0.0.1"
    assert forwarded(f"for=198.51.100.7, for={quoted}, for=10.0.0.2") == "10.0.0.2"
    assert forwarded(f"for=198.51.100.7, for={quoted}, for=203.0.113.9") == "203.0.113.9"


@pytest.mark.parametrize("value", ["203.0.113.9,", "203.0.113.9, ", "203.0.113.9,,", ","])
def test_an_empty_entry_is_an_unknown_hop(value: str) -> None:
    # Who leaves it out may be the proxy that the client came through, and what is before it the client's own words.
    assert forwarded_for(value) == "10.0.0.1"


@pytest.mark.parametrize("header", HEADERS)
def test_without_the_header_the_proxy_is_the_client(header: HeaderName) -> None:
    assert TrustedProxies(NETWORKS, header=header).client_ip(PROXY, Headers()) == "10.0.0.1"


def test_several_headers_are_one_list() -> None:
    assert forwarded_for("203.0.113.9", "10.0.0.2") == "203.0.113.9"
    assert forwarded_for("198.51.100.7, 10.0.0.9", "203.0.113.9, 10.0.0.3", "10.0.0.2") == "203.0.113.9"
    assert forwarded_for("198.51.100.7", "") == "10.0.0.1"
    assert forwarded("for=198.51.100.7, for=203.0.113.9", "for=10.0.0.2") == "203.0.113.9"


def test_names_of_headers_are_compared_without_case() -> None:
    headers = Headers([("x-forwarded-FOR", "203.0.113.9"), ("FORWARDED", "for=203.0.113.8")])
    assert TrustedProxies(NETWORKS).client_ip(PROXY, headers) == "203.0.113.9"
    assert TrustedProxies(NETWORKS, header="Forwarded").client_ip(PROXY, headers) == "203.0.113.8"


def test_only_the_named_header_counts_when_both_are_there() -> None:
    # A proxy that writes one of them passes the other on as the client has sent it.
    headers = Headers([("X-Forwarded-For", "203.0.113.9"), ("Forwarded", "for=198.51.100.7")])
    assert TrustedProxies(NETWORKS).client_ip(PROXY, headers) == "203.0.113.9"
    assert TrustedProxies(NETWORKS, header="Forwarded").client_ip(PROXY, headers) == "198.51.100.7"


def test_the_header_that_is_not_named_does_not_stand_in_for_the_other() -> None:
    assert TrustedProxies(NETWORKS).client_ip(PROXY, Headers({"Forwarded": "for=198.51.100.7"})) == "10.0.0.1"
    headers = Headers({"X-Forwarded-For": "198.51.100.7"})
    assert TrustedProxies(NETWORKS, header="Forwarded").client_ip(PROXY, headers) == "10.0.0.1"


@pytest.mark.parametrize(
    "value",
    [
        "for=203.0.113.9",
        "For=203.0.113.9",
        'for="203.0.113.9"',
        'for="203.0.113.9:4711"',
        'for="203.0.113.9:_port"',
        r'for="203.0.\113.9"',
        "for=203.0.113.9;proto=https;by=10.0.0.1",
        "by=10.0.0.1;for=203.0.113.9",
        "by=10.0.0.1 ; for=203.0.113.9 ; host=chat.example",
        ";;for=203.0.113.9;;",
        'host="a, for=198.51.100.7";for=203.0.113.9',
        'for=203.0.113.9;host="a, for=198.51.100.7"',
        'for=203.0.113.9;host="a;for=198.51.100.7"',
        r'for=203.0.113.9;host="a\", for=198.51.100.7"',
        r'for=203.0.113.9;host="a\\"',
        'for=198.51.100.7;host="x", for=203.0.113.9',
        "for=198.51.100.7, for=203.0.113.9;proto=https",
        "for=198.51.100.7,for=203.0.113.9,for=10.0.0.2",
        'for=203.0.113.9, for="[2001:db8:aaaa::1]:80"',
        'for=203.0.113.9, for="[2001:db8:aaaa::1]:_p.o-r_t"',
        "\tfor=203.0.113.9\t",
        "x=for;for=203.0.113.9;y=for",
    ],
)
def test_forwarded_is_read_as_it_is_specified(value: str) -> None:
    assert forwarded(value) == "203.0.113.9"


@pytest.mark.parametrize(
    ("value", "ip"),
    [
        ('for="[2001:db8::9]"', "2001:db8::9"),
        ('for="[2001:db8::9]:4711"', "2001:db8::9"),
        ('for="[::ffff:203.0.113.9]"', "203.0.113.9"),
        ('for="2001:db8::9"', "2001:db8::9"),
        ("for=10.0.0.9, for=10.0.0.2", "10.0.0.9"),
    ],
)
def test_forwarded_names_addresses_in_quotes_and_brackets(value: str, ip: str) -> None:
    assert forwarded(value) == ip


@pytest.mark.parametrize(
    "element",
    [
        "",
        ";",
        "proto=https",
        "by=203.0.113.9",
        "for",
        "for=",
        "=203.0.113.9",
        "203.0.113.9",
        "for=unknown",
        "for=_hidden",
        'for="_hidden:_port"',
        "for = 203.0.113.9",
        "for=[2001:db8::9]",
        "for=203.0.113.9:4711",
        "for=203.0.113.9 203.0.113.10",
        'for="203.0.113.9',
        'for="203.0.113.9\\"',
        'for=203.0.113.9"',
        'for="203.0.113.9"x',
        "for='203.0.113.9'",
        "for=203.0.113.9;for=203.0.113.9",
        "for=203.0.113.9;for=203.0.113.9;for=203.0.113.9",
        "for=203.0.113.9;proto=\xff",
        "for=203.0.113.9;;proto",
        "forx=203.0.113.9",
        "f\xf6r=203.0.113.9",
    ],
)
def test_an_element_of_forwarded_that_names_no_one_address_is_an_unknown_hop(element: str) -> None:
    assert forwarded(element) == "10.0.0.1"
    assert forwarded(f"for=198.51.100.7, {element}") == "10.0.0.1"
    assert forwarded(f"for=198.51.100.7, {element}", "for=10.0.0.2") == "10.0.0.2"
    assert forwarded(f"for=198.51.100.7, {element}, for=203.0.113.9") == "203.0.113.9"


def test_a_unix_socket_has_no_address_and_is_trusted_only_where_that_is_said() -> None:
    for peer in ("", "/run/app.sock", b"\x00abstract", None):
        assert forwarded_for("203.0.113.9", peer=peer, networks=["10.0.0.0/8"]) is None
        assert forwarded_for("203.0.113.9", peer=peer, networks=["unix"]) == "203.0.113.9"
        assert forwarded_for("198.51.100.7, 203.0.113.9", peer=peer, networks=["unix"]) == "203.0.113.9"
        assert forwarded_for("unknown", peer=peer, networks=["unix"]) is None
        assert forwarded_for(peer=peer, networks=["unix"]) is None


def test_a_peer_is_told_to_be_a_proxy_or_not() -> None:
    proxies = TrustedProxies(["10.0.0.0/8", "unix"])
    assert [proxies.trusts(peer) for peer in (("10.0.0.1", 5), ("::ffff:10.0.0.1", 5, 0, 0), "", None)] == [True] * 4
    assert [proxies.trusts(peer) for peer in (("203.0.113.9", 5), ("testclient", 5), (), 5)] == [False] * 4
    assert not TrustedProxies(["10.0.0.0/8"]).trusts("/run/app.sock")


@pytest.mark.parametrize("peer", [(), ("testclient", 5), (3, 5000), 5, ["10.0.0.1", 5]])
def test_who_is_neither_an_address_nor_a_unix_socket_is_never_trusted(peer: object) -> None:
    assert forwarded_for("203.0.113.9", peer=peer, networks=["unix", "0.0.0.0/0", "::/0"]) is None


def test_unix_in_the_header_is_no_hop() -> None:
    assert forwarded_for("203.0.113.9, unix") == "10.0.0.1"


def test_proxies_are_told_by_the_address_that_a_mapped_one_stands_for() -> None:
    assert forwarded_for("203.0.113.9", peer=("::ffff:10.0.0.1", 5, 0, 0)) == "203.0.113.9"
    assert forwarded_for("203.0.113.9", peer=("::10.0.0.1", 5, 0, 0)) == "::a00:1"


def test_a_proxy_may_be_a_single_address() -> None:
    assert forwarded_for("203.0.113.9", networks=["10.0.0.1"]) == "203.0.113.9"
    assert forwarded_for("203.0.113.9, 10.0.0.2", networks=["10.0.0.1"]) == "10.0.0.2"


def test_a_zone_does_not_keep_a_proxy_from_being_known() -> None:
    assert forwarded_for("203.0.113.9", peer=("fe80::1%eth0", 5, 0, 2), networks=["fe80::/10"]) == "203.0.113.9"


def test_only_so_many_hops_are_followed() -> None:
    hops = [f"10.1.{hop // 256}.{hop % 256}" for hop in range(10_000)]
    assert forwarded_for(", ".join(hops)) == hops[-MAX_HOPS]
    assert forwarded_for(*hops) == hops[-MAX_HOPS]
    assert forwarded(", ".join(f"for={hop}" for hop in hops)) == hops[-MAX_HOPS]
    assert forwarded_for(", ".join(hops[-MAX_HOPS:])) == hops[-MAX_HOPS]


@pytest.mark.parametrize(
    "repeated",
    [
        " ",
        "1",
        "1.",
        ":",
        "[:",
        ",",
        ";",
        "a",
        "a=",
        'a="',
        'a="\\",',
        '"\\',
        "\\",
        "for=1,",
        'for="',
        'for="a",;',
        "[1:",
    ],
)
def test_a_header_of_any_length_takes_time_in_proportion(repeated: str) -> None:
    # Where it does not, this does not come to an end.
    value = repeated * 50_000
    assert forwarded_for(value + "x", value) == "10.0.0.1"
    assert forwarded(value + "x", value) == "10.0.0.1"
    assert forwarded(f'for="{value}') == "10.0.0.1"
    assert forwarded(f"for=a{value}x") == "10.0.0.1"


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "proxy.example",
        "10.0.0.1/8",
        "10.0.0.0/33",
        "10.0.0",
        "2001:db8::1/64",
        "2001:db8::/129",
        "fe80::1%eth0",
        "fe80::%eth0/64",
        "::ffff:10.0.0.0/104",
        "::ffff:10.0.0.1",
        "UNIX",
        "*",
        " 10.0.0.0/8",
        5,
        None,
        b"\x0a\x00\x00\x01",
        ("10.0.0.0", 8),
    ],
    ids=repr,
)
def test_a_network_that_is_none_is_refused_with_what_to_write(entry: Any) -> None:
    with pytest.raises(ValueError, match="write an address") as caught:
        TrustedProxies(["10.0.0.0/8", entry])
    assert str(caught.value) == (
        f"networks has {entry!r}; write an address, a network such as '10.0.0.0/8' with no bits set behind its prefix "
        "and IPv4 as IPv4, or 'unix'"
    )


def test_a_single_string_in_place_of_the_list_is_refused_with_what_to_write() -> None:
    with pytest.raises(ValueError, match="must be a list") as caught:
        TrustedProxies("10.0.0.0/8")
    assert str(caught.value) == "networks is '10.0.0.0/8'; it must be a list of networks, such as ['10.0.0.0/8']"


@pytest.mark.parametrize("header", ["X-Real-IP", "x-forwarded-for", "", None])
def test_another_header_is_refused_by_name(header: Any) -> None:
    with pytest.raises(ValueError, match="must be") as caught:
        TrustedProxies(header=header)
    assert str(caught.value) == f"header is {header!r}; it must be 'X-Forwarded-For' or 'Forwarded'"


@pytest.mark.parametrize(
    ("ip", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::", "2001:db8:1:2::/64"),
        ("::1", "::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_an_ipv4_address_is_limited_alone_and_ipv6_by_its_64(ip: str, key: str) -> None:
    assert network_key(ip) == key


@pytest.mark.parametrize("ip", ["", "example.org", "2001:db8::/64", "192.0.2.1:80", "[::1]"])
def test_what_is_no_address_has_no_network_key(ip: str) -> None:
    with pytest.raises(ValueError, match="does not appear to be an IPv4 or IPv6 address"):
        network_key(ip)


PIECES = ["10.0.0.2", "203.0.113.9", "::1", "for=", "For", *'",;:=[]%._-/ \t\n\\\x00\xe4x1']
SOUP = st.lists(st.sampled_from(PIECES), max_size=20).map("".join)
ANY = SOUP | st.text(max_size=20)
PEERS = (
    st.none()
    | st.text(max_size=5)
    | st.binary(max_size=5)
    | st.integers()
    | st.tuples(st.text(max_size=10), st.integers())
    | st.sampled_from([PROXY, ("2001:db8:aaaa::1", 5, 0, 0), ("203.0.113.9", 5), ()])
)


@SETTINGS
@given(PEERS, st.lists(st.tuples(st.sampled_from([*HEADERS, "Host"]), ANY), max_size=4), st.sampled_from(HEADERS))
def test_whatever_peer_and_headers_hold_the_answer_is_an_address_or_none(
    peer: object, items: list[tuple[str, str]], header: HeaderName
) -> None:
    ip = TrustedProxies(NETWORKS, header=header).client_ip(peer, Headers(items))
    if ip is not None:
        assert str(ip_address(ip)) == ip
        assert ip_network(network_key(ip)).version == ip_address(ip).version


@SETTINGS
@given(PEERS, st.lists(st.tuples(st.sampled_from(HEADERS), ANY), max_size=4), st.sampled_from(HEADERS))
def test_without_trusted_networks_the_headers_never_matter(
    peer: object, items: list[tuple[str, str]], header: HeaderName
) -> None:
    proxies = TrustedProxies(header=header)
    assert proxies.client_ip(peer, Headers(items)) == proxies.client_ip(peer, Headers())


class Chain(NamedTuple):
    """A client, and the proxies of ours that its request goes through."""

    client: str
    proxies: list[str]

    def write(self, said: str | None, *, header: HeaderName, own_lines: bool) -> Headers:
        """Return what arrives when the client has `said` something, and each proxy adds by whom it was called."""
        lines = [] if said is None else [said]
        for caller in (self.client, *self.proxies[:-1]):
            node = caller if header == "X-Forwarded-For" else f"for={caller}"
            if header == "Forwarded" and ":" in caller:
                node = f'for="[{caller}]"'
            if own_lines or not lines:
                lines.append(node)
            else:
                lines[-1] += f", {node}"
        return Headers([(header, line) for line in lines])


CHAINS = st.builds(
    Chain,
    st.sampled_from(["203.0.113.9", "2001:db8::9"]),
    st.lists(st.sampled_from(["10.0.0.1", "10.1.2.3", "2001:db8:aaaa::1"]), min_size=1, max_size=4),
)


@settings(SETTINGS, max_examples=500)
@given(CHAINS, st.none() | ANY, st.sampled_from(HEADERS), st.booleans())
@example(Chain("2001:db8::9", ["10.0.0.1", "10.0.0.2"]), 'for=198.51.100.7;x="', "Forwarded", False)
@example(Chain("2001:db8::9", ["2001:db8:aaaa::1", "10.0.0.2"]), 'for=198.51.100.7;x="\\', "Forwarded", False)
def test_whatever_a_client_says_of_itself_its_own_address_is_told(
    chain: Chain, said: str | None, header: HeaderName, own_lines: bool
) -> None:
    headers = chain.write(said, header=header, own_lines=own_lines)
    peer = (chain.proxies[-1], 40000)
    assert TrustedProxies(NETWORKS, header=header).client_ip(peer, headers) == chain.client
