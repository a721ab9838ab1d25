from __future__ import annotations

import pytest

from .driver import DRIVERS, SOCKET_DRIVERS, Driver
from .memory import NOT_IN_MEMORY, MemoryDriver


@pytest.fixture(params=(*DRIVERS, MemoryDriver), ids=lambda driver: driver.name)
def driver(request: pytest.FixtureRequest) -> Driver:
    """Each adapter in its turn."""
    made: Driver = request.param()
    return made


@pytest.fixture(params=(*SOCKET_DRIVERS, MemoryDriver), ids=lambda driver: driver.name)
def network(request: pytest.FixtureRequest) -> Driver:
    """Each adapter in its turn, for clients that make connections by themselves: over sockets, and in memory."""
    made: Driver = request.param()
    if isinstance(made, MemoryDriver):
        for name in (request.node.name, request.node.originalname):
            if name in NOT_IN_MEMORY:
                pytest.skip(NOT_IN_MEMORY[name])
    return made
