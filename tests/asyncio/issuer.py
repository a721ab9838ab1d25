"""An issuer of tokens with real keys, which it publishes at a real HTTP server."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from wsconnkit.service.auth import JWTAuthenticator

SECRET = "a secret that nobody knows, of enough bytes"
RSA_KEY = rsa.generate_private_key(65537, 2048)

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def claims(**more: Any) -> dict[str, Any]:
    """Return the claims of alice, good for an hour; `more` is added, and what is None left out."""
    all_claims = {"sub": "alice", "exp": time.time() + 3600, **more}
    return {name: value for name, value in all_claims.items() if value is not None}


def hs256(**more: Any) -> str:
    """Return a token that is signed with SECRET."""
    return jwt.encode(claims(**more), SECRET, "HS256")


def by_secret(**options: Any) -> JWTAuthenticator:
    return JWTAuthenticator(secret=SECRET, **options)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


class Issuer:
    """keys: the private keys by their ids; what is in it is published.

    status: what the server answers with. requests: how many it has had.
    """

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._gate = threading.Event()
        self._gate.set()
        self._in_flight = 0
        self.asked = threading.Event()
        """Set when there was a request."""
        self.keys: dict[str, PrivateKey] = {"RS256": RSA_KEY, "ES256": new_key()}
        self.status = 200
        self.requests = 0
        self.most_at_once = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/jwks.json"

    def authenticator(self, **options: Any) -> JWTAuthenticator:
        return JWTAuthenticator(jwks_url=self.url, **options)

    def token(self, kid: str, key: PrivateKey | None = None, **more: Any) -> str:
        """Return a token signed with the key called `kid`, or with `key`."""
        private_key = key or self.keys[kid]
        algorithm = "RS256" if isinstance(private_key, rsa.RSAPrivateKey) else "ES256"
        return jwt.encode(claims(**more), private_key, algorithm, {"kid": kid})

    def hold(self) -> None:
        """Answer nothing until `release`."""
        self._gate.clear()
        self.asked.clear()

    def release(self) -> None:
        self._gate.set()

    def answer(self) -> tuple[int, bytes]:
        """Return status and body; called in a thread for each request."""
        with self._lock:
            self.requests += 1
            self._in_flight += 1
            self.most_at_once = max(self.most_at_once, self._in_flight)
        self.asked.set()
        self._gate.wait(30)
        with self._lock:
            self._in_flight -= 1
        return self.status, json.dumps({"keys": [_published(kid, key) for kid, key in self.keys.items()]}).encode()


def _published(kid: str, key: PrivateKey) -> dict[str, Any]:
    if isinstance(key, rsa.RSAPrivateKey):
        jwk = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        return {**jwk, "kid": kid, "alg": "RS256", "use": "sig"}
    jwk = ECAlgorithm(ECAlgorithm.SHA256).to_jwk(key.public_key(), as_dict=True)
    return {**jwk, "kid": kid, "alg": "ES256", "use": "sig"}


@contextmanager
def running_issuer() -> Generator[Issuer, None, None]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = issuer.answer()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = False  # so that closing it waits for them
        request_queue_size = 128

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # those who asked may have left

    server = Server(("127.0.0.1", 0), Handler)
    issuer = Issuer(server)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield issuer
    finally:
        issuer.release()
        server.shutdown()
        thread.join()
        server.server_close()
