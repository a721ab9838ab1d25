"""A network in memory: servers listen at names, clients connect to them, and links do what a test wants.

async def main(runtime: Runtime) -> None:
    network = Network(runtime, latency=0.05)
    async with network.serve(echo, "example.org", 80):
        async with network.connect("ws://example.org/") as ws:
            await ws.send("hello")
            assert await ws.recv() == "hello"          # a tenth of a virtual second later

run(main, seed=1)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from typing_extensions import Unpack

from wsconnkit.managed import reconnecting
from wsconnkit.managed import server as managed
from wsconnkit.managed.acceptor import Acceptor
from wsconnkit.managed.client import Connecting, Connections, Route
from wsconnkit.managed.connection import Connection
from wsconnkit.managed.opening import OpeningHandshake
from wsconnkit.managed.runtime import Runtime as AnyRuntime
from wsconnkit.managed.transport import TransportProtocol
from wsconnkit.service.backlog import BacklogConfig
from wsconnkit.service.connectoptions import ConnectArguments
from wsconnkit.service.router import RequestRouter
from wsconnkit.service.serveoptions import ServeArguments
from wsconnkit.testing.pipe import Pipe
from wsconnkit.testing.runtime import Runtime
from wsconnkit.testing.transport import MemoryTransport

Handler = Callable[[Connection], Awaitable[object]]
Address = tuple[str, int]

_FIRST_PORT = 49152
"""The first of those that are given out, to clients and to servers that want any (RFC 6335, section 6)."""
_LOCALHOST = "127.0.0.1"


class Link(NamedTuple):
    """What one connection goes over."""

    to_server: Pipe
    to_client: Pipe

    def stop(self, stopped: bool = True) -> None:
        """Have nothing arrive any more, of which nobody is told; or again."""
        self.to_server.stopped = self.to_client.stopped = stopped


class ClientProtocol(TransportProtocol, Protocol):
    """What begins on a transport: an `OpeningHandshake`, or a client of a test's own."""

    def connection_made(self, transport: MemoryTransport, /) -> None:
        """Begin on `transport`."""


class Network:
    """Where servers and clients meet, without TLS and proxies.

    latency: seconds that bytes are under way, in both directions of new links.
    capacity: bytes that fit on the way in one direction; None for any number.
    """

    def __init__(self, runtime: Runtime, *, latency: float = 0.0, capacity: int | None = None) -> None:
        self.runtime = runtime
        self.latency = latency
        self.capacity = capacity
        self.links: list[Link] = []
        """Those of all connections so far, in the order in which they were made."""
        self._listeners: dict[Address, Listener] = {}
        self._next_port = _FIRST_PORT

    def serve(
        self,
        handler: Handler | RequestRouter,
        host: str = _LOCALHOST,
        port: int = 0,
        **arguments: Unpack[ServeArguments],
    ) -> Serving:
        """Return a context that serves, with the arguments of the adapters' `serve`. Raises ValueError for `ssl`."""
        if arguments.get("ssl") is not None:
            raise ValueError("ssl is given; there is no TLS in memory")
        return Serving(self, handler, host, port, **arguments)

    def connect(self, uri: str, **arguments: Unpack[ConnectArguments]) -> Connect:
        """Return a context that connects, with the arguments of the adapters' `connect` but for TLS and proxies."""
        return Connect(self, uri, **arguments)

    def reconnecting_client(
        self,
        uri: str,
        *,
        queue: BacklogConfig | None = None,
        on_open: Handler | None = None,
        **arguments: Unpack[ConnectArguments],
    ) -> ReconnectingClient:
        """Return a context with a client that connects again, with the arguments of the adapters' one."""
        return ReconnectingClient(self, uri, queue=queue, on_open=on_open, **arguments)

    def new_port(self) -> int:
        """Return a port that nobody has."""
        self._next_port += 1
        return self._next_port - 1

    def listen(self, listener: Listener) -> None:
        """Let clients in at a listener. Raises OSError where another one listens already."""
        if listener.address in self._listeners:
            host, port = listener.address
            raise OSError(f"somebody listens at {host}:{port} already")
        self._listeners[listener.address] = listener

    def unlisten(self, listener: Listener) -> None:
        """Let nobody in any more; safe to repeat."""
        if self._listeners.get(listener.address) is listener:
            del self._listeners[listener.address]

    async def dial(self, address: Address, client: ClientProtocol) -> None:
        """Connect `client` to a server. Raises ConnectionRefusedError where nobody listens."""
        await self.runtime.sleep(2 * self.latency)
        listener = self._listeners.get(address)
        if listener is None:
            host, port = address
            raise ConnectionRefusedError(f"nobody listens at {host}:{port}")
        link = Link(Pipe(self.latency, self.capacity), Pipe(self.latency, self.capacity))
        self.links.append(link)
        source = _LOCALHOST, self.new_port()
        accepted = listener.acceptor.accept(lambda: None, source)  # there is a transport at once
        accepted.connection_made(
            MemoryTransport(self.runtime, accepted, *link, local_address=address, remote_address=source)
        )
        client.connection_made(
            MemoryTransport(
                self.runtime, client, link.to_client, link.to_server, local_address=source, remote_address=address
            )
        )


