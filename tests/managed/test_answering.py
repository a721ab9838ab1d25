from __future__ import annotations

from typing import Any, cast

from wsconnkit.managed.answering import Request


def test_the_repr_of_a_request_does_not_show_its_payload() -> None:
    shown = repr(Request(id="7", action="login", payload={"token": "secret"}, connection=cast(Any, "ws")))
    assert shown == "Request(id='7', action='login', connection='ws')"
