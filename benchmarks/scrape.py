"""How long one rendering of /metrics keeps an event loop waiting, by the number of open connections.

    pip install -e '.[prometheus]'
    python benchmarks/scrape.py

The connections are cores after their opening handshake that have carried messages both ways, and each took the place
of another, as on a server that has been up for a while; what an adapter's connection adds to them is stood in for by
an object with the same properties. CPU time leaves out what other processes took away.
"""

from __future__ import annotations

import argparse
import gc
import platform
import random
import statistics
import time
from importlib.metadata import version

from wsconnkit.machines.closing import State
from wsconnkit.observe.metrics import render_metrics
from wsconnkit.protocol.closeinfo import Cause
from wsconnkit.protocol.connection import ConnectionProtocol
from wsconnkit.protocol.deflate import DeflateParams
from wsconnkit.protocol.frames import Role
from wsconnkit.protocol.stats import ConnectionStats
from wsconnkit.service.registry import Registry
from wsconnkit.service.serverstats import ServerStats, code_label

ACCEPTED = ("text/plain", "application/openmetrics-text")


class Peer:
    """A connection of the server with a number of bytes in its queues."""

    def __init__(self, number: int) -> None:
        deflate = DeflateParams(True, True, 15, 15)
        self.core = ConnectionProtocol(Role.SERVER, now=0.0, deflate=deflate)
        client = ConnectionProtocol(Role.CLIENT, now=0.0, deflate=deflate)
        for size in (32, 300 + number % 1000, 2000):
            client.send("x" * size, 0.0)
            self.core.receive_data(client.data_to_send(), 0.0)
            self.inbox_bytes = sum(1 for _ in self.core.events()) * size
            self.core.send("y" * size, 0.0)
            if number % 2:
                self.core.data_to_send()

    @property
    def state(self) -> State:
        return self.core.state

    @property
    def stats(self) -> ConnectionStats:
        return self.core.stats

    @property
    def queued_bytes(self) -> tuple[int, int]:
        return self.inbox_bytes, self.core.bytes_to_send


class Server:
    """All that metrics read, with every close code that there is a series for."""

    def __init__(self, size: int) -> None:
        self.stats = ServerStats()
        self.is_draining = False
        self.connections: Registry[Peer] = Registry()
        ids = list(range(size))
        for number in ids:
            self.open(number)
        random.Random(0).shuffle(ids)
        for number in ids:
            self.connections.remove(str(number))
            self.open(size + number)
        for cause in Cause:
            for code in (*range(1000, 1016), 3000, 4000, 5000):
                self.stats.closed[cause, code_label(code)] += 1

    def open(self, number: int) -> None:
        self.connections.add(Peer(number), id=str(number), user=f"user {number}", ip=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, nargs="+", default=[0, 1000, 10_000])
    parser.add_argument("--rounds", type=int, default=50, help="renderings of each number and format")
    args = parser.parse_args()

    print(
        f"{platform.python_implementation()} {platform.python_version()}, prometheus-client "
        f"{version('prometheus-client')}; {args.rounds} rounds; ms a rendering\n"
    )
    print("| connections | format | best | median | max | median CPU |")
    print("|---:|---|---:|---:|---:|---:|")
    for size in args.connections:
        server = Server(size)
        gc.collect()  # what building it left to be collected is no part of a rendering
        for accept in ACCEPTED:
            times, cpu_times = [], []
            for _ in range(args.rounds):
                start, cpu_start = time.perf_counter(), time.thread_time()
                render_metrics(server, accept)
                times.append((time.perf_counter() - start) * 1e3)
                cpu_times.append((time.thread_time() - cpu_start) * 1e3)
            figures = (min(times), statistics.median(times), max(times), statistics.median(cpu_times))
            print(f"| {size} | {accept} | " + " | ".join(f"{figure:.1f}" for figure in figures) + " |", flush=True)


if __name__ == "__main__":
    main()
