from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trustme

from wsconnkit.asyncio import Connection, serve
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.upgrade import UpgradeRequest
from wsconnkit.service.principal import Principal

CLEAN = "Closed: 1000 (normal closure), begun by us, cause local_close."


@contextlib.contextmanager
def server(
    handler: Callable[[Connection], Awaitable[None]], tls: ssl.SSLContext | None = None, **arguments: Any
) -> Iterator[str]:
    """Serve `handler` in a thread for the length of the block."""
    ready: list[str] = []
    is_ready = threading.Event()
    loop = asyncio.new_event_loop()

    async def run() -> None:
        task = asyncio.current_task()
        assert task is not None
        stops.append(lambda: loop.call_soon_threadsafe(task.cancel))
        config = ConnectionConfig(compression=None)
        async with serve(handler, "127.0.0.1", 0, ssl=tls, config=config, **arguments) as running:
            ready.append(f"ws://127.0.0.1:{running.sockets[0].getsockname()[1]}/ws")
            is_ready.set()
            await running.serve_forever()

    def thread() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(run())
        loop.close()

    stops: list[Callable[[], Any]] = []
    runner = threading.Thread(target=thread)
    runner.start()
    try:
        assert is_ready.wait(30)
        yield ready[0]
    finally:
        stops[0]()
        runner.join(30)


async def echo(ws: Connection) -> None:
    async for message in ws:
        await ws.send(message)


