from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from wsconnkit.asyncio import connect
from wsconnkit.protocol.errors import ConnectionClosed, InvalidStatus

LIMIT = 30.0


def uri_of(started: dict[str, Any]) -> str:
    return f"ws://127.0.0.1:{started['port']}{started['path']}"


def stopped(process: Any, after: str) -> list[dict[str, Any]]:
    """Stop a server `after` it has logged that, and return all since its first line; nothing else is printed."""
    lines = []
    for line in iter(process.stdout.readline, ""):
        lines.append(json.loads(line))
        if lines[-1]["type"] == after:
            break
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=LIMIT)
    assert (process.returncode, stderr) == (0, "")
    return lines + [json.loads(line) for line in stdout.splitlines()]


async def exchange(uri: str, *messages: str | bytes) -> list[str | bytes]:
    async with connect(uri) as ws:
        answers = []
        for message in messages:
            await ws.send(message)
            answers.append(await ws.recv())
        return answers


def test_it_echoes_and_logs_json_lines(serving: Any) -> None:
    with serving() as (process, started):
        messages: list[str | bytes] = ["hello", b"\x00\x01", "é" * 5000]
        assert asyncio.run(exchange(uri_of(started), *messages)) == messages
        lines = stopped(process, "connection_closed")
    opened, closed, stopping, end = lines
    assert (started["type"], started["host"], started["path"]) == ("server_started", "127.0.0.1", "/ws")
    assert (opened["type"], opened["path"]) == ("connection_opened", "/ws")
    assert (closed["type"], closed["code"], closed["cause"]) == ("connection_closed", 1000, "peer_close")
    assert opened["connection_id"] == closed["connection_id"]
    assert (stopping["type"], end["type"]) == ("server_stopping", "server_stopped")
    # The log tells the end of a connection a moment before its handler has returned.
    assert stopping["connections"] in (0, 1)
    for line in [started, *lines]:
        assert datetime.fromisoformat(line["timestamp"]).utcoffset() == timedelta(0)
        assert isinstance(line["type"], str)
        assert line["level"] == "INFO"
        assert line["message"].startswith(line["type"])


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_closes_all_connections_and_exits_with_0(serving: Any, signum: signal.Signals) -> None:
    async def two_connections(process: Any, uri: str) -> list[tuple[int, str, bool]]:
        async with connect(uri) as one, connect(uri) as two:
            await one.ping()
            await two.ping()
            process.send_signal(signum)
            await asyncio.gather(one.wait_closed(), two.wait_closed())
            infos = [one.close_info, two.close_info]
        return [(info.code, info.reason, info.clean) for info in infos if info is not None]

    with serving() as (process, started):
        ends = asyncio.run(two_connections(process, uri_of(started)))
        assert process.wait(LIMIT) == 0
        stdout, stderr = process.communicate(timeout=LIMIT)
    assert ends == [(1001, "server shutdown", True)] * 2
    lines = [json.loads(line) for line in stdout.splitlines()]
    assert [line["cause"] for line in lines if line["type"] == "connection_closed"] == ["drain", "drain"]
    assert [line["connections"] for line in lines if line["type"] == "server_stopping"] == [2]
    assert stderr == ""


def test_a_second_signal_exits_at_once(serving: Any) -> None:
    with serving(env={"CLOSE_TIMEOUT": "60000"}) as (process, started):
        with socket.create_connection(("127.0.0.1", started["port"])) as stubborn:
            stubborn.sendall(
                b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            )
            assert stubborn.recv(4096).startswith(b"HTTP/1.1 101 ")
            process.send_signal(signal.SIGTERM)
            lines = iter(process.stdout.readline, "")
            assert any('"server_stopping"' in line for line in lines)
            before = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert process.wait(LIMIT) == -signal.SIGINT
            assert time.monotonic() - before < 10


def test_options_win_over_the_environment_and_that_over_the_file(serving: Any, tmp_path: Path) -> None:
    (tmp_path / "settings").write_text("WEBSOCKET_PATH=/file\nMAX_FRAME_SIZE=10\nLOG_LEVEL=DEBUG\n")
    env = {"WEBSOCKET_PATH": "/environment", "WEBSOCKET_PORT": "1", "LOG_LEVEL": "INFO"}
    with serving("--config", "settings", "--path", "/option", env=env) as (process, started):
        assert started["path"] == "/option"
        assert asyncio.run(exchange(uri_of(started), "x" * 10)) == ["x" * 10]
        with pytest.raises(ConnectionClosed) as caught:
            asyncio.run(exchange(uri_of(started), "x" * 11))
        assert (caught.value.info.code, caught.value.info.reason[:17]) == (1009, "frame of 11 bytes")
        assert {line["level"] for line in stopped(process, "connection_closed")} == {"INFO"}


