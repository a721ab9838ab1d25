from __future__ import annotations

import pytest

from wsconnkit.environment import proxies


def test_proxies_come_from_variables_in_either_spelling(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http", "https", "ws", "wss", "all", "no"):
        for spelling in (f"{name}_proxy", f"{name}_proxy".upper()):
            monkeypatch.delenv(spelling, raising=False)
    monkeypatch.setenv("WSS_PROXY", "http://p:1")
    monkeypatch.setenv("no_proxy", "example.org")
    found = proxies()
    assert (found["wss"], found["no"]) == ("http://p:1", "example.org")
    assert "http" not in found
