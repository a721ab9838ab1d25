"""Server CPU per echoed message, by the operating system's accounting of the server's process.

    pip install -e '.[bench]'
    python benchmarks/echo.py

Each server runs in a process of its own on uvloop; the servers take turns within every round, so that a change of
the machine's speed meets all of them. The load is the same precomputed frames for each.
"""

from __future__ import annotations

import argparse
import asyncio
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

NAMES = ("wsconnkit", "websockets", "picows", "wsproto")


class Load(NamedTuple):
    title: str
    size: int
    connections: int
    in_flight: int


LOADS = (
    Load("32 B, 20 in flight on each of 20 connections", 32, 20, 20),
    Load("1 KiB, 20 in flight on each of 20 connections", 1024, 20, 20),
    Load("32 B, one at a time on one connection", 32, 1, 1),
    Load("1 KiB, one at a time on one connection", 1024, 1, 1),
)


class Client(asyncio.Protocol):
    """Keeps `in_flight` messages on their way and counts those that came back."""

    def __init__(self, port: int, load: Load) -> None:
        self.handshake = ClientHandshake(
            parse_uri(f"ws://127.0.0.1:{port}/"), ConnectionConfig(compression=None), now=0.0
        )
        self.frame = encode_frame(Opcode.BINARY, os.urandom(load.size), mask=os.urandom(4))
        self.echo_size = len(self.frame) - 4
        self.in_flight = load.in_flight
        self.ready = asyncio.get_running_loop().create_future()
        self.received = 0
        self.echoed = 0
        self.sent = 0
        self.running = False
        self.stopping = False
        self.gone = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self.handshake.data_to_send())

    def data_received(self, data: bytes) -> None:
        if not self.running:
            self.handshake.receive_data(data, 0.0)
            if self.handshake.error is not None:
                self.ready.set_exception(self.handshake.error)
            elif self.handshake.agreement is not None and not self.ready.done():
                self.ready.set_result(None)
            return
        self.received += len(data)
        if self.stopping:
            if self.received // self.echo_size == self.sent:
                self.transport.write(encode_frame(Opcode.CLOSE, b"\x03\xe8", mask=os.urandom(4)))
            return
        back = self.received // self.echo_size - self.echoed
        if back:
            self.echoed += back
            self.sent += back
            self.transport.write(self.frame * back)

    def start(self) -> None:
        self.running = True
        self.sent = self.in_flight
        self.transport.write(self.frame * self.in_flight)

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set_result(None)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(pid: int, port: int, load: Load, seconds: float) -> tuple[float, float]:
    """Return CPU microseconds a message and messages a second."""
    loop = asyncio.get_running_loop()
    clients = [Client(port, load) for _ in range(load.connections)]
    for client in clients:
        await loop.create_connection(lambda client=client: client, "127.0.0.1", port)  # type: ignore[misc]
        await client.ready
    for client in clients:
        client.start()
    await asyncio.sleep(0.2)  # warm up
    cpu, count, start = cpu_seconds(pid), sum(client.echoed for client in clients), loop.time()
    await asyncio.sleep(seconds)
    cpu, count, elapsed = (
        cpu_seconds(pid) - cpu,
        sum(client.echoed for client in clients) - count,
        loop.time() - start,
    )
    for client in clients:
        client.stopping = True
    await asyncio.gather(*(client.gone for client in clients))
    return cpu / count * 1e6, count / elapsed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each server and load")
    parser.add_argument("--servers", nargs="+", default=NAMES, choices=NAMES)
    args = parser.parse_args()

    processes: dict[str, tuple[subprocess.Popen[str], int]] = {}
    script = str(Path(__file__).with_name("servers.py"))
    for name in args.servers:
        process = subprocess.Popen(
            [sys.executable, script, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        processes[name] = process, int(process.stdout.readline())

    versions = ", ".join(f"{name} {version(name)}" for name in (*args.servers, "uvloop"))
    print(
        f"{platform.python_implementation()} {platform.python_version()}, {versions}; {args.rounds} rounds of "
        f"{args.seconds:g} s; median CPU µs a message (min to max), ratio to websockets of the medians\n"
    )
    print("| load | " + " | ".join(args.servers) + " |")
    print("|---|" + "---:|" * len(args.servers))
    for load in LOADS:
        costs: dict[str, list[float]] = {name: [] for name in args.servers}
        for _ in range(args.rounds):
            for name, (process, port) in processes.items():
                cost, _ = uvloop.run(measure(process.pid, port, load, args.seconds))
                costs[name].append(cost)
        base = statistics.median(costs["websockets"]) if "websockets" in costs else None
        cells = []
        for name in args.servers:
            median = statistics.median(costs[name])
            ratio = f", x{median / base:.2f}" if base else ""
            cells.append(f"{median:.1f} ({min(costs[name]):.1f} to {max(costs[name]):.1f}){ratio}")
        print(f"| {load.title} | " + " | ".join(cells) + " |", flush=True)

    for process, _ in processes.values():
        assert process.stdin is not None
        process.stdin.close()
        process.wait()


if __name__ == "__main__":
    main()
