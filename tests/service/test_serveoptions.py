from __future__ import annotations

import ssl
from typing import Any

import pytest

from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.errors import LocalProtocolError
from wsconnkit.protocol.http import Response
from wsconnkit.service.admission import AdmissionConfig
from wsconnkit.service.drain import DrainConfig
from wsconnkit.service.policy import PendingUpgrade
from wsconnkit.service.proxies import TrustedProxies
from wsconnkit.service.serveoptions import ManagerOptions, ServeOptions
from wsconnkit.service.tokens import BEARER

from .kit import upgrade_request


async def authenticate(token: str | None, request: object) -> None: ...


class Verifier:
    """Verifies tokens, and cannot be called itself."""

    def verify(self, token: str, now: float, *, waited: bool = False) -> None: ...

    def begin_fetch(self, now: float) -> None: ...

    def fetch(self) -> None: ...


def options(**arguments: Any) -> ServeOptions:
    usual = {
        "handler": authenticate,
        "port": None,
        "path": None,
        "authenticate": None,
        "origins": (),
        "subprotocols": (),
        "admission": None,
        "proxies": None,
        "reauthenticate": False,
        "http": None,
        "endpoints": True,
        "metrics": None,
        "config": None,
        "ssl": None,
    }
    return ServeOptions(**{**usual, **arguments})


@pytest.mark.parametrize(
    "arguments",
    [
        {"path": "ws"},
        {"path": ""},
        {"path": b"/ws"},
        {"path": 3},
        {"handler": None},
        {"handler": "handler"},
        {"port": -1},
        {"port": 65536},
        {"port": "3001"},
        {"authenticate": "secret"},
        {"http": 1},
        {"metrics": True},
        {"endpoints": "127.0.0.1:9090"},
        {"endpoints": ["127.0.0.1", 9090]},
        {"endpoints": ("127.0.0.1",)},
        {"endpoints": None},
        {"endpoints": ("127.0.0.1", 65536)},
        {"config": 3},
        {"config": {}},
        {"drain": 10},
        {"drain": {"window": 10}},
        {"drain": DrainConfig},
        {"ssl": True},
        {"ssl": "cert.pem"},
        {"ssl": ssl.create_default_context()},
        {"ssl": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)},
        {"proxies": ["10.0.0.0/8"]},
        {"admission": 3},
        {"origins": "https://example.org"},
        {"allowed_hosts": "example.org"},
        {"allowed_hosts": []},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_what_cannot_work_is_refused_with_what_to_write(arguments: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError), match=r" is .*; it must be "):
        options(**arguments)


@pytest.mark.parametrize("port", [None, 0, 3001, 65535])
def test_a_port_may_be_any_that_there_is(port: int | None) -> None:
    options(port=port, endpoints=("127.0.0.1", port or 0))


def test_a_context_for_servers_is_good() -> None:
    assert options(ssl=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)).new_policy() is not None
    options(ssl=ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))


def test_subprotocols_must_be_a_list() -> None:
    with pytest.raises(LocalProtocolError, match="subprotocols is 'chat'"):
        options(subprotocols="chat")


def test_a_class_is_no_authenticator() -> None:
    with pytest.raises(TypeError, match="the class Verifier; give an instance"):
        options(authenticate=Verifier)


def test_fresh_tokens_need_somebody_who_verifies_them() -> None:
    with pytest.raises(ValueError, match="reauthenticate is given without authenticate"):
        options(reauthenticate=True)
    options(reauthenticate=True, authenticate=Verifier())


@pytest.mark.parametrize("authenticator", [authenticate, Verifier()])
def test_where_there_are_tokens_bearer_is_spoken_last_unless_the_application_speaks_it(authenticator: object) -> None:
    assert options(subprotocols=["chat"]).subprotocols == ("chat",)
    assert options(subprotocols=["chat"], authenticate=authenticator).subprotocols == ("chat", BEARER)
    assert options(subprotocols=[BEARER, "chat"], authenticate=authenticator).subprotocols == (BEARER, "chat")


