"""Names are where they are looked for, and objects say what they are."""

from __future__ import annotations

import importlib
import pydoc
import subprocess
import sys

import pytest

import wsconnkit

LAZY = {"BadSettings", "JSONFormatter", "JWTAuthenticator", "ServerMetrics", "Settings", "render_metrics"}
PUBLIC = ["wsconnkit", "wsconnkit.asyncio", "wsconnkit.trio"]


def python(code: str) -> str:
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", check=True)
    return run.stdout.strip()


@pytest.mark.parametrize("name", PUBLIC)
def test_dir_shows_the_public_names_and_no_others(name: str) -> None:
    module = importlib.import_module(name)
    shown = dir(module)
    assert sorted(set(shown)) == shown
    assert {each for each in shown if not each.startswith("__")} == {
        each for each in module.__all__ if not each.startswith("__")
    }


def test_dir_help_and_star_show_the_lazy_names() -> None:
    assert set(dir(wsconnkit)) >= LAZY
    namespace: dict[str, object] = {}
    exec("from wsconnkit import *", namespace)
    assert namespace.keys() - {"__builtins__"} == set(wsconnkit.__all__)
    assert set(wsconnkit.__all__) >= LAZY
    text = pydoc.plain(pydoc.render_doc(wsconnkit))
    assert "class JWTAuthenticator" in text
    assert "import_module" not in text


def test_star_brings_what_can_be_had_without_the_extras() -> None:
    code = """
import sys
sys.modules |= dict.fromkeys(["pydantic_settings", "prometheus_client", "pythonjsonlogger"])
from wsconnkit import *
print(sorted({"Settings", "JSONFormatter", "ServerMetrics", "JWTAuthenticator", "Connection"} & globals().keys()))
"""
    assert python(code) == "['Connection', 'JWTAuthenticator']"


@pytest.mark.parametrize("name", sorted(importlib.import_module("wsconnkit.trio").__all__))
def test_names_of_the_adapters_tell_where_they_are(name: str) -> None:
    if name == "Connection":
        assert issubclass(importlib.import_module("wsconnkit.asyncio").Connection, wsconnkit.Connection)
        return
    with pytest.raises(ImportError) as caught:
        exec(f"from wsconnkit import {name}")
    where = f"write from wsconnkit.asyncio import {name} (or from wsconnkit.trio)"
    assert str(caught.value) == f"wsconnkit has no {name}, since each event loop has its own; {where}"


def test_another_name_is_none() -> None:
    assert not hasattr(wsconnkit, "nothing")
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        exec("from wsconnkit import nothing")


@pytest.mark.parametrize("name", ["wsconnkit.asyncio", "wsconnkit.trio"])
def test_a_server_to_be_tells_its_handler_and_its_place(name: str) -> None:
    async def echo(ws: object) -> None: ...

    adapter = importlib.import_module(name)
    router = wsconnkit.RequestRouter()
    assert repr(adapter.serve(echo, "127.0.0.1", 3001)).endswith("echo at 127.0.0.1, port 3001>")
    assert repr(adapter.serve(router, port=1)) == "<serve: <RequestRouter: no actions> at None, port 1>"
