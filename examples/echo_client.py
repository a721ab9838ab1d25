import asyncio

from wsconnkit.asyncio import connect


async def main() -> None:
    async with connect("ws://127.0.0.1:3001/ws") as ws:
        await ws.send("hello")
        print(await ws.recv())
        print(f"latency: {await ws.ping():.6f} s")
    print(ws.close_info)  # 1000 (normal closure), begun by us, cause local_close


asyncio.run(main())
