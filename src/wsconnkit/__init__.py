"""Managed WebSocket connections: a sans-I/O core, and adapters that bind it to sockets."""

__version__ = "0.1.0"
