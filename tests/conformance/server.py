"""The echo server that the conformance suite tests: `python tests/conformance/server.py PORT`."""

from __future__ import annotations

import asyncio
import sys

from wsconnkit import CompressionConfig, ConnectionConfig, FrameLimits
from wsconnkit.asyncio import Connection, serve

# What the suite sends: messages of 16 MiB in up to 65,536 fragments and an empty last one, and any deflate parameters.
CONFIG = ConnectionConfig(
    limits=FrameLimits(
        max_frame_size=16 * 1024 * 1024, max_message_size=16 * 1024 * 1024, max_fragments=65_537, warn_threshold=None
    ),
    compression=CompressionConfig(threshold=0, server_context_takeover=True, client_context_takeover=True),
)


async def echo(ws: Connection) -> None:
    async for message in ws:
        await ws.send(message)


async def main(port: int) -> None:
    async with serve(echo, "127.0.0.1", port, config=CONFIG) as server:
        print("ready", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
