"""A server with many clients is told to stop: all of them in order, within the deadline."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from wsconnkit.asyncio import Connection, connect
from wsconnkit.protocol.config import ConnectionConfig

CLIENTS, ASKING, SILENT = 200, 20, 5
WINDOW, GRACE, CLOSE_TIMEOUT = 2000, 10_000, 1000
"""Milliseconds."""
ENV = {
    "RATE_LIMIT_REQUESTS_PER_MINUTE": "10000",
    "DRAIN_WINDOW": str(WINDOW),
    "DRAIN_GRACE": str(GRACE),
    "CLOSE_TIMEOUT": str(CLOSE_TIMEOUT),
}
PLAIN = ConnectionConfig(heartbeat=None)
UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


async def silent_client(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a connection and never answer anything on it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(UPGRADE)
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    return reader, writer


async def stop_among_clients(process: subprocess.Popen[str], port: int) -> None:
    uri = f"ws://127.0.0.1:{port}/ws"
    silent = [await silent_client(port) for _ in range(SILENT)]
    clients: list[Connection] = [await connect(uri, config=PLAIN) for _ in range(CLIENTS - SILENT)]
    payload = {"action": "sleep", "seconds": WINDOW / 1000 + 1}
    asking = [asyncio.ensure_future(ws.request(payload)) for ws in clients[:ASKING]]
    # What comes back says that the requests before it have arrived.
    for ws in clients[:ASKING]:
        assert await ws.request({"action": "echo"}) == {"action": "echo"}
    process.send_signal(signal.SIGTERM)
    assert await asyncio.gather(*asking) == [payload] * ASKING
    for ws in clients:
        await ws.wait_closed()
        assert ws.close_info is not None
        assert ws.close_info.rcvd == (1012, "server shutdown")
    for reader, writer in silent:
        assert b"\x03\xf4server shutdown" in await reader.read()
        writer.close()


def test_requests_in_flight_are_answered_and_all_connections_are_accounted_for(serving: Any) -> None:
    with serving(env=ENV) as (process, started), ThreadPoolExecutor() as pool:
        # Read meanwhile, or what it logs would fill the pipe.
        output = pool.submit(process.communicate)
        asyncio.run(stop_among_clients(process, started["port"]))
        stdout, stderr = output.result()
    assert (process.returncode, stderr) == (0, "")
    drained = json.loads(stdout.splitlines()[-1])
    assert drained["type"] == "server_drained"
    assert {name: drained[name] for name in ("connections", "closed", "unanswered", "left", "aborted")} == {
        "connections": CLIENTS,
        "closed": CLIENTS - SILENT,
        "unanswered": SILENT,
        "left": 0,
        "aborted": 0,
    }
    assert drained["duration"] <= (WINDOW + GRACE) / 1000
