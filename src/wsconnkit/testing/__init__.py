"""What tests of protocols on WebSockets need: a virtual clock, two connections in memory, and a network of many."""

from wsconnkit.testing.clock import VirtualClock
from wsconnkit.testing.link import Endpoint, Pair
from wsconnkit.testing.network import Network
from wsconnkit.testing.pipe import Pipe
from wsconnkit.testing.runtime import Runtime, Stalled, run

__all__ = ["Endpoint", "Network", "Pair", "Pipe", "Runtime", "Stalled", "VirtualClock", "run"]
