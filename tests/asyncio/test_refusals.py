"""Every refusal reaches every client whole: websockets, aiohttp and raw sockets, in the clear and over TLS."""

from __future__ import annotations

import asyncio
import gc
import ssl
import sys
from collections.abc import AsyncIterator, Generator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import aiohttp
import pytest
import trustme
import websockets.asyncio.client
from websockets.exceptions import InvalidStatus as WebsocketsInvalidStatus

from wsconnkit.asyncio import Connection, Server, connect, serve
from wsconnkit.machines.deadlines import READ_GRACE
from wsconnkit.machines.ratelimit import RateLimit
from wsconnkit.protocol.config import ConnectionConfig, HandshakeLimits
from wsconnkit.protocol.errors import InvalidStatus
from wsconnkit.protocol.http import Headers
from wsconnkit.protocol.upgrade import UpgradeRequest
from wsconnkit.service.admission import AdmissionConfig, Rates, Refused
from wsconnkit.service.principal import Principal
from wsconnkit.testing.eventloop import VirtualTimeLoop

from .issuer import by_secret, hs256
from .peers import UPGRADE, Arrivals, Got, Run, attempt, exchange, head, port, refused, uri

if sys.version_info < (3, 11):
    # There asyncio warns of TLS transports that the peer has ended.
    pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

MIB = 1024 * 1024
SMALL = b"\x81\x85\0\0\0\0early" * 20


class Wire(NamedTuple):
    """How clients reach a server: in the clear, or over TLS."""

    server: ssl.SSLContext | None = None
    client: ssl.SSLContext | None = None
    ws: str = "ws"
    http: str = "http"


@pytest.fixture(scope="module")
def tls() -> Wire:
    ca = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(server)
    client = ssl.create_default_context()
    ca.configure_trust(client)
    return Wire(server, client, "wss", "https")


@pytest.fixture(params=["plain", "tls"])
def wire(request: pytest.FixtureRequest, tls: Wire) -> Wire:
    return tls if request.param == "tls" else Wire()


@pytest.fixture(autouse=True)
def nothing_is_left_to_the_garbage_collector() -> Generator[None, None, None]:
    yield
    gc.collect()


class Case(NamedTuple):
    """A request that a server refuses.

    headers: added to those of an upgrade; clients do not let go of their own.
    """

    status: int
    error: str
    options: Mapping[str, Any] = {}
    path: str = "/"
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    answers: Mapping[str, str] = {}


async def broken(token: str | None, request: UpgradeRequest) -> Principal:
    raise RuntimeError("secret details")


FULL = AdmissionConfig(max_connections=1, retry_after=7.5)
ONE_EACH = AdmissionConfig(max_connections_per_ip=1, retry_after=7.0)
NO_TOKEN = {"WWW-Authenticate": "Bearer"}
BAD_TOKEN = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
VERSION = {"Upgrade": "websocket", "Sec-WebSocket-Version": "13"}

# The servers with a limit have one connection already.
CASES = {
    "400": Case(400, "Sec-WebSocket-Key must be 16 bytes in base64", headers=(("Sec-WebSocket-Key", "short"),)),
    "401-missing": Case(401, "missing token", {"authenticate": by_secret()}, answers=NO_TOKEN),
    "401-invalid": Case(401, "invalid token", {"authenticate": by_secret()}, "/?token=bad", answers=BAD_TOKEN),
    "401-expired": Case(
        401, "expired token", {"authenticate": by_secret()}, f"/?token={hs256(exp=1)}", answers=BAD_TOKEN
    ),
    "403": Case(403, "this origin is not allowed", headers=(("Origin", "https://evil.example.org"),)),
    "404": Case(404, "there is no WebSocket at this path", {"path": "/"}, "/elsewhere"),
    "405": Case(405, "the method is PUT; a WebSocket opens with GET", method="PUT", answers={"Allow": "GET"}),
    "414": Case(414, "the request target is longer than 8192 bytes", path="/?" + "x" * 8191),
    "426": Case(426, "Sec-WebSocket-Version must be 13", headers=(("Sec-WebSocket-Version", "12"),), answers=VERSION),
    "429": Case(429, "too many connections from this address", {"admission": ONE_EACH}, answers={"Retry-After": "7"}),
    "431": Case(431, "a header is longer than 8192 bytes", headers=(("X-Long", "x" * 8190),)),
    "500": Case(500, "internal error", {"authenticate": broken}),
    "503": Case(
        503, "the server has as many connections as it can take", {"admission": FULL}, answers={"Retry-After": "8"}
    ),
}
TOO_EARLY = Case(400, "too much was sent before the upgrade was accepted")
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@asynccontextmanager
async def refusing(case: Case, wire: Wire) -> AsyncIterator[Server]:
    """Run the server of a case."""
    async with serve(Arrivals(), "127.0.0.1", 0, ssl=wire.server, **case.options) as server:
        if "admission" in case.options:
            async with connect(uri(server, scheme=wire.ws), ssl=wire.client):
                yield server
        else:
            yield server


