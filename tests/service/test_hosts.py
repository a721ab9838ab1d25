from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsconnkit.protocol.http import Headers
from wsconnkit.protocol.upgrade import HTTPRequest, UpgradeRequest
from wsconnkit.service.hosts import AllowedHosts, asked_hosts, parse_authority

ALLOWED = ["chat.example", "*.example.org", "127.0.0.1", "[::1]"]


def page(*hosts: str, target: str = "/page") -> HTTPRequest:
    return HTTPRequest("GET", target, Headers([("Host", host) for host in hosts]))


def upgrade(*hosts: str, target: str = "/ws") -> UpgradeRequest:
    return UpgradeRequest(target, Headers([("Host", host) for host in hosts]), "", (), ())


def test_every_host_is_allowed_unless_some_are_named() -> None:
    for request in (page(), page("evil.example"), page("a", "b"), upgrade("not a host"), page("x", target="http://y/")):
        assert AllowedHosts().allows(request)
        assert AllowedHosts(None).allows(request)


@pytest.mark.parametrize(
    "host",
    [
        "chat.example",
        "CHAT.Example",
        "chat.example.",
        "chat.example:443",
        "chat.example:1",
        "chat.example.:8080",
        "a.example.org",
        "a.b.example.org:3001",
        "127.0.0.1",
        "127.0.0.1:3001",
        "[::1]",
        "[0:0:0:0:0:0:0:1]:3001",
    ],
)
def test_a_host_that_is_named_is_allowed_at_any_port(host: str) -> None:
    assert AllowedHosts(ALLOWED).allows(page(host))
    assert AllowedHosts(ALLOWED).allows(upgrade(host))


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evilchat.example",
        "chat.example.evil.example",
        "example.org",  # the star stands for a name
        "evilexample.org",
        "127.0.0.2",
        "127.0.0.1.evil.example",
        "[::2]",
        "[:::1]",
        "::1",
        "localhost",
        "",
        ".",
        ":80",
        "chat.example:",
        "chat.example:x",
        "chat.example:99999",
        "user@chat.example",
        "chat.example/",
        "https://chat.example",
        "chat.example, evil.example",
        " chat.example",
        "chat.example\n",
        "*.example.org",
        "ch\u212at.example",
    ],
)
def test_another_host_or_what_is_none_is_not_allowed(host: str) -> None:
    assert not AllowedHosts(ALLOWED).allows(page(host))
    assert not AllowedHosts(ALLOWED).allows(upgrade(host))


@pytest.mark.parametrize("hosts", [[], ["chat.example", "chat.example"], ["chat.example", "evil.example"]])
def test_without_exactly_one_host_none_is_allowed(hosts: list[str]) -> None:
    assert not AllowedHosts(ALLOWED).allows(page(*hosts))


def test_the_host_in_the_target_counts_in_place_of_the_header() -> None:
    # RFC 9112, section 3.2.2
    assert AllowedHosts(ALLOWED).allows(page("evil.example", target="http://chat.example:3001/page"))
    assert not AllowedHosts(ALLOWED).allows(page("chat.example", target="http://evil.example/page"))
    assert not AllowedHosts(ALLOWED).allows(upgrade("chat.example", target="ws://user@chat.example/ws"))
    assert asked_hosts(page("a", "b")) == ["a", "b"]


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "*",
        "*.",
        ".example.org",
        "*.*.example.org",
        "chat*.example.org",
        "*.[::1]",
        "*..example.org",
        "chat.example:443",
        "https://chat.example",
        "chat.example/",
        "::1",
        "[::1",
        "b\xfccher.example",
        "a,b",
        None,
        5,
        b"chat.example",
    ],
    ids=repr,
)
def test_an_entry_that_is_no_host_is_refused_with_what_to_write(entry: Any) -> None:
    with pytest.raises(ValueError, match=r"is no host; write 'example\.org'") as caught:
        AllowedHosts(["chat.example", entry])
    assert str(caught.value).startswith(f"{entry!r} is no host")
    assert "give None in place of the list" in str(caught.value)


@pytest.mark.parametrize("allowed", ["chat.example", [], ()])
def test_what_is_no_list_of_hosts_is_refused_with_what_to_write(allowed: Any) -> None:
    with pytest.raises(ValueError, match="must be a list of hosts") as caught:
        AllowedHosts(allowed)
    assert str(caught.value) == (
        f"allowed_hosts is {allowed!r}; it must be a list of hosts, such as ['example.org'], or None"
    )


def test_the_entries_are_copied_and_spelled_as_all_do() -> None:
    listed = ["CHAT.Example.", "*.EXAMPLE.org.", "[0::1]"]
    hosts = AllowedHosts(listed)
    listed.append("evil.example")
    assert [hosts.allows(page(host)) for host in ("chat.example", "a.example.org", "[::1]")] == [True] * 3
    assert not hosts.allows(page("evil.example"))


@settings(deadline=None)
@given(st.lists(st.text(alphabet="aA.:/[]@%-_019,; \t\n\xe4*?#", max_size=20), max_size=2))
def test_whatever_the_headers_hold_the_answer_is_yes_or_no(hosts: list[str]) -> None:
    allowed = AllowedHosts(ALLOWED).allows(page(*hosts))
    assert allowed in (True, False)
    assert not allowed or parse_authority(hosts[0]) is not None
