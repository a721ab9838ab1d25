from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import jwt
import pytest
import trustme

from wsconnkit.asyncio import connect
from wsconnkit.protocol.errors import ConnectionClosed, InvalidStatus
from wsconnkit.service.envelope import RequestError

LIMIT = 30.0
SECRET = "0123456789abcdef" * 2
UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


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


def token_of(**claims: Any) -> str:
    return jwt.encode({"sub": "alice", "exp": int(time.time()) + 600, **claims}, SECRET, "HS256")


def test_it_echoes_and_logs_json_lines(serving: Any) -> None:
    with serving() as (process, started):
        messages: list[str | bytes] = ["hello", b"\x00\x01", "é" * 5000, "{}", '{"type": "note"}']
        assert asyncio.run(exchange(uri_of(started), *messages)) == messages
        lines = stopped(process, "connection_closed")
    assert (started["type"], started["host"], started["path"]) == ("server_started", "127.0.0.1", "/ws")
    assert [line["type"] for line in lines if not line["type"].startswith("compression_")] == [
        "connection_opened",
        "connection_closed",
        "server_draining",
        "server_drained",
    ]
    opened, closed = (line for line in lines if line["type"].startswith("connection_"))
    assert opened["path"] == "/ws"
    assert (closed["code"], closed["cause"]) == (1000, "peer_close")
    assert opened["connection_id"] == closed["connection_id"]
    for line in [started, *lines]:
        assert datetime.fromisoformat(line["timestamp"]).utcoffset() == timedelta(0)
        assert isinstance(line["type"], str)
        assert line["level"] == "INFO"
        assert line["message"].startswith(line["type"])


def test_it_answers_requests(serving: Any) -> None:
    async def ask(uri: str) -> None:
        async with connect(uri) as ws:
            for payload in (
                {"action": "test"},
                {"action": "echo", "more": [1, None]},
                {"action": "sleep", "seconds": 0},
            ):
                assert await ws.request(payload) == payload
            for seconds in (-1, 10.5, "1", None):
                with pytest.raises(RequestError) as caught:
                    await ws.request({"action": "sleep", "seconds": seconds})
                assert (caught.value.code, caught.value.message) == (
                    "invalid_payload",
                    "seconds must be a number, 0 to 10",
                )
            with pytest.raises(RequestError) as caught:
                await ws.request({"action": "fly"})
            assert caught.value.code == "unknown_action"

    with serving() as (_, started):
        asyncio.run(ask(uri_of(started)))


def test_it_answers_those_who_watch_it(serving: Any) -> None:
    with serving() as (_, started):
        for page, text in (("healthz", b'"ok"'), ("readyz", b'"ready"'), ("metrics", b"wsconnkit_connections")):
            with urlopen(f"http://127.0.0.1:{started['port']}/{page}", timeout=LIMIT) as response:
                assert text in response.read()


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
def test_the_filters_of_the_log_work_on_all_that_is_printed(serving: Any) -> None:
    async def ping(uri: str) -> None:
        async with connect(uri) as ws:
            await ws.ping()
            await ws.send("hello")
            assert await ws.recv() == "hello"

    env = {"LOG_LEVEL": "DEBUG", "PING_INTERVAL": "50", "PONG_TIMEOUT": "20000"}
    with serving(env=env) as (process, first):
        while first["type"] != "server_started":
            first = json.loads(process.stdout.readline())
        asyncio.run(ping(uri_of(first)))
        with socket.create_connection(("127.0.0.1", first["port"])) as silent:
            silent.sendall(UPGRADE)
            lines = []
            for line in iter(process.stdout.readline, ""):
                lines.append(line)
                if '"heartbeat_ping"' in line:
                    break
        process.send_signal(signal.SIGTERM)
        output = "".join(lines) + process.communicate(timeout=LIMIT)[0]

    def filtered(expression: str) -> list[dict[str, Any]]:
        run = subprocess.run(
            ["jq", "-c", expression], input=output, capture_output=True, text=True, encoding="utf-8", check=True
        )
        assert run.stderr == ""
        return [json.loads(line) for line in run.stdout.splitlines()]

    assert len(filtered(".")) == len(output.splitlines())
    connections = filtered('select(.type | startswith("connection"))')
    assert {line["type"] for line in connections} == {"connection_opened", "connection_closed"}
    assert len(connections) == 4
    heartbeats = filtered('select(.type | startswith("heartbeat"))')
    assert {line["type"] for line in heartbeats} <= {"heartbeat_ping", "heartbeat_stalled"}
    assert heartbeats
    assert filtered('select(.type | endswith("error"))') == []


