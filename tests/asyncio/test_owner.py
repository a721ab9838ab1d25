"""Blocks of `connect` and `serve`."""

from __future__ import annotations

import pytest

from wsconnkit.asyncio import connect, serve

from .conftest import Echo
from .peers import Run, port


def test_a_connect_is_for_one_block_at_a_time(run_virtual: Run, echo: Echo) -> None:
    async def main() -> None:
        async with serve(echo, "127.0.0.1", 0) as server:
            connecting = connect(f"ws://127.0.0.1:{port(server)}/")
            async with connecting as ws:
                with pytest.raises(RuntimeError, match=r"^this connect is in an `async with` already; call connect"):
                    await connecting.__aenter__()
                await ws.send("still here")
                assert await ws.recv() == "still here"
            assert ws.close_info is not None
            async with connecting as another:
                assert another is not ws
            assert another.close_info is not None

    run_virtual(main())


def test_a_serve_is_for_one_block_at_a_time(run_virtual: Run, echo: Echo) -> None:
    async def main() -> None:
        serving = serve(echo, "127.0.0.1", 0)
        async with serving as server:
            with pytest.raises(RuntimeError, match=r"^this serve is in an `async with` already; call serve again"):
                await serving.__aenter__()
            async with connect(f"ws://127.0.0.1:{port(server)}/"):
                pass
        async with serving as another:
            assert another is not server

    run_virtual(main())


def test_a_block_that_could_not_begin_can_be_tried_again(run: Run) -> None:
    async def main() -> None:
        connecting = connect("ws://127.0.0.1:1/")
        for _ in range(2):
            with pytest.raises(ConnectionRefusedError):
                await connecting.__aenter__()

    run(main())
