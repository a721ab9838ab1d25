from __future__ import annotations

import pytest

from wsconnkit.machines.closing import State
from wsconnkit.managed.connection import Connection
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.connection import ConnectionProtocol
from wsconnkit.protocol.frames import Opcode, Role, encode_frame
from wsconnkit.protocol.upgrade import agree
from wsconnkit.service.admission import Admission, AdmissionConfig
from wsconnkit.service.log import ConnectionLog
from wsconnkit.service.principal import Principal
from wsconnkit.service.serverstats import ServerStats
from wsconnkit.service.session import Session
from wsconnkit.testing.runtime import Runtime

from ..service.kit import logged, upgrade_request

ADA = Principal(subject="ada")


def connection(
    core: ConnectionProtocol | None = None, principal: Principal | None = None, runtime: Runtime | None = None
) -> Connection:
    request = upgrade_request("/ws?token=s3cret")
    config = ConnectionConfig()
    session = None
    if principal is not None:
        session = Session(
            ConnectionLog("c1", user_id=principal.subject),
            principal,
            None,
            admission=Admission(AdmissionConfig()),
            server_stats=ServerStats(),
            reauthenticate=False,
            now=0.0,
            wall_now=0.0,
        )
    core = core or ConnectionProtocol(Role.SERVER, config, now=0.0)
    return Connection(runtime or Runtime(), core, config, request, agree(request, config), session)


def end(core: ConnectionProtocol) -> None:
    core.receive_eof(1.0)
    list(core.events())


def test_it_tells_what_the_core_knows() -> None:
    core = ConnectionProtocol(Role.SERVER, ConnectionConfig(), now=0.0)
    ws = connection(core)
    assert (ws.state, ws.latency, ws.close_info, ws.is_healthy) == (State.OPEN, None, None, True)
    assert ws.stats is core.stats
    core.handle_timeout(30.0)
    pong = core.data_to_send()[2:]
    core.receive_data(encode_frame(Opcode.PONG, pong, mask=b"mask"), 30.5)
    list(core.events())
    latency = ws.latency
    assert latency == 0.5
    end(core)
    assert (ws.state, ws.is_healthy) == (State.CLOSED, False)
    assert ws.close_info is core.close_info is not None


def test_a_missed_ping_is_not_healthy() -> None:
    core = ConnectionProtocol(Role.SERVER, ConnectionConfig(), now=0.0)
    for now in (30.0, 35.0, 35.01):
        core.handle_timeout(now)
        core.data_to_send()
    assert core.state is State.OPEN
    assert not connection(core).is_healthy


def test_it_has_the_name_of_its_session_or_one_of_its_own() -> None:
    ws = connection(principal=ADA)
    assert (ws.id, ws.principal) == ("c1", ADA)
    runtime = Runtime()
    one, other = connection(runtime=runtime), connection(runtime=runtime)
    assert one.id != other.id
    assert one.principal is None


def test_it_tells_how_it_began() -> None:
    ws = connection()
    assert (ws.upgrade_request.path, ws.subprotocol) == ("/ws", None)
    assert ws.response_headers.get("Upgrade") == "websocket"
    assert ws.remote_address is ws.local_address is None


def test_no_token_of_its_request_reaches_the_log() -> None:
    with logged() as records:
        connection().log.handler_error(ValueError("refused s3cret"))
    (record,) = records
    assert "s3cret" not in str(record.__dict__)


@pytest.mark.parametrize("has_ended", [False, True])
def test_callbacks_are_kept_until_the_end_and_called_at_once_after_it(has_ended: bool) -> None:
    core = ConnectionProtocol(Role.SERVER, ConnectionConfig(), now=0.0)
    ws = connection(core)
    if has_ended:
        end(core)
    called: list[str] = []
    ws.call_when_closed(lambda: called.append("here"))
    assert called == (["here"] if has_ended else [])