def test_it_logs_text_where_that_is_asked_for(start: Any) -> None:
    process = start(["serve", "--port", "0", "--no-auth"], env={"LOG_FORMAT": "text"})
    line = process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=LIMIT)
    assert re.fullmatch(r"[-0-9T:.]{23}\+00:00 INFO     server_started host=127\.0\.0\.1 port=\d+ path=/ws\n", line)
    assert re.search(r" INFO     server_drained connections=0 closed=0 ", stdout)
    assert (process.returncode, stderr) == (0, "")


# Who gets in


def test_without_settings_for_tokens_it_makes_a_token_that_works(start: Any, run: Any) -> None:
    process = start(["serve", "--port", "0"], env={"DRAIN_WINDOW": "0"})
    started = json.loads(process.stdout.readline())
    said = ""
    while "--no-auth" not in said:
        said += process.stderr.readline()
    token = re.findall(r"^Token: (\S+)$", said, re.MULTILINE)[0]
    uri = re.findall(r"^URL: +(\S+)$", said, re.MULTILINE)[0]
    assert uri == f"{uri_of(started)}?token={token}"
    assert "wsconnkit connect" in said
    claims = jwt.decode(token, options={"verify_signature": False})
    assert (claims["sub"], claims["tier"]) == ("developer", "enterprise")
    assert 23.9 * 3600 < claims["exp"] - time.time() <= 24 * 3600

    ended = run("connect", uri, stdin="hello\n")
    assert (ended.returncode, ended.stdout) == (0, "hello\n")
    for wrong in ("", "?token=", f"?token={token[:-4]}AAAA", f"?token={token_of()}"):
        assert run("connect", uri_of(started) + wrong).returncode == 1
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=LIMIT)
    assert (process.returncode, stderr) == (0, "")
    assert token not in stdout
    lines = [json.loads(line) for line in stdout.splitlines()]
    assert [line["user_id"] for line in lines if line["type"].startswith("connection_")] == ["developer"] * 2
    assert {line["status"] for line in lines if line["type"] == "upgrade_refused"} == {401}


def test_each_run_has_a_secret_of_its_own(start: Any) -> None:
    tokens = []
    for _ in range(2):
        process = start(["serve", "--port", "0"])
        tokens.append(next(line for line in iter(process.stderr.readline, "") if line.startswith("Token")))
    signatures = {token.rpartition(".")[2] for token in tokens}
    assert len(signatures) == 2


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
        sock.bind(("::1", 0))
        return True
    return False


@pytest.mark.parametrize("host", ["0.0.0.0", "::1", "::"])
def test_the_url_with_the_token_is_for_clients_on_the_same_machine(start: Any, run: Any, host: str) -> None:
    if ":" in host and not has_ipv6():
        pytest.skip("there is no IPv6")
    process = start(["serve", "--port", "0", "--host", host])
    said = iter(process.stderr.readline, "")
    uri = next(line for line in said if line.startswith("URL")).split()[1]
    assert uri.startswith("ws://127.0.0.1:" if host == "0.0.0.0" else "ws://[::1]:")
    assert run("connect", uri).returncode == 0


