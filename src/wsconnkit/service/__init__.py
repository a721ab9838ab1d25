"""Many connections: still no sockets, no clocks, no event loop."""
