"""The echo client that the conformance suite tests; FUZZ_URL and AGENT come from the environment."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import replace

from server import CONFIG  # type: ignore[import-not-found]  # the script beside this one

from wsconnkit import ConnectionClosed, ConnectionConfig
from wsconnkit.asyncio import connect

URL = os.environ["FUZZ_URL"]
AGENT = os.environ.get("AGENT", "wsconnkit")
# The suite's server takes its time over some cases and counts our pings as unexpected frames.
CLIENT: ConnectionConfig = replace(CONFIG, heartbeat=None)


async def run_case(number: int) -> None:
    async with connect(f"{URL}/runCase?case={number}&agent={AGENT}", config=CLIENT) as ws:
        with contextlib.suppress(ConnectionClosed):
            async for message in ws:
                await ws.send(message)


async def main() -> None:
    async with connect(f"{URL}/getCaseCount", config=CLIENT) as ws:
        count = int(await ws.recv())
    for number in range(1, count + 1):
        await run_case(number)
    async with connect(f"{URL}/updateReports?agent={AGENT}", config=CLIENT) as ws:
        await ws.wait_closed()


if __name__ == "__main__":
    asyncio.run(main())
