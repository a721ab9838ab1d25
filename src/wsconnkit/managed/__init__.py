"""Connections, servers, clients and managers for every event loop, which gives them a `Runtime` and `Transport`s."""