def test_with_a_secret_only_its_tokens_get_in_and_no_other_is_made(serving: Any) -> None:
    env = {"JWT_SECRET": SECRET, "SUPABASE_AUTH_AUDIENCE": "api", "MAX_CONNECTIONS_PER_USER": "1"}
    good = token_of(aud="api")

    async def visit(uri: str) -> list[int]:
        statuses = []
        async with connect(f"{uri}?token={good}") as ws:
            assert await ws.request({"action": "test"}) == {"action": "test"}
            for token in (good, token_of(), token_of(aud="api", exp=1), "nonsense"):
                with pytest.raises(InvalidStatus) as caught:
                    await connect(f"{uri}?token={token}")
                statuses.append(caught.value.response.status)
        return statuses

    with serving(auth=True, env=env) as (process, started):
        assert asyncio.run(visit(uri_of(started))) == [429, 401, 401, 401]
        lines = stopped(process, "connection_closed")
    assert {line["user_id"] for line in lines if line["type"].startswith("connection_")} == {"alice"}
    assert good not in json.dumps(lines)


def test_a_token_can_be_renewed_on_the_connection(serving: Any) -> None:
    async def renew(uri: str) -> None:
        async with connect(f"{uri}?token={token_of()}") as ws:
            await ws.reauthenticate(token_of(exp=int(time.time()) + 1200))

    with serving(auth=True, env={"JWT_SECRET": SECRET}) as (process, started):
        asyncio.run(renew(uri_of(started)))
        assert "auth_renewed" in {line["type"] for line in stopped(process, "connection_closed")}


def test_no_auth_lets_everyone_in_whatever_is_set(serving: Any) -> None:
    env = {"JWT_SECRET": SECRET, "SUPABASE_AUTH_AUDIENCE": "api"}
    with serving(env=env) as (process, started):
        assert asyncio.run(exchange(uri_of(started), "x")) == ["x"]
        assert all("user_id" not in line for line in stopped(process, "connection_closed"))


def test_pages_of_other_origins_get_in_only_where_they_are_allowed(serving: Any) -> None:
    def status(port: int, origin: str) -> bytes:
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.settimeout(LIMIT)
            client.sendall(UPGRADE.replace(b"\r\n\r\n", f"\r\nOrigin: {origin}\r\n\r\n".encode()))
            return client.recv(4096).split(b" ")[1]

    with serving(env={"ALLOWED_ORIGINS": "https://a.example"}) as (_, started):
        origins = ("https://a.example", "https://b.example")
        assert [status(started["port"], origin) for origin in origins] == [b"101", b"403"]


def test_only_the_hosts_that_are_allowed_are_answered_for(serving: Any) -> None:
    def status(port: int, host: str) -> bytes:
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.settimeout(LIMIT)
            client.sendall(re.sub(rb"Host: [^\r]*", f"Host: {host}\r\nOrigin: http://{host}".encode(), UPGRADE))
            return client.recv(4096).split(b" ")[1]

    with serving(env={"ALLOWED_HOSTS": "localhost"}) as (_, started):
        assert [status(started["port"], host) for host in ("localhost", "evil.example")] == [b"101", b"421"]


def test_rates_and_trusted_proxies_come_from_the_environment(serving: Any) -> None:
    async def visits(uri: str, count: int, **options: Any) -> list[int]:
        statuses = []
        for _ in range(count):
            try:
                async with connect(uri, **options):
                    statuses.append(101)
            except InvalidStatus as error:
                statuses.append(error.response.status)
        return statuses

    env = {"RATE_LIMIT_REQUESTS_PER_MINUTE": "2", "TRUSTED_PROXIES": "127.0.0.0/8"}
    with serving(env=env) as (_, started):
        uri = uri_of(started)
        assert asyncio.run(visits(uri, 3)) == [101, 101, 429]
        forwarded = {"headers": {"X-Forwarded-For": "192.0.2.1"}}
        assert asyncio.run(visits(uri, 3, **forwarded)) == [101, 101, 429]


