"""The echo client that the conformance suite tests: `python tests/conformance/client.py asyncio | trio`.

FUZZ_URL and AGENT come from the environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from dataclasses import replace
from typing import Any

import trio
from server import CONFIG  # type: ignore[import-not-found]  # the script beside this one

import wsconnkit.asyncio
import wsconnkit.trio
from wsconnkit import ConnectionClosed, ConnectionConfig

URL = os.environ["FUZZ_URL"]
AGENT = os.environ.get("AGENT", "wsconnkit")
# The suite's server takes its time over some cases and counts our pings as unexpected frames.
CLIENT: ConnectionConfig = replace(CONFIG, heartbeat=None)


async def run_case(adapter: Any, number: int) -> None:
    async with adapter.connect(f"{URL}/runCase?case={number}&agent={AGENT}", config=CLIENT) as ws:
        with contextlib.suppress(ConnectionClosed):
            async for message in ws:
                await ws.send(message)


async def main(adapter: Any) -> None:
    async with adapter.connect(f"{URL}/getCaseCount", config=CLIENT) as ws:
        count = int(await ws.recv())
    for number in range(1, count + 1):
        await run_case(adapter, number)
    async with adapter.connect(f"{URL}/updateReports?agent={AGENT}", config=CLIENT) as ws:
        await ws.wait_closed()


if __name__ == "__main__":
    if sys.argv[1] == "trio":
        trio.run(main, wsconnkit.trio)
    else:
        asyncio.run(main(wsconnkit.asyncio))