@contextlib.contextmanager
def http_server(answer: bytes | None) -> Iterator[str]:
    """Give every client `answer` with the request's target in place of TARGET, or let it wait for None."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def thread() -> None:
            with contextlib.suppress(OSError):
                client, _ = listener.accept()
                with client:
                    target = client.recv(4096).split(b" ")[1]
                    if answer is not None:
                        client.sendall(answer.replace(b"TARGET", target))
                    while client.recv(4096):
                        pass

        runner = threading.Thread(target=thread)
        runner.start()
        yield f"ws://127.0.0.1:{listener.getsockname()[1]}/ws"
    runner.join(30)


def test_lines_of_a_pipe_become_messages_and_answers_alone_are_on_stdout(run: Any) -> None:
    with server(echo) as uri:
        ended = run("connect", uri, stdin="hello\n\nwörld\r\nlast")
    assert (ended.returncode, ended.stdout) == (0, "hello\n\nwörld\nlast\n")
    connected, messages, closed = ended.stderr.splitlines()
    assert connected == f"Connected to {uri}."
    assert re.fullmatch(r"Messages: 4 sent, 4 received, latency \d+\.\d ms\.", messages)
    assert closed == CLEAN


def test_a_file_can_be_the_input(start: Any, tmp_path: Path) -> None:
    (tmp_path / "input").write_text("".join(f"line {number}\n" for number in range(2000)))
    with server(echo) as uri, open(tmp_path / "input") as file:
        process = start(["connect", uri], stdin=file)
        stdout, _ = process.communicate(timeout=30)
    assert (process.returncode, stdout) == (0, (tmp_path / "input").read_text())


def test_it_lingers_for_answers_that_come_late_and_as_long_as_they_come(run: Any) -> None:
    async def slow(ws: Connection) -> None:
        await ws.recv()
        for number in range(3):
            await asyncio.sleep(0.4)
            await ws.send(f"answer {number}")
        await ws.wait_closed()

    with server(slow) as uri:
        ended = run("connect", uri, "--linger", "1.5", stdin="question\n")
    assert (ended.returncode, ended.stdout) == (0, "answer 0\nanswer 1\nanswer 2\n")


def test_messages_that_arrive_without_being_asked_for_are_printed(run: Any) -> None:
    async def greet(ws: Connection) -> None:
        await ws.send("two\nlines")
        await ws.send(bytes(range(40)))
        await ws.wait_closed()

    with server(greet) as uri:
        ended = run("connect", uri)
    assert ended.returncode == 0
    assert ended.stdout == f"two\nlines\n[binary, 40 bytes] {bytes(range(32)).hex(' ')} …\n"


def test_a_line_that_is_not_utf_8_is_told_and_not_sent(start: Any) -> None:
    with server(echo) as uri:
        process = start(["connect", uri], text=False, encoding=None)
        stdout, stderr = process.communicate(b"one\n\xff\nthree\n", timeout=30)
    assert (process.returncode, stdout) == (0, b"one\nthree\n")
    assert b"Line 2 is not UTF-8; it was not sent." in stderr.splitlines()


@pytest.mark.parametrize(
    ("code", "status", "meaning"),
    [(1000, 0, "normal closure"), (1001, 0, "going away"), (4001, 1, "private to the application")],
)
def test_a_close_by_the_server_ends_it_and_gives_the_exit_status(
    start: Any, code: int, status: int, meaning: str
) -> None:
    async def leave(ws: Connection) -> None:
        await ws.send("one last word")
        await ws.close(code, "enough \x1b[31m")

    with server(leave) as uri:
        process = start(["connect", uri])  # its input stays open
        assert process.wait(30) == status
        stdout, stderr = process.stdout.read(), process.stderr.read()
    assert stdout == "one last word\n"
    assert stderr.splitlines()[-1] == (
        f"Closed: {code} ({meaning}) 'enough \\x1b[31m', begun by the peer, cause peer_close."
    )


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_closes_in_order(start: Any, signum: signal.Signals) -> None:
    with server(echo) as uri:
        process = start(["connect", uri])
        process.stderr.readline()
        process.send_signal(signum)
        assert process.wait(30) == 0
        assert process.stderr.read().splitlines()[-1] == CLEAN


def test_a_signal_while_it_connects_gives_up(start: Any) -> None:
    reached = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def thread() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(4096)
                reached.set()
                client.recv(4096)

        runner = threading.Thread(target=thread)
        runner.start()
        uri = f"ws://127.0.0.1:{listener.getsockname()[1]}/"
        process = start(["connect", uri])
        assert reached.wait(30)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 1
        runner.join(30)
    assert process.stderr.read() == f"Not connected to {uri}: interrupted.\n"


def test_output_that_nobody_reads_ends_it_without_a_traceback(start: Any) -> None:
    with server(echo) as uri:
        process = start(["connect", uri])
        process.stderr.readline()
        process.stdout.close()
        process.stdin.write("hello\nagain\n")
        process.stdin.flush()
        assert process.wait(30) == 1
        assert "Traceback" not in process.stderr.read()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def failed(ended: subprocess.CompletedProcess[str]) -> str:
    """Return the one line that tells why it failed."""
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.count("\n") == 1
    assert "s3cret" not in ended.stderr
    return ended.stderr.removeprefix("Error: ").rstrip("\n")


def test_a_refused_connection_is_told_in_one_line(run: Any) -> None:
    uri = f"ws://127.0.0.1:{free_port()}/ws"
    assert failed(run("connect", f"{uri}?token=s3cret")) == f"cannot connect to {uri}: Connection refused"


def test_a_host_that_does_not_exist_is_told_in_one_line(run: Any) -> None:
    error = failed(run("connect", "ws://no-such-host.invalid/?token=s3cret"))
    assert error.startswith("cannot connect to ws://no-such-host.invalid/: ")


@pytest.mark.parametrize(
    "uri", ["http://host/?token=s3cret", "ws://?token=s3cret", "nonsense?s3cret", "ws://h:x/", "ws://a..b/"]
)
def test_a_uri_that_is_none_is_told_in_one_line(run: Any, uri: str) -> None:
    assert "URI" in failed(run("connect", uri))


def test_a_refusal_is_told_with_its_status_and_without_the_token(run: Any) -> None:
    body = b"no route for TARGET\n\x1b[31mreally"
    head = b"HTTP/1.1 404 Whatever\r\nContent-Length: 1000\r\nConnection: close\r\n\r\n"
    with http_server((head + body).ljust(len(head) + 1000)) as uri:
        told = failed(run("connect", f"{uri}?token=s3cret%2Btoken&x=y"))
    assert told == (
        f"cannot connect to {uri}: the server refused with HTTP 404 Not Found: no route for /ws?*** \\x1b[31mreally"
    )


def test_a_refusal_cannot_control_a_terminal(terminal: Any) -> None:
    body = "\x1b[2J \x9b31m \u202e \u2028 \x85\r\n end".encode()
    with http_server(f"HTTP/1.1 404 No\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body) as uri:
        status, shown = terminal("connect", uri, stdin=subprocess.PIPE).end()
    assert status == 1
    assert shown == (
        f"Error: cannot connect to {uri}: the server refused with HTTP 404 Not Found: "
        "\\x1b[2J \\x9b31m \\u202e \\u2028 \\x85 end\r\n"
    )


def test_a_long_refusal_is_cut_but_never_within_a_token(run: Any) -> None:
    head = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 1000\r\n\r\n"
    with http_server((head + b"x" * 190 + b" TARGET").ljust(len(head) + 1100, b"y")) as uri:
        told = failed(run("connect", f"{uri}?s3cret-{'t' * 60}"))
    assert told.endswith(f"HTTP 403 Forbidden: {'x' * 190} /ws?***yy")


@pytest.mark.parametrize(
    ("status", "after", "told"),
    [
        ("429 Too Many Requests", "12", "12 s"),
        ("503 Service Unavailable", "Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 21 Oct 2026 07:28:00 GMT"),
    ],
)
def test_a_refusal_for_now_is_told_with_when_to_try_again(run: Any, status: str, after: str, told: str) -> None:
    answer = f"HTTP/1.1 {status}\r\nRetry-After: {after}\r\nContent-Length: 4\r\n\r\nfull"
    with http_server(answer.encode()) as uri:
        error = failed(run("connect", uri))
    assert error == f"cannot connect to {uri}: the server refused with HTTP {status} (Retry-After: {told}): full"


def test_a_refusal_without_a_body_is_told_by_its_status(run: Any) -> None:
    with http_server(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n") as uri:
        told = failed(run("connect", uri))
    assert told == f"cannot connect to {uri}: the server refused with HTTP 503 Service Unavailable"


def test_an_answer_that_is_no_handshake_is_told_in_one_line(run: Any) -> None:
    with http_server(b"SMTP ready\r\n\r\n") as uri:
        assert "malformed" in failed(run("connect", uri))


def test_a_server_that_does_not_answer_is_given_up_after_the_timeout(run: Any) -> None:
    with http_server(None) as uri:
        told = failed(run("connect", f"{uri}?token=s3cret", "--timeout", "0.3"))
    assert told == f"cannot connect to {uri}: no complete response within 0.3 s"


def test_tls_to_a_server_without_it_is_told_in_one_line(run: Any) -> None:
    with http_server(b"HTTP/1.1 400 Bad Request\r\n\r\n") as uri:
        uri = uri.replace("ws:", "wss:")
        assert failed(run("connect", uri)).startswith(f"cannot connect to {uri}: TLS failed: ")


# Options


@contextlib.contextmanager
def tls_server(directory: Path) -> Iterator[str]:
    """Serve at localhost with a certificate whose authority is `ca.pem` of `directory`."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    with server(echo, tls=context) as uri:
        yield uri.replace("ws://127.0.0.1", "wss://localhost")


