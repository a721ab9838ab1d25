from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

import pytest

from wsconnkit.machines.backoff import BackoffConfig
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.errors import InvalidProxy, InvalidStatus, InvalidURI, LocalProtocolError
from wsconnkit.protocol.http import Response
from wsconnkit.protocol.proxy import Proxy
from wsconnkit.service.connectoptions import ConnectOptions
from wsconnkit.service.reconnect import ReconnectEvent, Retrying, Stopped

PROXY = Proxy(False, "p", 1)
CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def options(uri: Any = "ws://example.org/", **kwargs: Any) -> ConnectOptions:
    return ConnectOptions(uri, **kwargs)


def renew(of: ConnectOptions, *, refresh: bool = False) -> None:
    asyncio.run(of.renew_token(refresh=refresh))


def authorization(of: ConnectOptions) -> str | None:
    return of.handshake(0.0).request.headers.get("Authorization")


def tokens() -> Callable[[], Any]:
    names = iter("abc")

    async def token() -> str:
        return f"token-{next(names)}"

    return token


def test_a_handshake_asks_for_what_was_given() -> None:
    config = ConnectionConfig(compression=None)
    request = (
        options("wss://example.org/x?y", headers={"X-A": "b"}, subprotocols=["chat"], config=config)
        .handshake(0.0)
        .request
    )
    assert (request.target, request.headers.get("X-A"), request.subprotocols) == ("/x?y", "b", ("chat",))
    assert (request.headers.get("Authorization"), request.extensions) == (None, ())


def test_a_token_goes_into_the_request_and_is_a_secret() -> None:
    of = options(token="tok-en")
    renew(of, refresh=True)
    assert authorization(of) == "Bearer tok-en"
    assert of.secrets == ("tok-en",)


def test_a_function_is_asked_for_a_token_first_and_then_only_for_a_fresh_one() -> None:
    of = options(token=tokens())
    for refresh, token in [(False, "token-a"), (False, "token-a"), (True, "token-b"), (False, "token-b")]:
        renew(of, refresh=refresh)
        assert authorization(of) == f"Bearer {token}"


def test_a_token_that_was_refused_is_not_sent_again_when_there_is_no_other_yet() -> None:
    answers: list[str | OSError] = ["stale", OSError("the token server is not there"), "fresh"]

    async def token() -> str:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    of = options(token=token)
    renew(of)
    with pytest.raises(OSError, match="not there"):
        renew(of, refresh=True)
    renew(of)
    assert authorization(of) == "Bearer fresh"


def test_a_password_in_the_uri_is_a_secret_in_both_its_forms() -> None:
    of = options("ws://ada:l%40velace@example.org/")
    assert authorization(of) == "Basic YWRhOmxAdmVsYWNl"
    assert of.secrets == ("YWRhOmxAdmVsYWNl", "l@velace")


def test_a_token_is_text() -> None:
    async def token() -> Any:
        return b"bytes"

    with pytest.raises(TypeError, match="token returned bytes; it must be a str"):
        renew(options(token=token))


@pytest.mark.parametrize(
    ("kwargs", "error", "told"),
    [
        ({"uri": "http://example.org/"}, InvalidURI, "another scheme"),
        ({"ssl": CONTEXT}, ValueError, "ssl is given, but the URI has the scheme ws; use wss, or leave ssl out"),
        ({"server_hostname": "a"}, ValueError, "server_hostname is given, but the URI has the scheme ws"),
        ({"token": "a", "headers": {"authorization": "b"}}, ValueError, "token is given together with other"),
        ({"token": tokens(), "uri": "ws://ada@example.org/"}, ValueError, "token is given together with other"),
        ({"server_hostname": "☃", "uri": "wss://a/"}, ValueError, "the host '☃' is none that IDNA 2008 allows"),
        ({"subprotocols": "chat"}, LocalProtocolError, "subprotocols is 'chat'"),
        ({"proxy": "socks5://p:1"}, InvalidProxy, "another scheme"),
        ({"proxy": "http://p:1", "has_transport": True}, ValueError, "proxy is given together with a transport"),
    ],
)
def test_what_cannot_be_is_refused_at_once(kwargs: dict[str, Any], error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        options(**kwargs)


def test_the_name_for_tls_may_go_beyond_ascii() -> None:
    assert options(uri="wss://a/", server_hostname="faß.test").server_hostname == "xn--fa-hia.test"


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("uri", "a str"),
        ("token", "a str, an async function, or None"),
        ("config", "a ConnectionConfig, or None"),
        ("ssl", "an SSLContext, or None for the default one"),
        ("proxy_ssl", "an SSLContext, or None for the default one"),
        ("server_hostname", "a str, or None"),
        ("proxy", "a URL, True for the environment's, or None"),
        ("backoff", "a BackoffConfig, or None"),
        ("should_retry", "a function, or None"),
        ("on_event", "a function, or None"),
    ],
)
def test_a_value_of_a_wrong_type_is_refused_at_once_and_not_quoted(name: str, wanted: str) -> None:
    with pytest.raises(TypeError, match=f"^{name} is of type bytes; it must be {wanted}$"):
        options(**{name: b"secret"})


def test_the_proxy_is_the_one_given_or_the_environments_or_none() -> None:
    environment: dict[str, str] = {}

    def proxy(uri: str = "ws://example.org/", **kwargs: Any) -> Proxy | None:
        return options(uri, **kwargs).proxy("example.org", 80, lambda: environment)

    assert proxy() is None
    environment["http"] = "http://p:1"
    assert proxy() == PROXY
    assert proxy(proxy="http://q:2") == Proxy(False, "q", 2)
    for without in (None, False):
        assert proxy(proxy=without) is None
    assert proxy(has_transport=True) is None
    assert proxy("wss://example.org/", ssl=CONTEXT) is None


def test_where_it_really_leads_decides_whether_the_environments_proxy_is_taken() -> None:
    def environment() -> dict[str, str]:
        return {"http": "http://p:1", "no": "inside.example.org:81"}

    assert options().proxy("inside.example.org", 81, environment) is None
    assert options("ws://localhost/").proxy("example.org", 80, environment) == PROXY


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.", "app.localhost", "127.0.0.1", "127.8.8.8", "::1"])
def test_this_machine_is_reached_without_asking_the_environment(host: str) -> None:
    def environment() -> dict[str, str]:
        raise AssertionError

    assert options().proxy(host, 80, environment) is None
    assert options(proxy="http://p:1").proxy(host, 80, environment) == PROXY


def test_the_rules_for_coming_back_know_the_server_without_its_query(caplog: pytest.LogCaptureFixture) -> None:
    events: list[ReconnectEvent] = []
    rules = options(
        "wss://example.org:1/x?token=secret",
        backoff=BackoffConfig(max_attempts=2),
        should_retry=lambda error: isinstance(error, KeyError),
        on_event=events.append,
    ).reconnect()
    with caplog.at_level("INFO", "wsconnkit.client"):
        for error in (KeyError(), OSError()):
            rules.on_end(error, 0.0, jitter=0.5, wall_now=0.0)
    assert [type(event) for event in events] == [Retrying, Stopped]
    assert [record.__dict__["uri"] for record in caplog.records] == ["wss://example.org:1/x"] * 2


@pytest.mark.parametrize(("token", "refresh"), [(None, False), ("a", False), (tokens(), True)])
def test_a_refused_token_is_worth_another_attempt_where_there_is_a_function(token: Any, refresh: bool) -> None:
    step = options(token=token).reconnect().on_end(InvalidStatus(Response(401)), 0.0, jitter=0.5, wall_now=0.0)
    assert isinstance(step, Retrying) is refresh
