"""The examples do what they say, and the pages show them as they are."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest

from wsconnkit.asyncio import connect
from wsconnkit.protocol.closeinfo import CloseInfo
from wsconnkit.protocol.errors import InvalidStatus

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def source(name: str, port: int) -> str:
    return (EXAMPLES / name).read_text(encoding="utf-8").replace("3001", str(port))


def run(name: str, port: int = 3001) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", source(name, port)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def wait_for(process: subprocess.Popen[Any], port: int) -> None:
    """Wait until `process` listens, or has ended."""
    while process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except ConnectionRefusedError:
            continue


@contextmanager
def running(name: str, port: int) -> Generator[None, None, None]:
    process = subprocess.Popen([sys.executable, "-c", source(name, port)], stdout=subprocess.DEVNULL)
    try:
        wait_for(process, port)
        yield
    finally:
        process.terminate()
        process.wait()


@pytest.mark.parametrize("server", ["echo_server.py", "attach.py"])
def test_the_client_talks_to_the_servers(server: str) -> None:
    port = free_port()
    # As a script, the embedding example starts its application.
    with running(server, port):
        lines = run("echo_client.py", port).splitlines()
    assert lines[0] == "hello"
    assert re.fullmatch(r"latency: 0\.\d{6} s", lines[1])
    assert lines[2] == "1000 (normal closure), begun by us, cause local_close"


def test_the_managed_server_answers_logs_and_drains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JWT_SECRET", secrets.token_hex(32))
    port = free_port()
    command = [sys.executable, "-W", "error", "-c", source("managed_server.py", port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            wait_for(server, port)
            assert run("managed_client.py", port).splitlines() == [
                "{'user': 'alice', 'answer': 42}",
                "the request failed with 'not_found': \"there is no 'question'\"",
            ]
            server.send_signal(signal.SIGTERM)
            stdout, stderr = server.communicate()
        finally:
            server.kill()
    assert (server.returncode, stdout) == (0, "drained 0 connections in 0.0 s\n")
    lines = [json.loads(line) for line in stderr.splitlines()]
    assert [line["type"] for line in lines if line.get("user_id") == "alice"] == [
        "connection_opened",
        "connection_closed",
    ]


@pytest.mark.parametrize("example", ["managed_aiohttp.py", "managed_trio.py"])
def test_the_embedding_servers_answer_show_metrics_and_drain(example: str, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = secrets.token_hex(32)
    monkeypatch.setenv("JWT_SECRET", secret)
    port = free_port()
    command = [sys.executable, "-W", "error", "-c", source(example, port)]

    async def talk(server: subprocess.Popen[str]) -> CloseInfo | None:
        token = jwt.encode({"sub": "alice", "exp": time.time() + 300}, secret)
        with pytest.raises(InvalidStatus, match="401"):
            await connect(f"ws://127.0.0.1:{port}/ws", token="no token")
        async with connect(f"ws://127.0.0.1:{port}/ws", token=token) as ws, aiohttp.ClientSession() as session:
            await ws.send("hello")
            assert await ws.recv() == "alice: 'hello'"
            async with session.get(f"http://127.0.0.1:{port}/metrics") as response:
                assert 'wsconnkit_connections{state="open"} 1.0' in await response.text()
            server.send_signal(signal.SIGTERM)
            await ws.wait_closed()
        return ws.close_info

    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            wait_for(server, port)
            close_info = asyncio.run(talk(server))
            stdout, stderr = server.communicate()
        finally:
            server.kill()
    assert close_info is not None
    assert (close_info.code, close_info.reason) == (1012, "server shutdown")
    assert (server.returncode, stderr) == (0, "auth_failed\n")
    assert re.fullmatch(r"drained 1 connection in \d\.\d s: 1 closed", stdout.splitlines()[-1])


@pytest.mark.parametrize("example", ["managed_aiohttp.py", "managed_trio.py"])
def test_clients_that_leave_before_the_answer_are_no_error(example: str, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = secrets.token_hex(32)
    monkeypatch.setenv("JWT_SECRET", secret)
    port = free_port()
    command = [sys.executable, "-W", "error", "-c", source(example, port)]

    def token(subject: str) -> str:
        return jwt.encode({"sub": subject, "exp": time.time() + 300}, secret)

    def leave() -> None:
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(
                b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
                b"Authorization: Bearer %b\r\n\r\n" % token("bob").encode()
            )

    async def stay() -> None:
        async with connect(f"ws://127.0.0.1:{port}/ws", token=token("alice")) as ws:
            await ws.send("hello")
            assert await ws.recv() == "alice: 'hello'"

    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            wait_for(server, port)
            for _ in range(5):
                leave()
            asyncio.run(stay())  # is let in after them
            server.send_signal(signal.SIGTERM)
            _, stderr = server.communicate()
        finally:
            server.kill()
    assert (server.returncode, stderr) == (0, "")


def test_the_server_from_settings_listens_where_they_say_and_drains_as_they_say() -> None:
    port = free_port()
    code = "import asyncio; from settings_server import main; asyncio.run(main())"
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code],
        cwd=EXAMPLES,
        env={**os.environ, "WEBSOCKET_PORT": str(port), "DRAIN_WINDOW": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            wait_for(server, port)
            assert run("echo_client.py", port).splitlines()[0] == "hello"
            server.send_signal(signal.SIGTERM)
            stdout, stderr = server.communicate()
        finally:
            server.kill()
    assert (server.returncode, stdout, stderr) == (0, "drained 0 connections in 0.0 s\n", "")


def test_the_reconnecting_client_waits_for_its_server() -> None:
    port = free_port()
    command = [sys.executable, "-u", "-W", "error", "-c", source("reconnecting_client.py", port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as client:
        try:
            assert client.stdout is not None
            assert re.fullmatch(r"attempt 2 follows in [012]\.\d s\n", client.stdout.readline())
            with running("echo_server.py", port):
                stdout, stderr = client.communicate(timeout=60)
        finally:
            client.kill()
    assert (client.returncode, stderr) == (0, "")
    assert stdout.splitlines()[-3:] == ["connected", "subscribe", "hello"]


def test_the_server_on_trio_passes_messages_on_and_drains() -> None:
    port = free_port()
    command = [sys.executable, "-W", "error", "-c", source("trio_server.py", port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            wait_for(server, port)
            assert run("echo_client.py", port).splitlines()[0] == "hello"
            server.send_signal(signal.SIGTERM)
            stdout, stderr = server.communicate()
        finally:
            server.kill()
    assert (server.returncode, stdout, stderr) == (0, "drained 0 connections in 0.0 s\n", "")


def test_the_core_works_without_io() -> None:
    assert run("sans_io.py").splitlines() == [
        "[Message(data='hello', size=5, final=True)]",
        "(<Timer.HEARTBEAT: 'heartbeat'>, 31.1)",
    ]


def test_two_connections_live_in_memory() -> None:
    messages, close_info = run("in_memory.py").splitlines()
    assert messages == "['hello']"
    assert close_info.startswith("1001 (going away) 'connection timeout', begun by us, cause heartbeat")


def test_a_chat_is_tested_in_memory() -> None:
    command = [sys.executable, "-W", "error", str(EXAMPLES / "chat_in_memory.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()) == (0, ["{'members': 2}", "hello", "heartbeat True", "1"])
    assert {line.split()[0] for line in done.stderr.splitlines()} == {"heartbeat_missed"}


def test_the_pages_show_the_examples_as_they_are() -> None:
    script = ROOT / "scripts" / "quote_examples.py"
    check = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, check=False)
    assert (check.returncode, check.stderr) == (0, "")
    shown = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")))
    for example in EXAMPLES.glob("*.py"):
        assert example.read_text(encoding="utf-8") in shown
