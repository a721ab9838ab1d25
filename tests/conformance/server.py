"""The echo server that the conformance suite tests: `python tests/conformance/server.py [asyncio | trio] PORT`."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import trio

import wsconnkit.asyncio
import wsconnkit.trio
from wsconnkit import CompressionConfig, ConnectionConfig, FrameLimits

# What the suite sends: messages of 16 MiB in up to 65,536 fragments and an empty last one, and any deflate parameters.
CONFIG = ConnectionConfig(
    limits=FrameLimits(
        max_frame_size=16 * 1024 * 1024, max_message_size=16 * 1024 * 1024, max_fragments=65_537, warn_threshold=None
    ),
    compression=CompressionConfig(threshold=0, server_context_takeover=True, client_context_takeover=True),
)


async def echo(ws: Any) -> None:
    async for message in ws:
        await ws.send(message)


async def main(adapter: Any, port: int) -> None:
    async with adapter.serve(echo, "127.0.0.1", port, config=CONFIG) as server:
        print("ready", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    if sys.argv[1] == "trio":
        trio.run(main, wsconnkit.trio, int(sys.argv[2]))
    else:
        asyncio.run(main(wsconnkit.asyncio, int(sys.argv[2])))
