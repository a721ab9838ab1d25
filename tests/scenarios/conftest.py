from __future__ import annotations

import pytest

from .driver import DRIVERS, SOCKET_DRIVERS, Driver


@pytest.fixture(params=DRIVERS, ids=lambda driver: driver.name)
def driver(request: pytest.FixtureRequest) -> Driver:
    """Each adapter in its turn."""
    made: Driver = request.param()
    return made


@pytest.fixture(params=SOCKET_DRIVERS, ids=lambda driver: driver.name)
def network(request: pytest.FixtureRequest) -> Driver:
    """Each adapter in its turn, over sockets, for clients that make connections by themselves."""
    made: Driver = request.param()
    return made
