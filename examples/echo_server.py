import asyncio

from wsconnkit import ConnectionConfig, FrameLimits, HeartbeatConfig
from wsconnkit.asyncio import Connection, serve

config = ConnectionConfig(
    heartbeat=HeartbeatConfig(interval=30, timeout=5, max_missed=3),  # seconds
    limits=FrameLimits(max_frame_size=256 * 1024, max_message_size=1024 * 1024),  # bytes
    idle_timeout=300,
)


async def handler(ws: Connection) -> None:
    async for message in ws:  # str or bytes; ends on a clean close, raises on any other
        await ws.send(message)


async def main() -> None:
    async with serve(handler, "127.0.0.1", 3001, path="/ws", config=config) as server:
        await server.serve_forever()


asyncio.run(main())
