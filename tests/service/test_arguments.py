"""Every public call, with arguments of a wrong type and of a wrong value, on both event loops: an error at once."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from functools import partial, wraps
from importlib import import_module
from typing import Any, NamedTuple

import pytest
import trio
import trio.testing

import wsconnkit
from wsconnkit import HeartbeatConfig, RequestRouter
from wsconnkit.service.arguments import check_async

ADAPTERS = ["asyncio", "trio"]
CLIENT_SIDE = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


async def handler(ws: object) -> int:
    return 3


def no_handler(*args: object) -> None: ...


async def a_generator(*args: object) -> Any:
    yield 3


class Case(NamedTuple):
    """A wrong argument of one call: what it is, and what the error says behind its name."""

    call: str
    name: str
    value: Any
    told: str
    error: type[Exception] = TypeError
    loops: str = "asyncio trio"


SYNC = "written with async def and without yield"
PORT = "it must be 0 for any, or a port up to 65535"
NOT_ASYNC = [no_handler, a_generator, dict, 3]
CASES = [
    *[Case("serve", "handler", value, SYNC) for value in NOT_ASYNC],
    *[Case("serve", "authenticate", value, SYNC) for value in [no_handler, a_generator, 3]],
    Case("serve", "authenticate", wsconnkit.JWTAuthenticator, "give an instance of it"),
    *[Case("serve", "http", value, SYNC) for value in NOT_ASYNC],
    *[Case("serve", "host", value, "it must be a str such as '127.0.0.1'") for value in [3, b"a", [3], []]],
    *[Case("serve", "port", value, PORT) for value in ["80", 3.5, True]],
    *[Case("serve", "port", value, PORT, ValueError) for value in [-1, 65536]],
    Case("serve", "path", 3, "it must be None, or a str such as '/ws'"),
    Case("serve", "path", "ws", "it must be None, or a path that starts with '/'", ValueError),
    Case("serve", "path", "/café", "as it comes in a request: '/caf%C3%A9'", ValueError),
    Case("serve", "path", "/chat room", "as it comes in a request: '/chat%20room'", ValueError),
    Case("serve", "path", "/ws?x=1", "a path alone, without '?' or '#'", ValueError),
    Case("serve", "path", "/ws#x", "a path alone, without '?' or '#'", ValueError),
    *[Case("serve", name, {}, f"it must be {kind}, or None") for name, kind in [
        ("config", "a ConnectionConfig"), ("admission", "AdmissionConfig"), ("proxies", "TrustedProxies"),
        ("drain", "a DrainConfig"),
    ]],
    Case("serve", "config", HeartbeatConfig(), "it must be a ConnectionConfig, or None"),
    *[Case("serve", name, value, "it must be a list of str, or None")
      for name in ["origins", "allowed_hosts"] for value in [3, "https://example.org", b"a"]],
    Case("serve", "origins", ["example.org"], "is no origin; write 'scheme://host'", ValueError),
    *[Case("serve", "subprotocols", value, "it must be a list of distinct tokens", wsconnkit.LocalProtocolError)
      for value in [3, "chat", [3], ["a b"], None]],
    Case("serve", "reauthenticate", "yes", "it must be True or False"),
    Case("serve", "reauthenticate", True, "given without authenticate", ValueError),
    *[Case("serve", "endpoints", value, "it must be True, False, or (host, port)")
      for value in ["yes", (1,), (3, 3), None]],
    Case("serve", "endpoints", ("::1", "a"), PORT),
    Case("serve", "endpoints", ("::1", 70000), PORT, ValueError),
    Case("serve", "metrics", 3, "it must be a function such as render_metrics"),
    Case("serve", "ssl", True, "it must be None, or a server-side ssl.SSLContext"),
    Case("serve", "ssl", CLIENT_SIDE, "it must be None, or a server-side ssl.SSLContext", ValueError),
    Case("serve", "sock", 3, "it must be a socket.socket, or None", loops="asyncio"),
    Case("serve", "backlog", "a", "it must be an int"),
    Case("serve", "listeners", 3, "it must be a list of listeners, or None", loops="trio"),
    Case("serve", "listeners", [3], "it must be a list of listeners, or None", loops="trio"),
    Case("serve", "ping_interval", 3, "write config=ConnectionConfig(heartbeat=HeartbeatConfig(interval=...))"),
    Case("serve", "max_size", 3, "write config=ConnectionConfig(limits=FrameLimits(max_message_size=...))"),
    Case("serve", "process_request", handler, "write http= for other requests, authenticate= for those who want"),
    Case("serve", "orgins", [], "write origins="),
    Case("serve", "nothing_like_it", 3, "serve has no argument nothing_like_it"),
    Case("Manager", "ping_timeout", 3, "write config=ConnectionConfig(heartbeat=HeartbeatConfig(timeout=...))"),
    Case("Manager", "config", {}, "it must be a ConnectionConfig, or None"),
    Case("Manager", "authenticate", no_handler, SYNC),
    Case("Manager", "path", "/é", "as it comes in a request: '/%C3%A9'", ValueError),
    Case("connect", "uri", 3, "it must be a str"),
    Case("connect", "uri", "localhost:3001", "has no scheme; write ws:// or wss:// in front", ValueError),
    *[Case("connect", "token", value, SYNC) for value in [no_handler, a_generator, dict]],
    *[Case("connect", "token", value, "it must be a str, an async function, or None") for value in [3, b"a"]],
    *[Case("connect", "headers", value, 'as in {"Name": "value"} or [("Name", "value")]')
      for value in [None, 3, "A: b", ["A: b"], ["ab"], {"A": 3}, {b"A": b"b"}, [("a", "b", "c")]]],
    *[Case("connect", "headers", value, "header", wsconnkit.LocalProtocolError)
      for value in [{"A b": "c"}, {"A": "b\nc"}]],
    *[Case("connect", "subprotocols", value, "it must be a list of distinct tokens", wsconnkit.LocalProtocolError)
      for value in [3, "chat", ["a", "a"], None]],
    Case("connect", "config", {}, "it must be a ConnectionConfig, or None"),
    Case("connect", "ssl", True, "it must be an SSLContext, or None for the default one"),
    Case("connect", "proxy_ssl", True, "it must be an SSLContext, or None for the default one"),
    Case("connect", "server_hostname", 3, "it must be a str, or None"),
    Case("connect", "proxy", 3, "it must be a URL, True for the environment's, or None"),
    Case("connect", "backoff", 3, "it must be a BackoffConfig, or None"),
    Case("connect", "should_retry", 3, "it must be a function, or None"),
    Case("connect", "on_event", 3, "it must be a function, or None"),
    Case("connect", "host", 3, "it must be a str, or None for the URI's"),
    Case("connect", "port", "80", PORT),
    Case("connect", "port", 70000, PORT, ValueError),
    Case("connect", "sock", 3, "it must be a socket.socket, or None", loops="asyncio"),
    Case("connect", "stream", 3, "it must be a trio.abc.Stream, or None", loops="trio"),
    Case("connect", "ping_interval", 3, "write config=ConnectionConfig(heartbeat=HeartbeatConfig(interval=...))"),
    Case("connect", "additional_headers", {}, "write headers="),
    Case("connect", "heartbeat", 3, "write config=ConnectionConfig(heartbeat=HeartbeatConfig(interval=...))"),
    Case("connect", "header", {}, "write headers="),
    Case("ReconnectingClient", "queue", 3, "it must be a BacklogConfig, or None"),
    *[Case("ReconnectingClient", "on_open", value, SYNC) for value in NOT_ASYNC],
    Case("ReconnectingClient", "protocols", [], "write subprotocols="),
]  # fmt: skip


def call_with(adapter: Any, case: Case) -> object:
    arguments: dict[str, Any] = {case.name: case.value}
    if case.call == "serve":
        if case.name not in ("sock", "listeners"):
            arguments = {"host": "127.0.0.1", "port": 0} | arguments
        return adapter.serve(arguments.pop("handler", handler), **arguments)
    if case.call in ("connect", "ReconnectingClient"):
        return getattr(adapter, case.call)(arguments.pop("uri", "ws://example.org/"), **arguments)
    return adapter.Manager(**arguments)


@pytest.mark.parametrize("loop", ADAPTERS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.call}-{case.name}-{str(case.value)[:15]}")
def test_a_wrong_argument_is_refused_by_name_with_what_is_allowed(case: Case, loop: str) -> None:
    if loop not in case.loops:
        pytest.skip("this event loop has no such argument")
    with pytest.raises(case.error) as caught:
        call_with(import_module(f"wsconnkit.{loop}"), case)
    assert type(caught.value) is case.error or issubclass(case.error, ValueError)
    text = str(caught.value)
    assert case.told in text
    assert case.name in text or "URI" in text or isinstance(caught.value, (wsconnkit.LocalProtocolError, ValueError))


WRONG_REQUEST: dict[str, Any] = {"request": None, "agreement": None, "config": None, "trailing_data": b""}


def fake(loop: str) -> Any:
    return asyncio.Transport() if loop == "asyncio" else trio.testing.memory_stream_one_way_pair()[0]


REQUEST = wsconnkit.check_upgrade(
    "GET",
    "/",
    "1.1",
    wsconnkit.Headers([
        ("Host", "a"), ("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ]),
)  # fmt: skip
assert isinstance(REQUEST, wsconnkit.UpgradeRequest)
AGREEMENT = wsconnkit.agree(REQUEST, wsconnkit.ConnectionConfig())


@pytest.mark.parametrize("loop", ADAPTERS)
@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"transport": 3}, " is 3; it must be a "),
        ({"request": None}, "request is None; it must be what check_upgrade returns"),
        ({"agreement": None}, "agreement is None; it must be what agree returns"),
        ({"config": {}}, r"config is \{\}; it must be a ConnectionConfig, or None"),
        ({"trailing_data": None}, "trailing_data is None; it must be bytes"),
    ],
)
def test_attach_refuses_what_is_no_part_of_an_upgrade(loop: str, wrong: dict[str, Any], told: str) -> None:
    attach: Callable[..., object] = import_module(f"wsconnkit.{loop}").attach
    given = {"transport": fake(loop), "request": REQUEST, "agreement": AGREEMENT} | wrong
    first = given.pop("transport")
    with pytest.raises(TypeError, match=told):
        attach(first, given.pop("request"), given.pop("agreement"), **given)


@pytest.mark.parametrize("loop", ADAPTERS)
def test_a_manager_attaches_what_it_has_decided_on(loop: str) -> None:
    manager = import_module(f"wsconnkit.{loop}").Manager()
    with pytest.raises(TypeError, match="admitted is None; it must be what decide returns"):
        manager.attach(fake(loop), None)


class Called:
    """What can be called, as a function can."""

    async def __call__(self, ws: object) -> None: ...

    async def method(self, ws: object) -> None: ...


def wrapped() -> Any:
    @wraps(handler)
    def inner(ws: object) -> Any:
        return handler(ws)

    return inner


def typed(ws: object) -> Awaitable[int]:
    return handler(ws)


ASYNC = [handler, partial(partial(handler), 1), lambda ws: handler(ws), Called(), Called().method, wrapped(), typed]


@pytest.mark.parametrize("number", range(len(ASYNC)))
def test_what_returns_what_can_be_awaited_is_taken(number: int) -> None:
    check_async("handler", ASYNC[number])


@pytest.mark.parametrize("value", NOT_ASYNC, ids=lambda value: getattr(value, "__name__", "3"))
def test_a_router_takes_async_functions_only(value: Any) -> None:
    router = RequestRouter()
    with pytest.raises(TypeError, match=f"the handler is .*{SYNC}"):
        router.action("a")(value)
    with pytest.raises(TypeError, match=f"the handler is .*{SYNC}"):
        router.default(value)
    with pytest.raises(TypeError, match=f"on_message is .*{SYNC}"):
        RequestRouter(on_message=value)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"max_concurrent": "a"}, "max_concurrent is 'a'; it must be an int, at least 1"),
        ({"max_concurrent": True}, "max_concurrent is True; it must be an int, at least 1"),
        ({"timeout": "a"}, "timeout is 'a'; it must be seconds, more than 0, or None"),
    ],
)
def test_a_router_takes_numbers_for_its_limits(arguments: Any, told: str) -> None:
    with pytest.raises(TypeError) as caught:
        RequestRouter(**arguments)
    assert str(caught.value) == told
