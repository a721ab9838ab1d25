"""What tests of protocols on WebSockets need: a virtual clock, and two connections in memory."""

from wsconnkit.testing.link import Endpoint, Pair, Pipe, VirtualClock

__all__ = ["Endpoint", "Pair", "Pipe", "VirtualClock"]
