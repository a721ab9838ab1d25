"""How long one client waits for its echo while others flood the server, on wsconnkit's two event loops and websockets.

    pip install -e '.[bench]'
    python benchmarks/floods.py

Each server runs in a process of its own, without compression but for the deflate blocks, and so do the flooders, who
write what they have as fast as the server takes it, read nothing of value, and come back a second after they were
closed. The healthy client sends 32 bytes and waits for them. The servers take turns within every kind of flood.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import selectors
import socket
import statistics
import subprocess
import sys
import time
import zlib
from contextlib import suppress
from importlib.metadata import version
from typing import Any, cast

import trio

from wsconnkit.protocol.clienthandshake import ClientHandshake
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.frames import Opcode, encode_frame
from wsconnkit.protocol.uri import parse_uri

MASK = b"\1\2\3\4"
CHUNK = 64 * 1024
COMES_BACK = 1.0
"""Seconds after which a flooder that was closed opens another connection."""


def _empty_deflate_blocks() -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    blocks = b"".join(compressor.compress(b"") + compressor.flush(zlib.Z_FULL_FLUSH) for _ in range(2000))
    return encode_frame(Opcode.BINARY, blocks, compressed=True, mask=MASK)


FLOODS = {
    "nobody": b"",
    "pings": encode_frame(Opcode.PING, b"", mask=MASK),
    "pongs": encode_frame(Opcode.PONG, b"", mask=MASK),
    "empty fragments": encode_frame(Opcode.BINARY, b"", fin=False, mask=MASK)
    + encode_frame(Opcode.CONTINUATION, b"", fin=False, mask=MASK) * 998
    + encode_frame(Opcode.CONTINUATION, b"", mask=MASK),
    "tiny messages": encode_frame(Opcode.BINARY, b"x", mask=MASK),
    "Close frames": encode_frame(Opcode.CLOSE, b"\x03\xe8", mask=MASK),
    "empty deflate blocks": _empty_deflate_blocks(),
}


async def echo(ws: Any) -> None:
    async for message in ws:
        await ws.send(message)


async def serve_asyncio() -> None:
    from wsconnkit.asyncio import serve

    server = await serve(echo, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # until the benchmark is done


async def serve_trio() -> None:
    from wsconnkit.trio import serve

    async with serve(echo, "127.0.0.1", 0) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)


async def serve_websockets() -> None:
    from websockets.asyncio.server import serve

    server = await serve(echo, "127.0.0.1", 0)
    print(cast(int, next(iter(server.sockets)).getsockname()[1]), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


SERVERS = {
    "asyncio": lambda: asyncio.run(serve_asyncio()),
    "trio": lambda: trio.run(serve_trio),
    "websockets": lambda: asyncio.run(serve_websockets()),
}


def opened(port: int, *, compressed: bool = False) -> socket.socket:
    """Return a socket on which a WebSocket was opened."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    config = ConnectionConfig() if compressed else ConnectionConfig(compression=None)
    handshake = ClientHandshake(parse_uri(f"ws://127.0.0.1:{port}/"), config, now=0.0)
    sock.sendall(handshake.data_to_send())
    while handshake.agreement is None:
        data = sock.recv(CHUNK)
        if not data:
            raise ConnectionResetError("the server ended the handshake")
        handshake.receive_data(data, 0.0)
    return sock


def flood(port: int, kind: str, flooders: int) -> None:
    """Flood until stdin ends; tell when all have begun."""
    frames = FLOODS[kind]
    chunk = frames * (CHUNK // len(frames) + 1)
    selector = selectors.DefaultSelector()
    sent: dict[socket.socket, int] = {}
    waiting = [0.0] * flooders
    """When those that have no connection open one."""
    selector.register(sys.stdin, selectors.EVENT_READ)
    is_told = False
    while True:
        now = time.monotonic()
        for at in [at for at in waiting if at <= now]:
            waiting.remove(at)
            try:
                sock = opened(port, compressed=kind == "empty deflate blocks")
            except OSError:
                waiting.append(now + COMES_BACK)
                continue
            sock.setblocking(False)
            sent[sock] = 0
            selector.register(sock, selectors.EVENT_READ | selectors.EVENT_WRITE)
        if not is_told:
            is_told = True
            print("all", flush=True)
        for key, events in selector.select(0.1):
            if key.fileobj is sys.stdin:
                return
            sock = cast(socket.socket, key.fileobj)
            try:
                if events & selectors.EVENT_READ and not sock.recv(CHUNK):
                    raise ConnectionResetError
                if events & selectors.EVENT_WRITE:
                    with suppress(BlockingIOError):
                        sent[sock] = (sent[sock] + sock.send(memoryview(chunk)[sent[sock] :])) % len(chunk)
            except OSError:
                selector.unregister(sock)
                del sent[sock]
                sock.close()
                waiting.append(time.monotonic() + COMES_BACK)


def measure(port: int, rounds: int) -> list[float]:
    """Return milliseconds from sending a message to its echo."""
    with opened(port) as sock:
        sock.settimeout(60)
        frame = encode_frame(Opcode.BINARY, os.urandom(32), mask=MASK)
        times = []
        for _ in range(rounds):
            start = time.perf_counter()
            sock.sendall(frame)
            size = 0
            while size < 34:
                size += len(sock.recv(CHUNK))
            times.append((time.perf_counter() - start) * 1000)
            time.sleep(0.001)
        return times


def started(*args: str) -> tuple[subprocess.Popen[str], str]:
    """Return a process that runs this file, and the first line it printed."""
    process = subprocess.Popen(
        [sys.executable, __file__, *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def ended(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def result(name: str, kind: str, flooders: int, rounds: int) -> str:
    """Return the median and the maximum beside so many flooders."""
    server, port = started("--serve", name)
    flooding, _ = started("--flood", port, kind, str(flooders)) if FLOODS[kind] else (None, "")
    try:
        time.sleep(0.5)
        times = measure(int(port), rounds)
    except OSError as error:
        return f"{type(error).__name__}"
    finally:
        if flooding is not None:
            ended(flooding)
        ended(server)
    return f"{statistics.median(times):.2f} ({max(times):.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300, help="echoes that the healthy client waits for")
    parser.add_argument("--flooders", type=int, nargs="+", default=[10, 40])
    parser.add_argument("--kinds", nargs="+", default=list(FLOODS), choices=FLOODS)
    parser.add_argument("--servers", nargs="+", default=list(SERVERS), choices=SERVERS)
    parser.add_argument("--serve", choices=SERVERS, help=argparse.SUPPRESS)
    parser.add_argument("--flood", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        SERVERS[args.serve]()
        return
    if args.flood:
        port, kind, flooders = args.flood
        flood(int(port), kind, int(flooders))
        return

    versions = ", ".join(f"{name} {version(name)}" for name in ("wsconnkit", "websockets", "trio"))
    print(f"{platform.python_implementation()} {platform.python_version()}, {versions}; {args.rounds} echoes")
    print("median (maximum) in milliseconds\n")
    print("| flood | flooders | " + " | ".join(args.servers) + " |")
    print("|---|---:|" + "---:|" * len(args.servers))
    for kind in args.kinds:
        for flooders in args.flooders if FLOODS[kind] else [0]:
            cells = [result(name, kind, flooders, args.rounds) for name in args.servers]
            print(f"| {kind} | {flooders} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