def test_settings_come_from_the_dotenv_file_of_the_directory(serving: Any, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text('# ours\nexport WEBSOCKET_PATH="/from-file" # here\n')
    with serving() as (_, started):
        assert started["path"] == "/from-file"


def test_max_frame_size_bounds_messages_too(serving: Any) -> None:
    async def fragments(uri: str) -> int:
        async with connect(uri) as ws:
            for final in (False, True):
                ws._core.send("x" * 6, 0.0, final=final)
            ws._pump.flush()
            await ws.wait_closed()
        assert ws.close_info is not None
        return ws.close_info.code

    with serving(env={"MAX_FRAME_SIZE": "10"}) as (_, started):
        assert asyncio.run(fragments(uri_of(started))) == 1009


def test_heartbeat_and_log_level_come_from_the_environment(serving: Any) -> None:
    env = {"PING_INTERVAL": "200", "PONG_TIMEOUT": "200", "MAX_MISSED_PONGS": "2", "LOG_LEVEL": "DEBUG"}
    with serving(env=env) as (process, started):
        if started["type"] == "log":  # what asyncio has to say on this level
            started = json.loads(process.stdout.readline())
        with socket.create_connection(("127.0.0.1", started["port"])) as silent:
            silent.sendall(
                b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            )
            silent.settimeout(LIMIT)
            while silent.recv(4096):
                pass
        lines = stopped(process, "connection_closed")
    # A busy machine may make its own timers late, and says so.
    told = [
        line for line in lines if line["type"].startswith(("conn", "heart")) and line["type"] != "heartbeat_stalled"
    ]
    types = [line["type"] for line in told]
    assert types == ["connection_opened", "heartbeat_ping", "heartbeat_missed", "connection_closed"]
    assert (told[-1]["code"], told[-1]["cause"]) == (1001, "heartbeat")


def test_only_the_path_is_served(serving: Any) -> None:
    with serving("--path", "/chat") as (process, started):
        with pytest.raises(InvalidStatus) as caught:
            asyncio.run(exchange(uri_of(started) + "/other?token=secret", "x"))
        lines = stopped(process, "upgrade_refused")
    assert caught.value.response.status == 404
    assert (lines[0]["type"], lines[0]["status"]) == ("upgrade_refused", 404)
    assert "connection_id" not in lines[0]
    assert "secret" not in json.dumps(lines)


def test_all_bad_values_are_told_at_once(run: Any, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PING_INTERVAL=soon\nMAX_FRAME_SIZE=0\nLOG_LEVEL\n")
    ended = run("serve", env={"COMPRESSION_LEVEL": "12", "PING_INTERVAL": "-1"})
    assert (ended.returncode, ended.stdout) == (2, "")
    told = [line.strip() for line in ended.stderr.splitlines() if "; it must be " in line]
    assert sorted(told) == [
        "COMPRESSION_LEVEL is '12'; it must be an integer, 1 to 9",
        "LOG_LEVEL is ''; it must be one of DEBUG, INFO, WARNING, ERROR, CRITICAL",
        "MAX_FRAME_SIZE is '0'; it must be an integer, 1 to 2147483647 bytes",
        "PING_INTERVAL is '-1'; it must be an integer, 1 to 2147483647 milliseconds",
    ]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--config", "missing.env"], "there is no file 'missing.env'"),
        (["--config", "."], "cannot read '.': Is a directory"),
        (["--config", "binary"], "cannot read 'binary': it is not UTF-8"),
        (["--path", "ws"], "'ws' is not allowed; it must be a path that starts with '/'"),
        (["--port", "65536"], "65536 is not in the range 0<=x<=65535"),
    ],
)
def test_what_cannot_be_used_exits_with_2(run: Any, tmp_path: Path, arguments: list[str], text: str) -> None:
    (tmp_path / "binary").write_bytes(b"A=\xff\n")
    ended = run("serve", *arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert text in ended.stderr.splitlines()[-1]


def test_a_port_in_use_is_told_in_one_line(run: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run("serve", "--port", str(port))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == f"Error: cannot listen on 127.0.0.1, port {port}: Address already in use\n"


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b"])
def test_a_host_that_does_not_exist_is_told_in_one_line(run: Any, host: str) -> None:
    ended = run("serve", "--port", "0", "--host", host)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"Error: cannot listen on {host}, port 0: ")
    assert ended.stderr.count("\n") == 1


def test_a_reader_of_the_log_that_goes_away_does_not_end_the_server(serving: Any) -> None:
    with serving() as (process, started):
        process.stdout.close()
        assert asyncio.run(exchange(uri_of(started), "still here")) == ["still here"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == 0
        assert process.stderr.read() == ""
