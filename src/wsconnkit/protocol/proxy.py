"""Ways through an HTTP proxy: which one to take, and how to ask it for a tunnel (RFC 9110, section 9.3.6).

tunnel = Tunnel(parse_proxy("http://user:password@proxy.example.org:3128"), "example.org", 443)
tunnel.data_to_send()               # the CONNECT request
tunnel.receive_data(data)           # until `is_open`, or `error` is set
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network

import h11

from wsconnkit.protocol.config import HandshakeLimits
from wsconnkit.protocol.errors import HandshakeInterrupted, InvalidHandshake, InvalidProxy, InvalidURI, ProxyRefused
from wsconnkit.protocol.hosts import ascii_name
from wsconnkit.protocol.http import Headers, Response
from wsconnkit.protocol.upgrade import USER_AGENT
from wsconnkit.protocol.uri import parse_uri

# RFC 6455, section 4.1: "If multiple proxies are configured, [prefer] the proxy for HTTPS connections".
_SCHEMES = {True: ("wss", "https", "all"), False: ("ws", "https", "http", "all")}


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy, and what it knows us by."""

    secure: bool
    host: str
    port: int
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)


def parse_proxy(url: str) -> Proxy:
    """Parse a URL such as `http://user:password@example.org:3128`, also without `http://`. Raises InvalidProxy."""
    # Like a URI, it is not quoted in errors: there may be a password in it.
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "http", url
    if scheme.lower() not in ("http", "https"):
        raise InvalidProxy("the URL of the proxy has another scheme than http and https; write http://host:port")
    secure = scheme.lower() == "https"
    try:
        uri = parse_uri(f"{'wss' if secure else 'ws'}://{rest}")
    except InvalidURI:
        raise InvalidProxy("the URL of the proxy cannot be parsed; write http://host:port") from None
    if uri.resource != "/":
        raise InvalidProxy("the URL of the proxy has a path or a query; write http://host:port")
    return Proxy(secure, uri.host, uri.port, uri.user, uri.password)


def environment_proxy(host: str, port: int, *, secure: bool, proxies: Mapping[str, str]) -> Proxy | None:
    """Return the proxy that the environment names for a server, None for a direct connection.

    proxies: what it names, as `urllib.request.getproxies` returns it. For wss it is "wss", "https" or "all", for ws
        "ws", "https", "http" or "all". "no" lists what is reached without: names, which include what is below them,
        addresses, each also with a port, networks such as `10.0.0.0/8`, or `*`.

    Raises InvalidProxy for URLs of no HTTP proxy.
    """
    host = host.rstrip(".").lower()
    urls = [proxies[scheme] for scheme in _SCHEMES[secure] if scheme in proxies]
    try:
        excepted = [ascii_name(entry) for entry in proxies.get("no", "").lower().split(",")]
    except ValueError as error:
        raise InvalidProxy(f"what no_proxy names cannot be read: {error}") from None
    if not urls or any(_matches(host, port, entry.strip()) for entry in excepted):
        return None
    usable = [url for url in urls if not url.lower().startswith("socks")]
    if not usable:
        raise InvalidProxy(
            "the environment names only a SOCKS proxy, which is not supported; "
            "set https_proxy to an HTTP proxy, or pass proxy=None to connect without one"
        )
    return parse_proxy(usable[0])


def authority(host: str, port: int) -> str:
    """Return `host:port`, as CONNECT wants it, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Tell whether `host` is this machine, which is never reached through the environment's proxy."""
    name = host.rstrip(".").lower()
    try:
        return name == "localhost" or name.endswith(".localhost") or ip_address(name).is_loopback
    except ValueError:
        return False


def _matches(host: str, port: int, entry: str) -> bool:
    """Tell whether `entry`, out of a list of what is reached without a proxy, means `host`. Nothing is resolved."""
    if entry in ("*", authority(host, port)):
        return True
    try:
        address = ip_address(host)
    except ValueError:
        below = "." + entry.lstrip(".")
        return f".{host}".endswith(below) or f".{host}:{port}".endswith(below)
    try:
        return address in ip_network(entry.strip("[]"), strict=False)
    except ValueError:  # a name
        return False


class Tunnel:
    """Asks a proxy for a connection to `host` and `port`; then `is_open` or `error` will be set."""

    def __init__(self, proxy: Proxy, host: str, port: int, limits: HandshakeLimits | None = None) -> None:
        self._limits = limits or HandshakeLimits()
        self._h11 = h11.Connection(h11.CLIENT, self._limits.max_head)
        self._received = 0
        self.is_open: bool = False
        """What is sent from now on reaches the server."""
        self.error: InvalidHandshake | None = None
        """Why there is no way through this proxy."""
        target = authority(host, port)
        headers = [("Host", target), ("User-Agent", USER_AGENT)]
        if proxy.user is not None:
            credentials = base64.b64encode(f"{proxy.user}:{proxy.password or ''}".encode()).decode()
            headers.append(("Proxy-Authorization", f"Basic {credentials}"))
        request = h11.Request(method="CONNECT", target=target, headers=headers)
        self._output = (self._h11.send(request) or b"") + (self._h11.send(h11.EndOfMessage()) or b"")

    def data_to_send(self) -> bytes:
        """Return the bytes to send to the proxy and forget them."""
        data, self._output = self._output, b""
        return data

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the proxy. Never raises."""
        if self.error is not None or not data:
            return
        if self.is_open:
            self._fail_early()
            return
        self._received += len(data)
        self._h11.receive_data(data)
        try:
            while not self._is_over:
                event = self._h11.next_event()
                if isinstance(event, h11.Response):
                    self._on_response(event)
                elif not isinstance(event, h11.InformationalResponse):
                    break  # more data is needed
        except h11.RemoteProtocolError as error:
            self.error = InvalidHandshake(f"the proxy's response is malformed: {error}")
        if not self._is_over and self._received > self._limits.max_head:  # interim responses without end, say
            self.error = InvalidHandshake(f"the proxy sent over {self._limits.max_head} bytes without an answer")

    def receive_eof(self, error: OSError | None = None) -> None:
        """The transport has ended."""
        if not self._is_over:
            self.error = HandshakeInterrupted(f"the connection to the proxy ended before its answer: {error or 'EOF'}")

    @property
    def _is_over(self) -> bool:
        return self.is_open or self.error is not None

    def _on_response(self, event: h11.Response) -> None:
        if not 200 <= event.status_code < 300:
            self.error = ProxyRefused(Response(event.status_code, Headers.from_raw(event.headers.raw_items())))
        elif self._h11.trailing_data[0]:
            self._fail_early()
        else:
            self.is_open = True

    def _fail_early(self) -> None:
        # Neither TLS nor WebSocket lets the server speak first; taken for its words, they would be the proxy's.
        self.is_open = False
        self.error = InvalidHandshake("the proxy sent more than its answer before anything was asked of the server")