def test_token_headers_origin_and_subprotocols_are_sent(run: Any) -> None:
    sent: list[str | None] = []

    async def note(token: str | None, request: UpgradeRequest) -> Principal:
        sent.extend(request.headers.get(name) for name in ("Authorization", "Origin", "X-One", "X-Two"))
        return Principal(subject="alice")

    options = ["--token", "s3cret", "--origin", "https://a.example", "--header", "X-One: 1", "--header", "X-Two:a: b"]
    with server(echo, subprotocols=["two", "one"], origins=None, authenticate=note) as uri:
        ended = run("connect", *options, "--subprotocol", "one", "--subprotocol", "two", uri)
    assert ended.returncode == 0
    assert sent == ["Bearer s3cret", "https://a.example", "1", "a: b"]
    assert ended.stderr.splitlines()[0] == f"Connected to {uri}, subprotocol two."
    assert "s3cret" not in ended.stderr


def test_what_options_bring_is_not_shown_when_it_is_refused(run: Any) -> None:
    body = b"neither s3cret-token nor s3cret-cookie"
    with http_server(b"HTTP/1.1 401 No\r\nContent-Length: %d\r\n\r\n" % len(body) + body) as uri:
        told = failed(run("connect", uri, "--token", "s3cret-token", "--header", "Cookie: s3cret-cookie"))
    assert told == f"cannot connect to {uri}: the server refused with HTTP 401 Unauthorized: neither *** nor ***"