def assert_whole(got: Got, case: Case) -> None:
    assert (got.status, got.error) == (case.status, case.error)
    assert got.body.endswith(b"}\n")
    assert got.headers.get("Content-Type") == "application/json"
    assert got.headers.get("Content-Length") == str(len(got.body))
    assert got.headers.get("Connection") == ("close, Upgrade" if got.status == 426 else "close")
    for name, value in case.answers.items():
        assert got.headers.get(name) == value
    assert ("Retry-After" in got.headers) == (case.status in (429, 503))
    assert b"secret" not in got.body


async def by_websockets(server: Server, case: Case, wire: Wire) -> Got:
    with pytest.raises(WebsocketsInvalidStatus) as caught:
        await websockets.asyncio.client.connect(
            uri(server, case.path, wire.ws), additional_headers=list(case.headers), proxy=None, ssl=wire.client
        )
    response = caught.value.response
    return Got(response.status_code, Headers(response.headers.raw_items()), bytes(response.body))


async def by_aiohttp(server: Server, case: Case, wire: Wire) -> Got:
    async with aiohttp.ClientSession() as session:
        async with session.request(
            case.method, uri(server, case.path, wire.http), headers=[*UPGRADE, *case.headers], ssl=wire.client or True
        ) as response:
            return Got(response.status, Headers(response.headers.items()), await response.read())


@cases
def test_other_libraries_get_a_refusal_whole(run: Run, wire: Wire, case: Case) -> None:
    async def main() -> None:
        async with refusing(case, wire) as server:
            for _ in range(2):
                assert_whole(await by_aiohttp(server, case, wire), case)
                if case.method == "GET":  # it sends nothing else
                    assert_whole(await by_websockets(server, case, wire), case)

    run(main())


@pytest.mark.parametrize("early", [b"", SMALL, bytes(MIB)], ids=["alone", "small", "big"])
@cases
def test_a_refusal_is_whole_whatever_was_sent_behind_the_request(
    run: Run, wire: Wire, case: Case, early: bytes
) -> None:
    async def main() -> None:
        async with refusing(case, wire) as server:
            request = head(case.method, case.path, [*UPGRADE, *case.headers])
            for _ in range(3):
                got = await exchange(server, request + early, ssl=wire.client)
                if len(early) == MIB and got.error == TOO_EARLY.error:
                    # Whoever sends so much at once may be told so before anybody else was asked.
                    assert_whole(got, TOO_EARLY)
                else:
                    assert_whole(got, case)

    run(main())


def test_our_client_gets_a_refusal_whole(run: Run, wire: Wire) -> None:
    async def main() -> None:
        for case in CASES.values():
            if case.method != "GET" or any(name.startswith("Sec-") for name, _ in case.headers):
                continue  # which it does not let happen
            async with refusing(case, wire) as server:
                with pytest.raises(InvalidStatus) as caught:
                    await connect(uri(server, case.path, wire.ws), headers=case.headers, ssl=wire.client)
                response = caught.value.response
                assert_whole(Got(response.status, response.headers, response.body), case)

    run(main())


