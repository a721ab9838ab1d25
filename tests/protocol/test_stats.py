from __future__ import annotations

from wsconnkit.machines.compression import CompressionStats
from wsconnkit.machines.framesize import FrameSizeStats
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.connection import ConnectionProtocol
from wsconnkit.protocol.frames import Role
from wsconnkit.protocol.stats import ConnectionStats


def test_a_connection_counts_what_it_carries() -> None:
    config = ConnectionConfig(heartbeat=None)
    client, server = (ConnectionProtocol(role, config, now=0.0) for role in (Role.CLIENT, Role.SERVER))
    assert client.stats == ConnectionStats(FrameSizeStats(), CompressionStats())
    client.send("hello", 0.0)
    client.send(b"\x00", 0.0)
    server.receive_data(client.data_to_send(), 0.0)
    list(server.events())
    server.close(1000, "", 0.0)
    client.send("too late", 0.0)
    server.receive_data(client.data_to_send(), 0.0)
    list(server.events())
    assert (client.stats.messages_sent, server.stats.messages_received, server.stats.messages_discarded) == (3, 2, 1)
    assert client.stats.bytes_sent == server.stats.bytes_received == (6 + 5) + (6 + 1) + (6 + 8)
    assert (server.stats.frames.total_frames, server.stats.messages_sent, server.stats.stalls) == (3, 0, 0)
