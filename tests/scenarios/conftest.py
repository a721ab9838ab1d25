from __future__ import annotations

import pytest

from .driver import DRIVERS, Driver


@pytest.fixture(params=DRIVERS, ids=lambda driver: driver.name)
def driver(request: pytest.FixtureRequest) -> Driver:
    """Each adapter in its turn."""
    made: Driver = request.param()
    return made