# The end


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_drains_and_exits_with_0(serving: Any, signum: signal.Signals) -> None:
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
        stdout, stderr = process.communicate(timeout=LIMIT)
        assert (process.returncode, stderr) == (0, "")
    assert ends == [(1012, "server shutdown", True)] * 2
    lines = [json.loads(line) for line in stdout.splitlines()]
    assert [line["cause"] for line in lines if line["type"] == "connection_closed"] == ["drain", "drain"]
    drained = lines[-1]
    assert drained["type"] == "server_drained"
    counts = {name: drained[name] for name in ("connections", "closed", "unanswered", "left", "aborted")}
    assert counts == {"connections": 2, "closed": 2, "unanswered": 0, "left": 0, "aborted": 0}
    assert 0 <= drained["duration"] < LIMIT


def test_a_signal_that_comes_at_once_drains_as_well(start: Any) -> None:
    process = start(["serve", "--port", "0", "--no-auth"])
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=LIMIT)
    assert (process.returncode, stderr) == (0, "")
    assert json.loads(stdout.splitlines()[-1])["type"] == "server_drained"


def test_a_request_in_flight_is_answered_before_the_end(serving: Any) -> None:
    async def sleep(process: Any, uri: str) -> int:
        async with connect(uri) as ws:
            asking = asyncio.ensure_future(ws.request({"action": "sleep", "seconds": 1}))
            await ws.ping()
            process.send_signal(signal.SIGTERM)
            assert await asking == {"action": "sleep", "seconds": 1}
            await ws.wait_closed()
        assert ws.close_info is not None
        return ws.close_info.code

    with serving() as (process, started):
        assert asyncio.run(sleep(process, uri_of(started))) == 1012
        assert process.wait(LIMIT) == 0


def test_a_drain_takes_no_longer_than_its_window_and_grace(serving: Any) -> None:
    with serving(env={"DRAIN_GRACE": "0", "CLOSE_TIMEOUT": "60000"}) as (process, started):
        with socket.create_connection(("127.0.0.1", started["port"])) as stubborn:
            stubborn.sendall(UPGRADE)
            assert stubborn.recv(4096).startswith(b"HTTP/1.1 101 ")
            before = time.monotonic()
            process.send_signal(signal.SIGTERM)
            stdout, _ = process.communicate(timeout=LIMIT)
            assert time.monotonic() - before < 20
    assert process.returncode == 0
    drained = json.loads(stdout.splitlines()[-1])
    assert (drained["type"], drained["connections"], drained["aborted"]) == ("server_drained", 1, 1)


def test_a_second_signal_exits_at_once(serving: Any) -> None:
    with serving(env={"CLOSE_TIMEOUT": "60000"}) as (process, started):
        with socket.create_connection(("127.0.0.1", started["port"])) as stubborn:
            stubborn.sendall(UPGRADE)
            assert stubborn.recv(4096).startswith(b"HTTP/1.1 101 ")
            process.send_signal(signal.SIGTERM)
            lines = iter(process.stdout.readline, "")
            assert any('"server_draining"' in line for line in lines)
            before = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert process.wait(LIMIT) == -signal.SIGINT
            assert time.monotonic() - before < 10


# The settings


