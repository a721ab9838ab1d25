"""What clients on every event loop read from the environment: I/O that the core leaves to those above it."""

from __future__ import annotations


def proxies() -> dict[str, str]:
    """Return the URLs of proxies by scheme, and what is reached without as "no", from the environment or the system."""
    # It brings half of the standard library along, which those who connect without do not need.
    from urllib.request import getproxies

    return getproxies()