def test_a_certificate_is_checked_against_the_given_authority(run: Any, tmp_path: Path) -> None:
    with tls_server(tmp_path) as uri:
        ended = run("connect", uri, "--cafile", "ca.pem", stdin="hello\n")
        assert (ended.returncode, ended.stdout) == (0, "hello\n")
        told = failed(run("connect", uri))
        assert told.startswith(f"cannot connect to {uri}: the server's certificate is not valid: ")


def test_any_certificate_is_good_where_that_is_asked_for(run: Any, tmp_path: Path) -> None:
    with tls_server(tmp_path) as uri:
        ended = run("connect", uri.replace("localhost", "127.0.0.1"), "--insecure", stdin="hello\n")
    assert (ended.returncode, ended.stdout) == (0, "hello\n")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["wss://h/", "--cafile", "a", "--insecure"], "--cafile and --insecure are given together; give one"),
        (["ws://h/", "--insecure"], "--cafile and --insecure are for wss, and the URI has the scheme ws"),
        (["wss://h/", "--cafile", "missing"], "--cafile is 'missing'; it cannot be read: No such file or directory"),
        (["wss://h/", "--cafile", "text"], "--cafile is 'text'; there are no certificates in PEM in it"),
        (["ws://h/", "--header", "s3cret"], "Invalid value for '--header': it must be 'Name: value'"),
        (["ws://h/", "--header", "Upgrade: s3cret"], "the header 'Upgrade' belongs to the handshake"),
        (["ws://h/", "--token", "s3cret", "--header", "Authorization: s3cret"], "token is given together with other"),
        (["ws://h/", "--subprotocol", "a b"], "subprotocols is ('a b',); it must be a list of distinct tokens"),
    ],
)
def test_options_that_cannot_be_are_told(run: Any, tmp_path: Path, options: list[str], told: str) -> None:
    (tmp_path / "text").write_text("hello\n")
    ended = run("connect", *options)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.splitlines()[-1].removeprefix("Error: ").startswith(told)
    assert "s3cret" not in ended.stderr


# A proxy between


def test_a_proxy_that_is_none_is_told_in_one_line(run: Any) -> None:
    told = failed(run("connect", "ws://example.test/", env={"all_proxy": "socks5://user:s3cret@127.0.0.1:1"}))
    assert "names only a SOCKS proxy" in told


def test_a_proxy_that_cannot_be_reached_is_named(run: Any) -> None:
    port = free_port()
    told = failed(run("connect", "ws://example.test/", env={"all_proxy": f"http://user:s3cret@127.0.0.1:{port}"}))
    assert told == (
        f"cannot connect to ws://example.test/ through the proxy http://127.0.0.1:{port}: Connection refused"
    )


def test_a_proxy_that_refuses_is_named(run: Any) -> None:
    with http_server(b"HTTP/1.1 503 No\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n") as uri:
        proxy = uri.replace("ws://", "http://").removesuffix("/ws")
        told = failed(run("connect", "wss://example.test/", env={"https_proxy": proxy}))
    assert told == (
        f"cannot connect to wss://example.test/ through the proxy {proxy}: "
        "the proxy refused with HTTP 503 Service Unavailable (Retry-After: 7 s)"
    )


def test_no_proxy_is_named_where_none_is_between(run: Any) -> None:
    uri = f"ws://127.0.0.1:{free_port()}/"
    env = {"all_proxy": "http://127.0.0.1:1", "no_proxy": "example.invalid"}
    for place in (uri, "ws://example.invalid/"):
        assert "proxy" not in failed(run("connect", place, env=env))


# In a terminal


def test_what_was_typed_and_not_sent_does_not_land_in_the_shell(start: Any) -> None:
    async def leave(ws: Connection) -> None:
        await ws.recv()
        await ws.close(1000)

    terminal, ours = os.openpty()  # ours stays open, as that of a shell does
    try:
        with server(leave) as uri:
            process = start(["connect", uri], stdin=ours, stdout=ours, stderr=ours, preexec_fn=partial(take_over, ours))
            os.write(terminal, b"hello\nrm -rf ha")
            seen = b""
            while b"Closed: 1000" not in seen:
                seen += os.read(terminal, 4096)
            assert process.wait(30) == 0
        os.write(terminal, b"ls\n")
        assert os.read(ours, 4096) == b"ls\n"
    finally:
        os.close(terminal)
        os.close(ours)