class _Closable(Protocol):
    async def close(self) -> None: ...


T = TypeVar("T", bound=_Closable)


class _Context(ABC, Generic[T]):
    """Gives a connection, a client or a server for one block."""

    _network: Network
    _it: T

    @abstractmethod
    async def _begin(self, runtime: Runtime) -> T:
        """Return what is given."""

    async def __aenter__(self) -> T:
        self._it = await self._begin(self._network.runtime)
        return self._it

    async def __aexit__(self, *exc: object) -> None:
        await self._it.close()


class Listener:
    """Lets in who connects to an address."""

    def __init__(self, network: Network, address: Address, acceptor: Acceptor[Connection]) -> None:
        self.address = address
        self.acceptor = acceptor
        self.sockets: tuple[Address, ...] = (address,)
        self._network = network
        network.listen(self)

    def close(self) -> None:
        """Accept nobody more."""
        self.sockets = ()
        self._network.unlisten(self)

    async def wait_closed(self) -> None:
        """Return at once: nothing is left of it."""


class Server(managed.Server[Connection]):
    """A running server, whose `sockets` are the addresses that it listens at."""

    _connection_class = Connection


class Serving(managed.Serving[Connection, Server], _Context[Server]):
    """What `Network.serve` returns: `async with` it."""

    def __init__(
        self,
        network: Network,
        handler: Handler | RequestRouter,
        host: str,
        port: int,
        **arguments: Unpack[ServeArguments],
    ) -> None:
        self._network = network
        given: dict[str, Any] = dict(arguments)
        super().__init__(handler, host, port, options=(), **given)

    def _new_server(self, runtime: AnyRuntime, handler: Handler) -> Server:
        return Server(runtime, self._options, handler)

    async def _listen(
        self, acceptor: Acceptor[Connection], host: str | Sequence[str] | None, port: int | None
    ) -> Listener:
        assert isinstance(host, str)  # as `Network.serve` has it
        return Listener(self._network, (host, port or self._network.new_port()), acceptor)

    async def _listen_for_pages(self, acceptor: Acceptor[Connection], host: str, port: int) -> Listener:
        return await self._listen(acceptor, host, port)


class Connect(Connecting[Connection], _Context[Connection]):
    """What `Network.connect` returns: `async with` it for one connection, `async for` for one after the other."""

    _connection_class = Connection

    def __init__(self, network: Network, uri: str, **arguments: Unpack[ConnectArguments]) -> None:
        self._network = network
        given: dict[str, Any] = {"proxy": None, **arguments}
        super().__init__(uri, has_transport=False, options=(), **given)

    def __aiter__(self) -> Connections[Connection]:
        return self.connections(self._network.runtime)

    def check_repeatable(self) -> None:
        """Do nothing: any number of connections can be made."""

    async def _begin(self, runtime: Runtime) -> Connection:
        return await self.open(runtime)

    def _address(self) -> Address:
        return self._options.uri.host, self._options.uri.port

    async def _dial(self, runtime: AnyRuntime, route: Route, opening: OpeningHandshake) -> None:
        if route.ssl is not None or route.proxy is not None:
            raise OSError("there is no TLS and no proxy in memory")
        await self._network.dial(self._address(), opening)


class ReconnectingClient(reconnecting.ReconnectingClient[Connection], _Context["ReconnectingClient"]):
    """What `Network.reconnecting_client` returns: `async with` it."""

    def __init__(
        self,
        network: Network,
        uri: str,
        *,
        queue: BacklogConfig | None,
        on_open: Handler | None,
        **arguments: Unpack[ConnectArguments],
    ) -> None:
        self._network = network
        super().__init__(Connect(network, uri, **arguments), queue=queue, on_open=on_open)
