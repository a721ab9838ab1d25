"""The clients of the demo, and what each of them does."""

from __future__ import annotations

import asyncio
import os
import zlib

from wsconnkit.asyncio import connect
from wsconnkit.cli.demo.actor import Actor
from wsconnkit.cli.demo.rawclient import open_raw
from wsconnkit.machines.closecodes import CloseCode
from wsconnkit.protocol.closeinfo import Cause
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.errors import ConnectionClosed
from wsconnkit.protocol.frames import Opcode, encode_frame

_MIB = 1024 * 1024
_MOMENT = 0.5
"""Seconds after which a client shows what it is."""


def cast() -> list[Actor]:
    """Return new actors, in the order of their entrance."""
    too_big, drained = CloseCode.MESSAGE_TOO_BIG, CloseCode.SERVICE_RESTART
    return [
        Actor(name="healthy", does="talks all the time", enters=0, play=_talk, code=drained, cause=Cause.DRAIN),
        Actor(
            name="silent",
            does="never answers a ping",
            enters=0.2,
            play=_ignore_pings,
            code=CloseCode.GOING_AWAY,
            cause=Cause.HEARTBEAT,
        ),
        Actor(
            name="slow",
            does="reads 64 KiB a second",
            enters=0.4,
            play=_read_slowly,
            code=drained,
            cause=Cause.DRAIN,
            kib_to_send=384,
        ),
        Actor(
            name="too big", does="announces 1 TiB", enters=1.5, play=_announce_much, code=too_big, cause=Cause.TOO_BIG
        ),
        Actor(
            name="bomb", does="64 KiB, 64 MiB inflated", enters=2.8, play=_send_bomb, code=too_big, cause=Cause.TOO_BIG
        ),
        Actor(
            name="vanishing",
            does="resets its connection",
            enters=4.0,
            play=_vanish,
            code=CloseCode.ABNORMAL_CLOSURE,
            cause=Cause.TRANSPORT_LOST,
        ),
        Actor(
            name="polite",
            does="says goodbye",
            enters=5.0,
            play=_say_goodbye,
            code=CloseCode.NORMAL_CLOSURE,
            cause=Cause.PEER_CLOSE,
        ),
    ]


async def _talk(uri: str) -> None:
    number = 0
    async with connect(uri) as ws:
        try:
            while True:
                number += 1
                await ws.send(f"message {number}")
                if await ws.recv() != f"message {number}":
                    raise ValueError(f"the answer to message {number} is not its echo")
                await asyncio.sleep(0.2)
        except ConnectionClosed:
            pass  # the server says why


async def _ignore_pings(uri: str) -> None:
    async with open_raw(uri) as client:
        await client.ignore_everything()


async def _read_slowly(uri: str) -> None:
    config = ConnectionConfig(heartbeat=None, compression=None)
    async with open_raw(uri, config, receive_buffer=8 * 1024) as client:
        await client.obey_slowly(size=4 * 1024, pause=1 / 16)


async def _announce_much(uri: str) -> None:
    async with open_raw(uri) as client:
        await asyncio.sleep(_MOMENT)
        announced = (_MIB * _MIB).to_bytes(8, "big")
        await client.send(bytes((0x80 | Opcode.BINARY, 0x80 | 127)) + announced + os.urandom(4))
        await client.ignore_everything()


async def _send_bomb(uri: str) -> None:
    # In a thread: a stall of the event loop, which the server shares, would be a scene of its own.
    bomb = await asyncio.to_thread(_deflated_zeros, 64 * _MIB)
    async with open_raw(uri) as client:
        await asyncio.sleep(_MOMENT)
        await client.send(encode_frame(Opcode.BINARY, bomb, compressed=True, mask=os.urandom(4)))
        await client.ignore_everything()


def _deflated_zeros(size: int) -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece = bytes(_MIB)
    data = b"".join(compressor.compress(piece) for _ in range(size // _MIB))
    return (data + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


async def _vanish(uri: str) -> None:
    async with open_raw(uri) as client:
        await asyncio.sleep(_MOMENT)
        client.vanish()


async def _say_goodbye(uri: str) -> None:
    async with connect(uri) as ws:
        for word in ("hello", "nice to meet you", "goodbye"):
            await ws.send(word)
            await ws.recv()
            await asyncio.sleep(_MOMENT)
        await ws.close(reason="see you")
