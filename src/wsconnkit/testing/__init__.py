"""What tests of protocols on WebSockets need: a virtual clock, and two connections in memory."""

from wsconnkit.testing.clock import VirtualClock
from wsconnkit.testing.link import Endpoint, Pair
from wsconnkit.testing.pipe import Pipe

__all__ = ["Endpoint", "Pair", "Pipe", "VirtualClock"]