def test_options_win_over_the_environment_and_that_over_the_file(serving: Any, tmp_path: Path) -> None:
    (tmp_path / "settings").write_text("WEBSOCKET_PATH=/file\nMAX_FRAME_SIZE=1000\nLOG_LEVEL=DEBUG\n")
    env = {"WEBSOCKET_PATH": "/environment", "WEBSOCKET_PORT": "1", "LOG_LEVEL": "INFO"}
    with serving("--config", "settings", "--path", "/option", env=env) as (process, started):
        assert started["path"] == "/option"
        assert asyncio.run(exchange(uri_of(started), "x" * 1000)) == ["x" * 1000]
        with pytest.raises(ConnectionClosed) as caught:
            asyncio.run(exchange(uri_of(started), "x" * 1001))
        assert (caught.value.info.code, caught.value.info.reason[:19]) == (1009, "frame of 1001 bytes")
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
            silent.sendall(UPGRADE)
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
    (tmp_path / ".env").write_text("PING_INTERVAL=soon\nMAX_FRAME_SIZE=0\nLOG_LEVEL=\n")
    ended = run("serve", env={"COMPRESSION_LEVEL": "12", "PING_INTERVAL": "-1"})
    assert (ended.returncode, ended.stdout) == (2, "")
    told = [line.strip() for line in ended.stderr.splitlines() if "; it must be " in line]
    assert sorted(told) == [
        "COMPRESSION_LEVEL is '12'; it must be an integer, 1 to 9",
        "LOG_LEVEL is ''; it must be one of DEBUG, INFO, WARNING, ERROR, CRITICAL",
        "MAX_FRAME_SIZE is '0'; it must be an integer, 1 to 2147483647 bytes",
        "PING_INTERVAL is '-1'; it must be an integer, 1 to 2147483647 milliseconds, or off",
    ]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--config", "missing.env"], "there is no file 'missing.env'"),
        (["--config", "."], "cannot read '.': Is a directory"),
        (["--config", "binary"], "the file 'binary' is not UTF-8"),
        (["--path", "ws"], "WEBSOCKET_PATH is 'ws'; it must be a path in ASCII that starts with '/'"),
        (["--port", "65536"], "65536 is not in the range 0<=x<=65535"),
        (["--host", ""], "WEBSOCKET_HOST is ''; it must be a host's name or an address"),
        (["application"], "HANDLER is 'application'; it must be module:handler, such as 'chat:handler'"),
        ([":handler"], "HANDLER is ':handler'; it must be module:handler"),
        (["missing:handler"], "HANDLER is 'missing:handler'; there is no module 'missing' in "),
        (["json.missing:handler"], "HANDLER is 'json.missing:handler'; there is no module 'json.missing' in "),
        (["json:handler"], "HANDLER is 'json:handler'; 'json' has no 'handler'"),
        (["json:decoder.handler"], "HANDLER is 'json:decoder.handler'; 'json' has no 'decoder.handler'"),
        (["json:__name__"], "handler is 'json'; it must be an async function, or a RequestRouter"),
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
        ended = run("serve", "--no-auth", "--port", str(port))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == f"Error: cannot listen on 127.0.0.1, port {port}: Address already in use\n"


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b"])
def test_a_host_that_does_not_exist_is_told_in_one_line(run: Any, host: str) -> None:
    ended = run("serve", "--no-auth", "--port", "0", "--host", host)
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


# Over TLS, and elsewhere


def test_host_tls_and_the_place_of_the_metrics_come_from_the_settings(serving: Any, run: Any, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    issued = authority.issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    issued.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    env = {"TLS_CERT_FILE": "cert.pem", "TLS_KEY_FILE": "key.pem", "METRICS_ADDRESS": f"127.0.0.1:{port}"}
    trusted = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))

    async def talk(uri: str) -> str | bytes:
        async with connect(uri, ssl=trusted) as ws:
            await ws.send("hello")
            return await ws.recv()

    with serving(env={**env, "WEBSOCKET_HOST": "127.0.0.1"}) as (process, started):
        pages = json.loads(process.stdout.readline())
        assert (pages["type"], pages["port"], pages["path"]) == ("server_started", port, "/metrics")
        assert asyncio.run(talk(f"wss://localhost:{started['port']}/ws")) == "hello"
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=LIMIT) as response:
            assert b"wsconnkit_connections_opened_total 1.0" in response.read()
        with pytest.raises(HTTPError, match="404"):
            urlopen(f"https://localhost:{started['port']}/metrics", timeout=LIMIT, context=trusted)
        taken = run("serve", "--no-auth", "--port", "0", env={"METRICS_ADDRESS": f"127.0.0.1:{port}"})
    assert taken.returncode == 1
    assert taken.stderr == (
        "Error: cannot listen on 127.0.0.1, port 0, or at METRICS_ADDRESS: Address already in use\n"
    )


