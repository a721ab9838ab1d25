from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

SECRET = "0123456789abcdef" * 3


def rows_of(text: str) -> dict[str, tuple[str, str]]:
    """Return value and source by variable."""
    rows = [re.split(r" {2,}", line) for line in text.splitlines()]
    assert {len(row) for row in rows} == {3}
    return {name: (value, source) for name, value, source in rows}


def test_in_a_pipe_each_setting_is_a_line_of_aligned_columns(run: Any) -> None:
    shown = run("check-config")
    assert (shown.returncode, shown.stderr) == (0, "")
    rows = rows_of(shown.stdout)
    assert len(rows) == 38
    assert rows["PING_INTERVAL"] == ("30000 ms", "default")
    assert rows["MAX_FRAME_SIZE"] == ("1048576 bytes", "default")
    assert rows["MAX_HEADERS"] == ("128", "default")
    assert rows["WEBSOCKET_PATH"] == ("/ws", "default")
    assert rows["MAX_CONNECTIONS"] == rows["JWT_SECRET"] == ("(none)", "default")
    lines = shown.stdout.splitlines()
    assert len({line.index("default") for line in lines}) == 1
    assert "\x1b" not in shown.stdout


def test_it_tells_where_each_value_is_from(run: Any, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PING_INTERVAL=2000\nPONG_TIMEOUT=300\n")
    (tmp_path / "other").write_text("PING_INTERVAL=3000\nIDLE_TIMEOUT=off\n")
    rows = rows_of(run("check-config", env={"PONG_TIMEOUT": "400"}).stdout)
    assert (rows["PING_INTERVAL"], rows["PONG_TIMEOUT"]) == (("2000 ms", "file"), ("400 ms", "environment"))
    rows = rows_of(run("check-config", "--config", "other").stdout)
    assert (rows["PING_INTERVAL"], rows["PONG_TIMEOUT"]) == (("3000 ms", "file"), ("5000 ms", "default"))
    assert rows["IDLE_TIMEOUT"] == ("off", "file")


def test_secrets_are_masked(run: Any) -> None:
    shown = run("check-config", env={"JWT_SECRET": SECRET})
    assert rows_of(shown.stdout)["JWT_SECRET"] == ("*** (48 bytes)", "environment")
    assert SECRET not in shown.stdout + shown.stderr


@pytest.mark.skipif("sys.platform == 'win32'", reason="there are no pseudo-terminals")
def test_in_a_terminal_it_is_a_table(terminal: Any) -> None:
    origins = ",".join(f"https://a-long-name-of-a-host-{number}.example.org" for number in range(5))
    env = {"JWT_SECRET": SECRET, "ALLOWED_ORIGINS": origins, "SUPABASE_AUTH_AUDIENCE": "[bold]x[/bold]"}
    shown = terminal("check-config", env=env)
    code, text = shown.end()
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert code == 0
    assert max(map(len, plain.splitlines())) <= 80
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in plain.splitlines() if "│" in line]
    assert ["PING_INTERVAL", "30000 ms", "default"] in cells
    assert ["JWT_SECRET", "*** (48 bytes)", "environment"] in cells
    assert ["SUPABASE_AUTH_AUDIENCE", "[bold]x[/bold]", "environment"] in cells
    assert origins in "".join(cell[1] for cell in cells)
    assert "\x1b[2m" in text  # what is as always stands back


@pytest.mark.skipif("sys.platform == 'win32'", reason="there are no pseudo-terminals")
def test_a_dumb_terminal_gets_lines(terminal: Any) -> None:
    shown = terminal("check-config", env={"TERM": "dumb"})
    code, text = shown.end()
    assert code == 0
    assert rows_of(text)["PING_INTERVAL"] == ("30000 ms", "default")


def test_all_bad_values_are_told_at_once(run: Any, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"PING_INTERVAL=soon\nSUPABASE_AUTH_DOMAIN=auth.example.com\nJWT_SECRET={SECRET}\n")
    ended = run("check-config", env={"COMPRESSION_LEVEL": "12"})
    assert (ended.returncode, ended.stdout) == (2, "")
    assert [line.strip() for line in ended.stderr.splitlines() if "; it must" in line] == [
        "SUPABASE_AUTH_DOMAIN is 'auth.example.com'; it must not be set together with JWT_SECRET: "
        "one of them verifies tokens",
        "PING_INTERVAL is 'soon'; it must be an integer, 1 to 2147483647 milliseconds, or off",
        "COMPRESSION_LEVEL is '12'; it must be an integer, 1 to 9",
    ]
    assert SECRET not in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--config", "missing.env"], "there is no file 'missing.env'"),
        (["--config", "."], "cannot read '.': Is a directory"),
        (["--config", "binary"], "the file 'binary' is not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_exits_with_2(run: Any, tmp_path: Path, arguments: list[str], text: str) -> None:
    (tmp_path / "binary").write_bytes(b"A=\xff\n")
    ended = run("check-config", *arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert text in ended.stderr.splitlines()[-1]


def test_what_looks_like_a_mistake_is_told_beside_the_settings(run: Any, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PING_INTERVALL=10000\nDATABASE_URL=postgresql:///x\n")
    shown = run("check-config", env={"IDLE_TIMEOUT": "300"})
    assert shown.returncode == 0
    assert shown.stderr.splitlines() == [
        "Warning: PING_INTERVALL, from the file, is no variable of the settings; did you mean PING_INTERVAL?",
        "Warning: IDLE_TIMEOUT is 300 ms; did you mean 300 seconds? The default is 300000 ms",
    ]
    assert rows_of(shown.stdout)["IDLE_TIMEOUT"] == ("300 ms", "environment")


def test_lines_that_are_no_settings_exit_with_2(run: Any, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"# ours\nPING_INTERVAL: 10000\nJWT_SECRET {SECRET}\nLOG_LEVEL\n")
    ended = run("check-config")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert [line.strip() for line in ended.stderr.splitlines()[-3:]] == [
        f"line {number} of the file '.env' is no setting; write NAME=value" for number in (2, 3, 4)
    ]
    assert SECRET not in ended.stderr


def test_a_certificate_that_cannot_be_read_exits_with_2(run: Any) -> None:
    ended = run("check-config", env={"TLS_CERT_FILE": "missing.pem"})
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.splitlines()[-1].strip() == (
        "TLS_CERT_FILE is 'missing.pem'; it cannot be read: No such file or directory"
    )