def take_over(terminal: int) -> None:
    """Make a terminal that of this process, in the foreground."""
    import fcntl
    import termios

    os.setsid()
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)


def test_in_a_terminal_it_prompts_shows_messages_and_closes_at_ctrl_d(terminal: Any) -> None:
    with server(echo) as uri:
        pty = terminal("connect", f"{uri}?token=s3cret")
        pty.wait_for(f"Connected to {uri}. Ctrl-D closes the connection.")
        pty.wait_for(" ms ")
        pty.wait_for("> ")
        pty.type("hello\n")
        pty.wait_for("< ")
        pty.wait_for("hello\r\n")
        pty.type("\n")  # only asks for a new prompt
        pty.type("again\n")
        pty.wait_for("< ")
        pty.wait_for("again\r\n")
        pty.type("\x04")
        pty.wait_for("Messages: 2 sent, 2 received, latency ")
        pty.wait_for(CLEAN)
        status, rest = pty.end()
    assert status == 0
    assert "s3cret" not in rest


def test_in_a_terminal_ctrl_c_closes_in_order(terminal: Any) -> None:
    with server(echo) as uri:
        pty = terminal("connect", uri)
        pty.wait_for("> ")
        pty.type("not yet se")
        pty.process.send_signal(signal.SIGINT)
        pty.wait_for(CLEAN)
        assert pty.end()[0] == 0


def test_in_a_terminal_a_close_by_the_server_ends_it(terminal: Any) -> None:
    async def leave(ws: Connection) -> None:
        await ws.recv()
        await ws.close(1011, "broken")

    with server(leave) as uri:
        pty = terminal("connect", uri)
        pty.wait_for("> ")
        pty.type("hello\n")
        pty.wait_for("Closed: 1011 (internal error) 'broken', begun by the peer, cause peer_close.")
        assert pty.end()[0] == 1


WILD = "\x1b]0;title\x07 \x9b31m \u202e \u2028 \x85 \x1b[2J \x7f\ttab\nline"


async def wild(ws: Connection) -> None:
    await ws.send(WILD)
    await ws.close(4000, "\x1b[2J\u202e\u2028\x9b")


@pytest.mark.parametrize("ends", ["all", "stdin", "stderr"])
@pytest.mark.parametrize("kind", ["xterm", "dumb"])
def test_nothing_that_a_peer_sends_controls_a_terminal(terminal: Any, ends: str, kind: str) -> None:
    elsewhere = {} if ends == "all" else {ends: subprocess.PIPE}
    with server(wild) as uri:
        pty = terminal("connect", uri, env={"TERM": kind}, **elsewhere)
        status, shown = pty.end()
    assert status == 1
    assert r"\x1b]0;title\x07 \x9b31m \u202e \u2028 \x85 \x1b[2J \x7f" in shown
    for char in "\x07\x7f\x85\x9b\u202e\u2028":
        assert char not in shown
    assert "\x1b]" not in shown
    assert "\x1b[2J" not in shown
    if elsewhere or kind == "dumb":
        assert "\x1b" not in shown  # of our own there is some only where there is a prompt


def test_a_pipe_has_messages_as_they_came(run: Any) -> None:
    with server(wild) as uri:
        ended = run("connect", uri)
    assert ended.stdout == f"{WILD}\n"
    assert ended.stderr.splitlines()[-1] == (
        r"Closed: 4000 (private to the application) '\x1b[2J\u202e\u2028\x9b', begun by the peer, cause peer_close."
    )


def test_in_a_dumb_terminal_it_is_a_filter(terminal: Any) -> None:
    with server(echo) as uri:
        pty = terminal("connect", uri, env={"TERM": "dumb"})
        pty.wait_for(f"Connected to {uri}.\r\n")
        pty.type("hello\n\x04")
        status, rest = pty.end()
    assert status == 0
    assert "\x1b" not in rest
    assert rest.splitlines()[:2] == ["hello", "hello"]  # the terminal's echo, and the server's