def test_the_token_of_a_run_with_tls_is_for_wss(start: Any, tmp_path: Path) -> None:
    trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
    process = start(["serve", "--port", "0"], env={"TLS_CERT_FILE": "both.pem"})
    said = iter(process.stderr.readline, "")
    assert next(line for line in said if line.startswith("URL")).split()[1].startswith("wss://127.0.0.1:")


def test_a_slow_handshake_is_given_up_after_the_timeout_of_the_settings(serving: Any) -> None:
    with serving(env={"HANDSHAKE_TIMEOUT": "500"}) as (_, started):
        with socket.create_connection(("127.0.0.1", started["port"])) as slow:
            slow.settimeout(LIMIT)
            slow.sendall(UPGRADE[:20])
            assert slow.recv(4096).startswith(b"HTTP/1.1 408 ")


def test_a_head_over_the_limits_of_the_settings_is_refused(serving: Any) -> None:
    with serving(env={"MAX_HEADERS": "4"}) as (_, started):
        with socket.create_connection(("127.0.0.1", started["port"])) as client:
            client.settimeout(LIMIT)
            client.sendall(UPGRADE)
            assert client.recv(4096).startswith(b"HTTP/1.1 431 ")


def test_settings_that_look_like_a_mistake_are_in_the_log(start: Any) -> None:
    process = start(["serve", "--port", "0", "--no-auth"], env={"PING_INTERVALL": "1", "HANDSHAKE_TIMEOUT": "10"})
    _, misspelt, small = (json.loads(process.stdout.readline()) for _ in range(3))
    assert {line["type"] for line in (misspelt, small)} == {"server_setting_doubtful"}
    assert {line["level"] for line in (misspelt, small)} == {"WARNING"}
    assert misspelt["detail"].endswith("did you mean PING_INTERVAL?")
    assert small["detail"].startswith("HANDSHAKE_TIMEOUT is 10 ms; did you mean 10 seconds?")


# A handler of one's own

APPLICATION = """
from types import SimpleNamespace

from wsconnkit import RequestRouter

router = RequestRouter()


@router.action("double")
async def double(request):
    return 2 * request.payload["number"]


async def shout(ws):
    async for message in ws:
        await ws.send(message.upper())


inner = SimpleNamespace(shout=shout)
"""


@pytest.mark.parametrize("name", ["chat:shout", "chat:inner.shout"])
def test_it_serves_a_handler_of_ones_own(serving: Any, tmp_path: Path, name: str) -> None:
    (tmp_path / "chat.py").write_text(APPLICATION)
    with serving(name, env={"WEBSOCKET_PATH": "/chat"}) as (_, started):
        assert asyncio.run(exchange(uri_of(started), "hello")) == ["HELLO"]
        assert started["path"] == "/chat"


def test_it_serves_a_router_of_ones_own_to_who_has_a_token(serving: Any, tmp_path: Path) -> None:
    async def ask(uri: str) -> object:
        async with connect(uri, token=token_of()) as ws:
            return await ws.request({"action": "double", "number": 21})

    (tmp_path / "chat.py").write_text(APPLICATION)
    with serving("chat:router", auth=True, env={"JWT_SECRET": SECRET}) as (_, started):
        assert asyncio.run(ask(uri_of(started))) == 42


def test_the_command_itself_finds_modules_of_the_directory(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "chat.py").write_text("handler = 5\n")
    command = [sys.executable, "-P" if sys.version_info >= (3, 11) else "-B", "-c"]
    command += ["from wsconnkit.cli import main; main()", "serve", "chat:handler", "--port", "0", "--no-auth"]
    ended = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "Error: handler is 5; it must be an async function, or a RequestRouter, written" in ended.stderr


def test_what_a_module_raises_is_shown_as_it_is(run: Any, tmp_path: Path) -> None:
    (tmp_path / "chat.py").write_text("import missing_dependency\n")
    ended = run("serve", "chat:handler", "--port", "0")
    assert ended.returncode == 1
    assert ended.stderr.endswith("ModuleNotFoundError: No module named 'missing_dependency'\n")
    assert "chat.py" in ended.stderr
