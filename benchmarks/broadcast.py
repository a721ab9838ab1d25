"""Server CPU for each message of a broadcast to 1,000 connections, by the operating system's accounting.

    pip install -e '.[bench]'
    python benchmarks/broadcast.py

Each server runs in a process of its own on uvloop, with the defaults of its library; they take turns within every
round, so that a change of the machine's speed meets all of them. The next broadcast begins when all who read have had
the one before.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple, cast

import uvloop

from wsconnkit.protocol.clienthandshake import ClientHandshake
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.frames import Opcode, encode_frame
from wsconnkit.protocol.uri import parse_uri

NAMES = ("wsconnkit", "websockets")


class Load(NamedTuple):
    title: str
    size: int
    compression: bool = False
    silent: int = 0
    """Connections that do not read."""


LOADS = (
    Load("100 B", 100),
    Load("1 KiB", 1024),
    Load("16 KiB", 16 * 1024),
    Load("1 KiB, compressed", 1024, compression=True),
    Load("16 KiB, compressed", 16 * 1024, compression=True),
    Load("16 KiB, and 10 do not read", 16 * 1024, silent=10),
)


def text(size: int, number: int) -> str:
    """Return a message of `size` characters that compresses as such messages do, each time another."""
    items: list[str] = []
    length = 0
    while length < size:
        item = json.dumps({"id": number * 31 + len(items), "symbol": f"S{len(items) % 97}", "price": length * 7 % 1009})
        items.append(item)
        length += len(item)
    return "".join(items)[:size]


async def serve_wsconnkit() -> int:
    """The connections that the server knows."""
    from wsconnkit.asyncio import Connection, broadcast, serve

    number = 0

    async def handler(ws: Connection) -> None:
        nonlocal number
        async for command in ws:
            number += 1
            broadcast(server.connections, text(int(command), number))

    server = await serve(handler, "127.0.0.1", 0, backlog=1000)
    return cast(int, server.sockets[0].getsockname()[1])


async def serve_websockets() -> int:
    """The connections that the server knows."""
    from websockets.asyncio.server import ServerConnection, broadcast, serve

    number = 0

    async def handler(ws: ServerConnection) -> None:
        nonlocal number
        async for command in ws:
            number += 1
            broadcast(server.connections, text(int(command), number))

    server = await serve(handler, "127.0.0.1", 0, backlog=1000)
    return cast(int, next(iter(server.sockets)).getsockname()[1])


class Round:
    """One broadcast, and how many clients still wait for it."""

    def __init__(self, waiting: int) -> None:
        self.waiting = waiting
        self.done = asyncio.get_running_loop().create_future()

    def on_message(self) -> None:
        self.waiting -= 1
        if not self.waiting:
            self.done.set_result(None)


class Client(asyncio.Protocol):
    """Counts frames, and looks into none."""

    def __init__(self, port: int, *, compression: bool) -> None:
        config = ConnectionConfig() if compression else ConnectionConfig(compression=None)
        self.handshake = ClientHandshake(parse_uri(f"ws://127.0.0.1:{port}/"), config, now=0.0)
        self.ready = asyncio.get_running_loop().create_future()
        self.gone = asyncio.get_running_loop().create_future()
        self.round: Round | None = None
        self.data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self.handshake.data_to_send())

    def data_received(self, data: bytes) -> None:
        if not self.ready.done():
            self.handshake.receive_data(data, 0.0)
            if self.handshake.error is not None:
                self.ready.set_exception(self.handshake.error)
            elif self.handshake.agreement is not None:
                self.ready.set_result(None)
            return
        self.data += data
        while (size := self.frame_size()) is not None and len(self.data) >= size:
            self.data = self.data[size:]
            if self.round is not None:
                self.round.on_message()

    def frame_size(self) -> int | None:
        data = self.data
        if len(data) < 2:
            return None
        if data[1] < 126:
            return 2 + data[1]
        width = 2 if data[1] == 126 else 8
        if len(data) < 2 + width:
            return None
        return 2 + width + int.from_bytes(data[2 : 2 + width], "big")

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set_result(None)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(pid: int, port: int, load: Load, connections: int, seconds: float) -> tuple[float, float]:
    """Return CPU microseconds a message, and the milliseconds until all have a broadcast."""
    loop = asyncio.get_running_loop()
    clients: list[Client] = []
    for _ in range(connections):
        client = Client(port, compression=load.compression)
        await loop.create_connection(lambda client=client: client, "127.0.0.1", port)  # type: ignore[misc]
        await client.ready
        clients.append(client)
    for client in clients[: load.silent]:
        client.transport.pause_reading()
    readers = clients[load.silent :]
    command = encode_frame(Opcode.TEXT, str(load.size).encode(), mask=os.urandom(4))

    async def broadcast() -> None:
        round_ = Round(len(readers))
        for client in readers:
            client.round = round_
        readers[0].transport.write(command)
        await round_.done

    await broadcast()  # warm up
    cpu, count, start = cpu_seconds(pid), 0, loop.time()
    while loop.time() - start < seconds:
        await broadcast()
        count += 1
    cpu, elapsed = cpu_seconds(pid) - cpu, loop.time() - start
    for client in clients:
        client.round = None
        client.transport.resume_reading()
        client.transport.write(encode_frame(Opcode.CLOSE, b"\x03\xe8", mask=os.urandom(4)))
    await asyncio.gather(*(client.gone for client in clients))
    return cpu / count / len(readers) * 1e6, elapsed / count * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each server and load")
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--serve", choices=NAMES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        uvloop.run(serve(args.serve))
        return

    processes: dict[str, tuple[subprocess.Popen[str], int]] = {}
    for name in NAMES:
        process = subprocess.Popen(
            [sys.executable, __file__, "--serve", name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        processes[name] = process, int(process.stdout.readline())

    versions = ", ".join(f"{name} {version(name)}" for name in (*NAMES, "uvloop"))
    print(
        f"{platform.python_implementation()} {platform.python_version()}, {versions}; {args.connections} connections, "
        f"{args.rounds} rounds of {args.seconds:g} s; median CPU µs a message (min to max), and ms until all have it\n"
    )
    print("| message | " + " | ".join(NAMES) + " | ratio |")
    print("|---|" + "---:|" * (len(NAMES) + 1))
    for load in LOADS:
        costs: dict[str, list[tuple[float, float]]] = {name: [] for name in NAMES}
        for _ in range(args.rounds):
            for name, (process, port) in processes.items():
                costs[name].append(uvloop.run(measure(process.pid, port, load, args.connections, args.seconds)))
        cells = []
        medians = []
        for name in NAMES:
            cpu = [cost for cost, _ in costs[name]]
            medians.append(statistics.median(cpu))
            latency = statistics.median([latency for _, latency in costs[name]])
            cells.append(f"{medians[-1]:.1f} ({min(cpu):.1f} to {max(cpu):.1f}), {latency:.1f} ms")
        print(f"| {load.title} | " + " | ".join(cells) + f" | x{medians[0] / medians[1]:.2f} |", flush=True)

    for process, _ in processes.values():
        assert process.stdin is not None
        process.stdin.close()
        process.wait()


async def serve(name: str) -> None:
    print(await {"wsconnkit": serve_wsconnkit, "websockets": serve_websockets}[name](), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # until the benchmark is done


if __name__ == "__main__":
    main()
