"""What clients are told when they are made, and what they are told of TLS."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from typing import Any

import pytest
import trio.testing
import trustme

import wsconnkit.trio
from wsconnkit.machines.backoff import BackoffConfig

from .driver import Driver, port_of

URI = "ws://127.0.0.1:1/"


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ({"token": b"secret"}, "^token is of type bytes; it must be a str, an async function, or None$"),
        ({"config": {}}, r"^config is \{\}; it must be a ConnectionConfig, or None$"),
        ({"ssl": True}, "^ssl is True; it must be an SSLContext"),
        ({"proxy_ssl": True}, "^proxy_ssl is True; it must be an SSLContext"),
        ({"proxy": 1}, "^proxy is of type int"),
        ({"backoff": 3}, "^backoff is 3;"),
        ({"should_retry": True}, "^should_retry is True;"),
        ({"on_event": []}, r"^on_event is \[\];"),
        ({"server_hostname": 3}, "^server_hostname is 3;"),
        ({"timeout": 3}, "^connect has no argument timeout; write config="),
    ],
)
@pytest.mark.parametrize("kind", ["connect", "ReconnectingClient"])
def test_arguments_of_a_wrong_type_or_name_are_refused_at_once(
    network: Driver, kind: str, argument: dict[str, Any], told: str
) -> None:
    with pytest.raises(TypeError, match=told):
        getattr(network.adapter, kind)(URI, **argument)


@pytest.mark.parametrize("kind", ["connect", "ReconnectingClient"])
def test_a_uri_is_text(network: Driver, kind: str) -> None:
    with pytest.raises(TypeError, match=r"^uri is of type bytes; it must be a str$"):
        getattr(network.adapter, kind)(URI.encode())


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ({"queue": 3}, "^queue is 3; it must be a BacklogConfig, or None$"),
        ({"on_open": 3}, "^on_open is 3; it must be None, or an async function, written"),
    ],
)
def test_so_are_those_of_clients_that_come_back(network: Driver, argument: dict[str, Any], told: str) -> None:
    with pytest.raises(TypeError, match=told):
        network.adapter.ReconnectingClient(URI, **argument)


def test_a_transport_for_one_connection_is_nothing_for_a_client_that_makes_more(network: Driver) -> None:
    on_trio = network.adapter is wsconnkit.trio
    name = "stream" if on_trio else "sock"
    with socket.socket() as sock:
        given: object = trio.testing.memory_stream_pair()[0] if on_trio else sock
        refuses_a_transport(network, name, given)


def refuses_a_transport(network: Driver, name: str, given: object) -> None:
    told = f"^{name} is given; it serves one connection, and a client that comes back makes more$"
    with pytest.raises(ValueError, match=told):
        network.adapter.ReconnectingClient(URI, **{name: given})
    with pytest.raises(ValueError, match=told):
        aiter(network.adapter.connect(URI, **{name: given}))


def test_a_name_for_the_certificate_is_nothing_for_ws(network: Driver) -> None:
    with pytest.raises(ValueError, match=r"^server_hostname is given, but the URI has the scheme ws; use wss, or"):
        network.adapter.connect(URI, server_hostname="example.test")


def test_the_certificate_must_be_for_the_name_that_is_given(network: Driver) -> None:
    authority, ours, theirs = trustme.CA(), ssl.create_default_context(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("example.test").configure_cert(theirs)
    authority.configure_trust(ours)

    async def main() -> None:
        async def handler(ws: Any) -> None:
            await ws.wait_closed()

        async with network.serve(handler, ssl=theirs) as server:
            uri = f"wss://127.0.0.1:{port_of(server)}/"
            async with network.adapter.connect(uri, ssl=ours, server_hostname="example.test") as ws:
                await ws.ping()
            with pytest.raises(ssl.SSLCertVerificationError):
                async with network.adapter.connect(uri, ssl=ours):
                    raise AssertionError

    network.run(main)


@pytest.mark.parametrize(
    ("host", "name"),
    [("example.test.", "example.test"), ("faß.test", "xn--fa-hia.test"), ("[fe80::1%25lo]", "fe80::1")],
)
def test_tls_has_the_name_of_the_uri_as_certificates_have_it(network: Driver, host: str, name: str) -> None:
    authority, ours, theirs = trustme.CA(), ssl.create_default_context(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(theirs)
    authority.configure_trust(ours)
    asked: list[str | None] = []
    theirs.sni_callback = lambda _, asked_for, __: asked.append(asked_for)

    async def main() -> None:
        async def handler(ws: Any) -> None:
            await ws.wait_closed()

        async with network.serve(handler, ssl=theirs) as server:
            uri = f"wss://{host}:{port_of(server)}/"
            async with network.adapter.connect(uri, ssl=ours, host="127.0.0.1") as ws:
                await ws.ping()

    network.run(main)
    assert asked == [None if ":" in name else name]


def test_certificates_are_read_once_however_often_a_client_tries(
    network: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[ssl.SSLContext] = []
    make = ssl.create_default_context

    def create_default_context(*args: Any, **kwargs: Any) -> ssl.SSLContext:
        made.append(make(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(ssl, "create_default_context", create_default_context)
    errors: list[Exception] = []

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)

            def hang_up() -> bool:
                """Read the beginning of a TLS handshake, and end the connection."""
                with suppress(BlockingIOError):
                    accepted.append(listener.accept()[0])
                for each in list(accepted):
                    each.setblocking(False)
                    with suppress(BlockingIOError):
                        each.recv(65536)
                        each.close()
                        accepted.remove(each)
                return attempting.done

            def note(error: Exception) -> None:
                errors.append(error)

            async def attempt() -> None:
                backoff = BackoffConfig(base=0.001, cap=0.001, max_attempts=3)
                uri = f"wss://127.0.0.1:{listener.getsockname()[1]}/"
                async for _ in network.adapter.connect(uri, backoff=backoff, should_retry=note):
                    raise AssertionError

            accepted: list[socket.socket] = []
            async with network.tasks() as start:
                attempting = start(attempt)
                while not hang_up():
                    await network.sleep(0.01)
                with pytest.raises(ConnectionResetError):
                    await attempting.join()

    assert made == []
    network.run(main)
    told = "the connection ended during the TLS handshake"
    assert [(type(error), str(error)) for error in errors] == [(ConnectionResetError, told)] * 3
    assert len(made) == 1
