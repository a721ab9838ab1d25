import asyncio
import os
import time

import jwt

from wsconnkit import RequestError
from wsconnkit.asyncio import connect


async def main() -> None:
    claims = {"sub": "alice", "tier": "premium", "exp": time.time() + 300}
    token = jwt.encode(claims, os.environ["JWT_SECRET"])  # your identity provider does this
    async with connect("ws://127.0.0.1:3001/ws", token=token) as ws:
        print(await ws.request({"action": "getData", "name": "answer"}))
        try:
            await ws.request({"action": "getData", "name": "question"}, timeout=5)
        except RequestError as error:
            print(error)


asyncio.run(main())
