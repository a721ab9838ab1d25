import trio

from wsconnkit.trio import Connection, broadcast, serve


async def main() -> None:
    async def chat(ws: Connection) -> None:
        async for message in ws:
            broadcast(server.connections, message)  # waits for nobody

    async with serve(chat, "127.0.0.1", 3001, path="/ws") as server:
        print(await server.run_until_signal(window=5))  # drained 1 connection in 0.1 s: 1 closed


trio.run(main)