def test_an_authenticator_that_is_false_is_one() -> None:
    class Empty(Verifier):
        def __len__(self) -> int:
            return 0

    assert options(authenticate=Empty()).subprotocols == (BEARER,)


@pytest.mark.parametrize(
    ("endpoints", "has_pages", "pages_at"),
    [(True, True, None), (False, False, None), (("127.0.0.1", 9090), False, ("127.0.0.1", 9090))],
)
def test_the_pages_are_in_one_place_at_most(endpoints: Any, has_pages: bool, pages_at: object) -> None:
    made = options(endpoints=endpoints)
    assert (made.has_pages, made.pages_at) == (has_pages, pages_at)


def test_without_a_configuration_there_is_the_default_one() -> None:
    assert options().config == ConnectionConfig()
    config = ConnectionConfig(idle_timeout=7)
    assert options(config=config, path="/ws").config is config
    assert options(config=config, path="/ws").path == "/ws"


def test_without_a_drain_there_is_the_default_one() -> None:
    assert options().drain == options(drain=None).drain == DrainConfig()
    drain = DrainConfig(window=1, grace=2)
    assert options(drain=drain).drain is drain


def test_a_manager_has_the_same_options_but_those_of_listeners() -> None:
    verifier: Any = Verifier()
    made = ManagerOptions(path="/ws", authenticate=verifier, reauthenticate=True, drain=DrainConfig(window=1))
    assert (made.path, made.subprotocols, made.drain.window) == ("/ws", (BEARER,), 1)
    assert (ManagerOptions().path, ManagerOptions().config) == (None, ConnectionConfig())
    with pytest.raises(ValueError, match="path is 'ws'; it must be None, or a path that starts with '/'"):
        ManagerOptions(path="ws")
    for name in ("handler", "port", "http", "endpoints", "metrics", "ssl", "unknown"):
        with pytest.raises(TypeError, match=f"'{name}'"):
            ManagerOptions(**{name: None})  # type: ignore[arg-type]


def test_an_option_that_there_is_not_is_refused() -> None:
    with pytest.raises(TypeError, match="'unknown'"):
        options(unknown=None)


def test_only_the_path_that_was_given_is_served() -> None:
    made = options(path="/ws")
    assert made.check_path(upgrade_request("/ws?a=b")) is None
    refused = made.check_path(upgrade_request("/other"))
    assert isinstance(refused, Response)
    assert refused.status == 404
    assert options().check_path(upgrade_request("/other")) is None


def test_each_run_has_a_policy_of_its_own_by_the_same_rules() -> None:
    made = options(
        origins=["https://app.example"],
        allowed_hosts=["example.org"],
        proxies=TrustedProxies(["192.0.2.0/24"]),
        admission=AdmissionConfig(retry_after=7),
    )
    first, second = made.new_policy(), made.new_policy()
    assert first is not second
    for policy in (first, second):
        request = upgrade_request("/", ("Origin", "https://app.example"), ("X-Forwarded-For", "198.51.100.7"))
        upgrade = policy.receive(request, ("192.0.2.1", 50_000))
        assert isinstance(upgrade, PendingUpgrade)
        assert upgrade.ip == "198.51.100.7"
        assert isinstance(policy.receive(upgrade_request("http://evil.example/"), ("192.0.2.1", 50_000)), Response)
    first.is_draining = True
    assert not second.is_draining
    assert first.dismiss(None).headers.get("Retry-After") == "7"


@pytest.mark.parametrize(
    "token", ["", " " * 16, "fifteen letters", "with a space inside", "sixteen l\u00e9tters!!", 16]
)
def test_a_token_for_metrics_that_is_none_is_refused_and_not_shown(token: Any) -> None:
    with pytest.raises(ValueError, match=r"\Ametrics_token is no token; it must be at least 16 characters of ASCII"):
        options(metrics_token=token)
    assert options(metrics_token="0123456789abcdef").metrics_token == "0123456789abcdef"
