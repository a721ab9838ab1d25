import asyncio

from wsconnkit import Opened, ReconnectEvent, Retrying
from wsconnkit.asyncio import Connection, ReconnectingClient


async def subscribe(ws: Connection) -> None:
    await ws.send("subscribe")  # on each connection, before what waits


def tell(event: ReconnectEvent) -> None:
    if isinstance(event, Opened):
        print("connected")
    elif isinstance(event, Retrying):
        print(f"attempt {event.attempt} follows in {event.delay:.1f} s")


async def main() -> None:
    async with ReconnectingClient("ws://127.0.0.1:3001/ws", on_open=subscribe, on_event=tell) as client:
        await client.send("hello")  # waits in a queue until there is a connection
        for _ in range(2):
            print(await client.recv())


asyncio.run(main())
