"""Answers of real servers, of which some never end, whatever part of an answer it is that they draw out."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import urllib.error
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
import trustme

from wsconnkit.download import download

MAX_BYTES = 64 * 1024
HEAD = b"HTTP/1.1 200 OK\r\n"
Speak = Callable[[socket.socket], None]


class Server:
    """Hands each client to `speak`, in a thread; closed, it makes all of them end."""

    def __init__(self, speak: Speak, context: ssl.SSLContext | None = None) -> None:
        self._speak = speak
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._clients: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        self.port: int = self._listener.getsockname()[1]
        self.requests: list[bytes] = []

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        for client in self._clients:
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._clients.append(client)
                thread = threading.Thread(target=self._serve, args=(client,))
                self._threads.append(thread)
                thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            if self._context is not None:
                client = self._context.wrap_socket(client, server_side=True)
            with client:
                self._read(client)
                self._speak(client)

    def _read(self, client: socket.socket) -> None:
        request = b""
        while not request.endswith(b"\r\n\r\n"):
            data = client.recv(4096)
            if not data:
                return
            request += data
        self.requests.append(request)


@contextmanager
def serving(speak: Speak, context: ssl.SSLContext | None = None) -> Iterator[Server]:
    server = Server(speak, context)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def tls(monkeypatch: pytest.MonkeyPatch) -> Iterator[ssl.SSLContext]:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with authority.cert_pem.tempfile() as path:
        monkeypatch.setenv("SSL_CERT_FILE", path)
        yield context


def saying(answer: bytes) -> Speak:
    return lambda client: client.sendall(answer)


def for_ever(begin: bytes, part: bytes) -> Speak:
    """Say `begin`, and then `part` again and again, until the client leaves."""

    def speak(client: socket.socket) -> None:
        client.sendall(begin)
        while True:
            client.sendall(part)

    return speak


def dripping(begin: bytes, part: bytes) -> Speak:
    """Do the same, but slowly: the client is never without news for long."""

    def speak(client: socket.socket) -> None:
        client.sendall(begin)
        left = threading.Event()
        while not left.wait(0.01):
            client.sendall(part)

    return speak


def fetch(port: int, scheme: str = "http", timeout: float = 30.0) -> bytes:
    return download(f"{scheme}://127.0.0.1:{port}/keys?a=b", max_bytes=MAX_BYTES, timeout=timeout)


@pytest.mark.parametrize(
    "answer",
    [
        HEAD + b"Content-Length: 4\r\n\r\nkeys and more",
        HEAD + b"\r\nkeys",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nk\r\n3\r\neys\r\n0\r\nX: y\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + b"\r\nkeys",
    ],
)
def test_the_body_is_returned_however_it_is_sent(answer: bytes) -> None:
    with serving(saying(answer)) as server:
        assert fetch(server.port) == b"keys"
    [request] = server.requests
    assert request.startswith(b"GET /keys?a=b HTTP/1.1\r\n")
    assert f"Host: 127.0.0.1:{server.port}\r\n".encode() in request
    assert b"User-Agent: wsconnkit\r\n" in request


def test_a_server_with_tls_must_be_the_one_that_is_named(tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(saying(HEAD + b"\r\nkeys"), tls) as server:
        assert fetch(server.port, "https") == b"keys"
        with pytest.raises(urllib.error.URLError, match="certificate verify failed"):
            download(f"https://localhost:{server.port}/", max_bytes=MAX_BYTES, timeout=30)
        monkeypatch.delenv("SSL_CERT_FILE")
        with pytest.raises(urllib.error.URLError, match="certificate verify failed"):
            fetch(server.port, "https")


def test_an_answer_may_be_as_long_as_it_is_said_and_no_longer() -> None:
    head = HEAD + b"\r\n"
    with serving(saying(head + b"x" * (MAX_BYTES - len(head)))) as server:
        assert len(fetch(server.port)) == MAX_BYTES - len(head)
    with serving(saying(head + b"x" * (MAX_BYTES - len(head) + 1))) as server:
        with pytest.raises(http.client.HTTPException, match="the answer has more than 65536 bytes"):
            fetch(server.port)


ENDLESS = {
    "body": (HEAD + b"\r\n", b"x" * 1000),
    "body of a length": (HEAD + b"Content-Length: 1000000000000\r\n\r\n", b"x" * 1000),
    "chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "a chunk": (HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffff\r\n", b"x" * 1000),
    "trailers": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n"),
    "interim responses": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
}


@pytest.mark.parametrize(("begin", "part"), ENDLESS.values(), ids=ENDLESS.keys())
def test_an_answer_without_end_is_given_up_at_its_bound(begin: bytes, part: bytes) -> None:
    with serving(for_ever(begin, part)) as server:
        with pytest.raises(http.client.HTTPException, match="the answer has more than 65536 bytes"):
            fetch(server.port)


def test_headers_without_end_are_given_up_earlier() -> None:
    with serving(for_ever(HEAD, b"X: y\r\n")) as server:
        with pytest.raises(http.client.HTTPException, match="more than 100 headers"):
            fetch(server.port)


SLOW = {**ENDLESS, "status": (b"HTTP/1.1 200 O", b"K"), "header": (HEAD + b"X: ", b"y"), "headers": (HEAD, b"X: y\r\n")}


@pytest.mark.parametrize(("begin", "part"), SLOW.values(), ids=SLOW.keys())
def test_an_answer_that_drips_is_given_up_in_time(begin: bytes, part: bytes) -> None:
    with serving(dripping(begin, part)) as server:
        with pytest.raises(TimeoutError, match=r"no complete answer within 0\.3 s"):
            fetch(server.port, timeout=0.3)


def test_an_answer_that_drips_through_tls_is_given_up_in_time(tls: ssl.SSLContext) -> None:
    with serving(dripping(HEAD + b"\r\n", b"x"), tls) as server:
        with pytest.raises(TimeoutError, match=r"no complete answer within 0\.5 s"):
            fetch(server.port, "https", timeout=0.5)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_that_says_nothing_is_given_up_in_time(scheme: str, tls: ssl.SSLContext) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(OSError, match="no complete answer"):
            fetch(silent.getsockname()[1], scheme, timeout=0.1)


def test_no_answer_is_read_beyond_the_time_that_connecting_has_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(saying(HEAD + b"\r\nkeys")) as server:
        with pytest.raises(OSError, match="no complete answer within 1e-09 s"):
            fetch(server.port, timeout=1e-9)


def test_all_addresses_of_a_host_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        refusing = unused.getsockname()
    with serving(saying(HEAD + b"\r\nkeys")) as server:
        addresses = [
            (socket.AF_INET, socket.SOCK_STREAM, 0, "", address) for address in (refusing, ("127.0.0.1", server.port))
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: addresses)
        assert download("http://issuer.test/", max_bytes=MAX_BYTES, timeout=30) == b"keys"
        addresses.pop()
        with pytest.raises(urllib.error.URLError, match="refused"):
            download("http://issuer.test/", max_bytes=MAX_BYTES, timeout=30)
        addresses.pop()
        with pytest.raises(urllib.error.URLError, match="the host has no address"):
            download("http://issuer.test/", max_bytes=MAX_BYTES, timeout=30)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 401, 404, 500])
def test_another_status_is_an_error_and_nobody_else_is_asked(status: int) -> None:
    with serving(saying(HEAD + b"\r\nkeys")) as other:
        answer = f"HTTP/1.1 {status} No\r\nLocation: http://127.0.0.1:{other.port}/\r\nContent-Length: 0\r\n\r\n"
        with serving(saying(answer.encode())) as server:
            with pytest.raises(urllib.error.HTTPError) as caught:
                fetch(server.port)
    assert caught.value.code == status
    assert (len(server.requests), other.requests) == (1, [])


def test_an_answer_that_is_cut_short_is_an_error() -> None:
    with serving(saying(HEAD + b"Content-Length: 5\r\n\r\nkeys")) as server:
        with pytest.raises(http.client.IncompleteRead):
            fetch(server.port)


def test_other_than_http_is_an_error() -> None:
    with serving(saying(b"SSH-2.0-x\r\n")) as server:
        with pytest.raises(http.client.HTTPException):
            fetch(server.port)
    with pytest.raises(urllib.error.URLError, match="unknown url type"):
        download("file:///etc/passwd", max_bytes=MAX_BYTES, timeout=30)


# Proxies.


def test_the_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(saying(HEAD + b"\r\nkeys")) as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        assert download("http://issuer.test/keys", max_bytes=MAX_BYTES, timeout=30) == b"keys"
    assert proxy.requests[0].startswith(b"GET http://issuer.test/keys HTTP/1.1\r\n")


def test_tls_goes_through_a_tunnel(monkeypatch: pytest.MonkeyPatch, tls: ssl.SSLContext) -> None:
    def speak(client: socket.socket) -> None:
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with tls.wrap_socket(client, server_side=True) as secured:
            secured.recv(4096)
            secured.sendall(HEAD + b"\r\nkeys")

    with serving(speak) as proxy:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
        assert download("https://127.0.0.1/keys", max_bytes=MAX_BYTES, timeout=30) == b"keys"
    assert proxy.requests[0].startswith(b"CONNECT 127.0.0.1:443 HTTP/1.")


@pytest.mark.parametrize(("begin", "part"), [(b"HTTP/1.1 200 O", b"K"), (HEAD + b"X: ", b"y"), (HEAD, b"X: y\r\n")])
def test_a_proxy_that_drips_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch, begin: bytes, part: bytes) -> None:
    with serving(dripping(begin, part)) as proxy:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
        with pytest.raises(OSError, match=r"no complete answer within 0\.3 s"):
            download("https://issuer.test/keys", max_bytes=MAX_BYTES, timeout=0.3)