def test_an_upgrade_too_many_is_told_when_to_try_again(run: Run, wire: Wire) -> None:
    async def main() -> None:
        once = AdmissionConfig(per_ip=Rates(upgrades=RateLimit(1, 1e6)))
        case = Case(429, "too many upgrades")
        async with serve(Arrivals(), "127.0.0.1", 0, ssl=wire.server, admission=once) as server:
            first = await exchange(server, head() + b"\x88\x80\0\0\0\0", ssl=wire.client)
            assert first.status == 101
            for got in (
                await by_websockets(server, case, wire),
                await by_aiohttp(server, case, wire),
                await exchange(server, head() + SMALL, ssl=wire.client),
            ):
                assert_whole(got, case)
                assert 10**6 - 60 < got.retry_after <= 10**6

    run(main())


def test_a_request_that_does_not_end_is_answered_with_408(
    run_virtual: Run, virtual_loop: VirtualTimeLoop, wire: Wire
) -> None:
    async def main() -> None:
        config = ConnectionConfig(handshake=HandshakeLimits(timeout=3.0))
        async with serve(Arrivals(), "127.0.0.1", 0, ssl=wire.server, config=config) as server:
            for sent in (head()[:-2], head(method="POST")[:40], b"G"):
                start = virtual_loop.time()
                got = await exchange(server, sent, ssl=wire.client)
                assert_whole(got, Case(408, "no complete request within 3 s"))
                assert virtual_loop.time() == pytest.approx(start + 3 + READ_GRACE, abs=0.1)
        assert server.stats.refused == {Refused.REQUEST: 3}

    run_virtual(main())


def test_a_server_that_drains_refuses_with_503(run: Run, wire: Wire) -> None:
    async def main() -> None:
        case = Case(503, "the server is shutting down", answers={"Retry-After": "10"})
        done = asyncio.Event()

        async def handler(ws: Connection) -> None:
            with ws.busy():
                await done.wait()

        async with serve(handler, "127.0.0.1", 0, ssl=wire.server) as server:
            async with connect(uri(server, scheme=wire.ws), ssl=wire.client):
                while not len(server.connections):
                    await asyncio.sleep(0)
                draining = asyncio.ensure_future(server.drain(window=0, grace=60))
                while not server.is_draining:
                    await asyncio.sleep(0)
                for got in (
                    await by_websockets(server, case, wire),
                    await by_aiohttp(server, case, wire),
                    await exchange(server, head() + SMALL, ssl=wire.client),
                ):
                    assert_whole(got, case)
                done.set()
                await draining

    run(main())


# Origins: browsers send them, and web pages cannot change them.


@pytest.mark.parametrize(
    ("origins", "origin", "is_allowed"),
    [
        ((), None, True),
        ((), "http://127.0.0.1:PORT", True),
        ((), "https://app.example.org", False),
        ((), "http://127.0.0.1:1", False),
        ((), "https://127.0.0.1", False),
        ((), "http://localhost:PORT", False),
        ((), "null", False),
        ((), "", False),
        (["https://app.example.org"], "https://app.example.org", True),
        (["https://app.example.org"], "https://APP.example.org:443", True),
        (["https://app.example.org"], "http://app.example.org", False),
        (["https://app.example.org"], "https://app.example.org.evil.example", False),
        (["null"], "null", True),
        (None, "https://evil.example.org", True),
    ],
)
def test_web_pages_of_other_origins_are_kept_out(
    run: Run, origins: list[str] | None, origin: str | None, is_allowed: bool
) -> None:
    async def main() -> None:
        async with serve(Arrivals(), "127.0.0.1", 0, origins=origins) as server:
            sent = {} if origin is None else {"Origin": origin.replace("PORT", str(port(server)))}
            outcome = await attempt(server, headers=sent)
            if isinstance(outcome, Connection):
                await outcome.close()
            else:
                assert_whole(outcome, CASES["403"])
            assert isinstance(outcome, Connection) == is_allowed

    run(main())


def test_an_origin_is_looked_at_before_the_token_is(run: Run) -> None:
    async def main() -> None:
        async with serve(Arrivals(), "127.0.0.1", 0, authenticate=broken) as server:
            got = await refused(server, token="any", headers={"Origin": "https://evil.example.org"})
            assert_whole(got, CASES["403"])

    run(main())
