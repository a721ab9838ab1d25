import asyncio

from wsconnkit import Settings, render_metrics
from wsconnkit.asyncio import Connection, serve


async def handler(ws: Connection) -> None:
    async for message in ws:
        await ws.send(message)


async def main() -> None:
    settings = Settings.from_env()
    server = await serve(handler, **settings.serve_arguments(), metrics=render_metrics)
    print(await server.run_until_signal())  # within DRAIN_WINDOW and DRAIN_GRACE


if __name__ == "__main__":
    asyncio.run(main())
