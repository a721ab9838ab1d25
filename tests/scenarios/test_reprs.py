"""What objects say that they are, on every event loop."""

from __future__ import annotations

import re
from typing import Any

from .driver import Driver, port_of


def test_objects_say_what_they_are_and_no_secrets(network: Driver) -> None:
    shown: list[str] = []

    async def handler(ws: Any) -> None:
        shown.append(repr(ws))
        await ws.wait_closed()

    async def main() -> None:
        async with network.serve(handler) as server:
            assert re.fullmatch(r"<Server at .+: open, 0 connections>", repr(server))
            assert str(port_of(server)) in repr(server)
            connecting = network.adapter.connect(f"ws://ada:secret@127.0.0.1:{port_of(server)}/a?secret")
            assert repr(connecting).lower() == f"<connect: ws://127.0.0.1:{port_of(server)}/a>"
            async with connecting as ws:
                assert re.fullmatch(rf"<Connection {ws.id}: open, peer .+>", repr(ws))
                await ws.ping()
                assert repr(server).endswith(": open, 1 connections>")
            assert repr(ws).startswith(f"<Connection {ws.id}: closed, peer ")
        assert repr(server) == "<Server: closed, 0 connections>"
        client = network.adapter.ReconnectingClient("ws://127.0.0.1:1/?secret")
        assert (
            repr(client).replace("Connect:", "connect:")
            == "<ReconnectingClient: <connect: ws://127.0.0.1:1/>, not connected, 0 queued>"
        )
        manager = network.adapter.Manager()
        assert repr(manager) == f"<{type(manager).__name__}: open, 0 connections>"

    network.run(main)
    assert len(shown) == 1
    assert "secret" not in shown[0]
