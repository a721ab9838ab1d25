from __future__ import annotations

import ssl
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import wsconnkit.asyncio
import wsconnkit.trio
from wsconnkit.machines.framesize import FrameLimits
from wsconnkit.machines.heartbeat import HeartbeatConfig
from wsconnkit.machines.ratelimit import RateLimit
from wsconnkit.protocol.config import CloseConfig, ConnectionConfig, HandshakeLimits
from wsconnkit.protocol.deflate import CompressionConfig
from wsconnkit.protocol.http import Headers
from wsconnkit.service.admission import AdmissionConfig, Rates
from wsconnkit.service.auth import JWTAuthenticator
from wsconnkit.service.drain import DrainConfig
from wsconnkit.service.origins import Origins
from wsconnkit.service.settings import BadSettings, Settings

SECRET = "0123456789abcdef" * 2
DEFAULTS = {
    "WEBSOCKET_HOST": "127.0.0.1",
    "WEBSOCKET_PORT": "3001",
    "WEBSOCKET_PATH": "/ws",
    "HANDSHAKE_TIMEOUT": "10000",
    "MAX_HEADERS": "128",
    "MAX_HEADER_SIZE": "8192",
    "MAX_HEAD_SIZE": "32768",
    "PING_INTERVAL": "30000",
    "PONG_TIMEOUT": "5000",
    "MAX_MISSED_PONGS": "3",
    "COMPRESSION_ENABLED": "true",
    "COMPRESSION_LEVEL": "6",
    "COMPRESSION_THRESHOLD": "1024",
    "MAX_FRAME_SIZE": "1048576",
    "FRAME_WARN_THRESHOLD": "524288",
    "MAX_CONNECTIONS_PER_USER": "3",
    "MAX_HANDSHAKES": "1000",
    "MAX_HANDSHAKES_PER_IP": "100",
    "RATE_LIMIT_REQUESTS_PER_MINUTE": "100",
    "RATE_LIMIT_FAILED_AUTH_PER_MINUTE": "10",
    "IDLE_TIMEOUT": "300000",
    "CLOSE_TIMEOUT": "5000",
    "DRAIN_WINDOW": "10000",
    "DRAIN_GRACE": "15000",
    "LOG_LEVEL": "INFO",
    "LOG_FORMAT": "json",
}
VERIFYING = ["JWT_SECRET", "SUPABASE_AUTH_AUDIENCE", "SUPABASE_AUTH_DOMAIN", "SUPABASE_AUTH_ISSUER"]
MAY_BE_EMPTY = [
    "JWT_SECRET",
    "SUPABASE_AUTH_DOMAIN",
    "SUPABASE_AUTH_AUDIENCE",
    "SUPABASE_AUTH_ISSUER",
    "MAX_CONNECTIONS",
    "ALLOWED_ORIGINS",
    "ALLOWED_HOSTS",
    "TRUSTED_PROXIES",
    "TLS_CERT_FILE",
    "TLS_KEY_FILE",
    "METRICS_ADDRESS",
    "METRICS_TOKEN",
]
MAY_BE_OFF = [
    "PING_INTERVAL",
    "IDLE_TIMEOUT",
    "MAX_CONNECTIONS",
    "MAX_CONNECTIONS_PER_USER",
    "MAX_HANDSHAKES",
    "MAX_HANDSHAKES_PER_IP",
    "RATE_LIMIT_REQUESTS_PER_MINUTE",
    "RATE_LIMIT_FAILED_AUTH_PER_MINUTE",
]
INTEGERS = {
    "WEBSOCKET_PORT": (0, 65535),
    "HANDSHAKE_TIMEOUT": (1, 2**31 - 1),
    "MAX_HEADERS": (1, 2**31 - 1),
    "MAX_HEADER_SIZE": (1, 2**31 - 1),
    "MAX_HEAD_SIZE": (1, 2**31 - 1),
    "PING_INTERVAL": (1, 2**31 - 1),
    "PONG_TIMEOUT": (1, 2**31 - 1),
    "MAX_MISSED_PONGS": (1, 2**31 - 1),
    "COMPRESSION_LEVEL": (1, 9),
    "COMPRESSION_THRESHOLD": (0, 2**31 - 1),
    "MAX_FRAME_SIZE": (1, 2**31 - 1),
    "FRAME_WARN_THRESHOLD": (1, 2**31 - 1),
    "MAX_CONNECTIONS_PER_USER": (1, 2**31 - 1),
    "MAX_CONNECTIONS": (1, 2**31 - 1),
    "MAX_HANDSHAKES": (1, 2**31 - 1),
    "MAX_HANDSHAKES_PER_IP": (1, 2**31 - 1),
    "RATE_LIMIT_REQUESTS_PER_MINUTE": (1, 2**31 - 1),
    "RATE_LIMIT_FAILED_AUTH_PER_MINUTE": (1, 2**31 - 1),
    "IDLE_TIMEOUT": (1, 2**31 - 1),
    "CLOSE_TIMEOUT": (1, 2**31 - 1),
    "DRAIN_WINDOW": (0, 2**31 - 1),
    "DRAIN_GRACE": (0, 2**31 - 1),
}


def settings_of(**variables: str) -> Settings:
    return Settings(environ=variables)


def problems_of(**variables: str) -> list[str]:
    with pytest.raises(BadSettings) as caught:
        settings_of(**variables)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


def names(problems: Iterable[str]) -> list[str]:
    return sorted(problem.partition(" is ")[0] for problem in problems)


def test_what_is_not_given_is_as_if_the_defaults_were() -> None:
    settings = settings_of()
    assert settings.model_dump() == settings_of(**DEFAULTS).model_dump()
    assert settings.model_dump() == settings_of(**dict.fromkeys(MAY_BE_EMPTY, "")).model_dump()
    assert (settings.host, settings.port, settings.path) == ("127.0.0.1", 3001, "/ws")
    assert settings.endpoints is True
    assert settings.ssl_context() is None
    assert settings.warnings() == []
    assert (settings.log_level, settings.log_format) == ("INFO", "json")
    assert (settings.drain_window, settings.drain_grace) == (10.0, 15.0)
    assert settings.config == ConnectionConfig(idle_timeout=300.0)
    assert settings.origins == settings.allowed_hosts == settings.trusted_proxies == ()
    assert not settings.authenticates
    assert settings.authenticator() is None


def test_each_variable_reaches_its_setting_and_milliseconds_become_seconds() -> None:
    settings = settings_of(
        WEBSOCKET_HOST=" example.org ",
        WEBSOCKET_PORT="0",
        WEBSOCKET_PATH="/a/b",
        TLS_CERT_FILE="cert.pem",
        TLS_KEY_FILE="key.pem",
        METRICS_ADDRESS="127.0.0.1:9090",
        HANDSHAKE_TIMEOUT="2000",
        MAX_HEADERS="64",
        MAX_HEADER_SIZE="4000",
        MAX_HEAD_SIZE="5000",
        PING_INTERVAL="1500",
        PONG_TIMEOUT="250",
        MAX_MISSED_PONGS="2",
        COMPRESSION_LEVEL="9",
        COMPRESSION_THRESHOLD="0",
        MAX_FRAME_SIZE="1000",
        FRAME_WARN_THRESHOLD="500",
        IDLE_TIMEOUT="2500",
        CLOSE_TIMEOUT="1",
        DRAIN_WINDOW="0",
        DRAIN_GRACE="1250",
        LOG_LEVEL="debug",
        LOG_FORMAT="Text",
        ALLOWED_ORIGINS="https://example.org, http://localhost:8080 ,file://,null",
        ALLOWED_HOSTS="chat.example,*.example.org , [::1]",
        TRUSTED_PROXIES="10.0.0.0/8, ::1,unix",
    )
    assert (settings.host, settings.port, settings.path) == ("example.org", 0, "/a/b")
    assert (settings.tls_cert_file, settings.tls_key_file) == ("cert.pem", "key.pem")
    assert settings.endpoints == ("127.0.0.1", 9090)
    assert (settings.log_level, settings.log_format) == ("DEBUG", "text")
    assert (settings.drain_window, settings.drain_grace) == (0.0, 1.25)
    assert settings.config == ConnectionConfig(
        heartbeat=HeartbeatConfig(interval=1.5, timeout=0.25, max_missed=2),
        limits=FrameLimits(max_frame_size=1000, max_message_size=1000, warn_threshold=500),
        compression=CompressionConfig(level=9, threshold=0),
        close=CloseConfig(timeout=0.001),
        handshake=HandshakeLimits(timeout=2.0, max_line=4000, max_headers=64, max_head=5000),
        idle_timeout=2.5,
    )
    assert settings.origins == ("https://example.org", "http://localhost:8080", "file://", "null")
    assert settings.allowed_hosts == ("chat.example", "*.example.org", "[::1]")
    assert settings.trusted_proxies == ("10.0.0.0/8", "::1", "unix")
    forwarded = Headers([("X-Forwarded-For", "192.0.2.7")])
    assert settings.proxies.client_ip(("10.1.2.3", 1), forwarded) == "192.0.2.7"
    assert settings.proxies.client_ip(("11.1.2.3", 1), forwarded) == "11.1.2.3"


def test_a_warning_threshold_over_the_limit_is_allowed_and_never_reached() -> None:
    limits = settings_of(MAX_FRAME_SIZE="10", FRAME_WARN_THRESHOLD="20").config.limits
    assert limits == FrameLimits(max_frame_size=10, max_message_size=10, warn_threshold=20)


# Which value


def test_options_win_over_the_environment_that_over_the_file_and_that_over_the_default(tmp_path: Path) -> None:
    file = tmp_path / "settings"
    file.write_text("PING_INTERVAL=1\nPONG_TIMEOUT=1\nIDLE_TIMEOUT=1\n")
    settings = Settings.from_env(
        file, environ={"PONG_TIMEOUT": "2", "IDLE_TIMEOUT": "2"}, overrides={"IDLE_TIMEOUT": "3"}
    )
    assert (settings.close_timeout, settings.ping_interval) == (5.0, 0.001)
    assert (settings.pong_timeout, settings.idle_timeout) == (0.002, 0.003)
    sources = {name: source for name, _, source, _ in settings.describe() if "TIMEOUT" in name or "PING" in name}
    assert sources == {
        "CLOSE_TIMEOUT": "default",
        "HANDSHAKE_TIMEOUT": "default",
        "PING_INTERVAL": "file",
        "PONG_TIMEOUT": "environment",
        "IDLE_TIMEOUT": "option",
    }


def test_a_bad_value_that_another_wins_over_does_not_matter(tmp_path: Path) -> None:
    file = tmp_path / "settings"
    file.write_text("PING_INTERVAL=often\n")
    assert Settings.from_env(file, environ={"PING_INTERVAL": "1000"}).ping_interval == 1.0


def test_the_dotenv_file_of_the_directory_is_read_where_no_other_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").mkdir()  # as some call a virtual environment
    assert Settings.from_env(environ={}).path == "/ws"
    (tmp_path / ".env").rmdir()
    assert Settings.from_env(environ={}).path == "/ws"
    (tmp_path / ".env").write_text("WEBSOCKET_PATH=/dotenv\n")
    (tmp_path / "other").write_text("WEBSOCKET_PORT=1\n")
    assert Settings.from_env(environ={}).path == "/dotenv"
    assert Settings.from_env("other", environ={}).path == "/ws"
    assert Settings(environ={}).path == "/ws"


def test_the_process_has_a_say_only_where_no_other_environment_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBSOCKET_PATH", "/process")
    assert Settings.from_env().path == "/process"
    assert Settings.from_env(environ={}).path == "/ws"
    assert Settings.from_env(environ={"WEBSOCKET_PORT": "1"}).path == "/ws"


def test_names_are_upper_case(tmp_path: Path) -> None:
    file = tmp_path / "settings"
    file.write_text("ping_interval=1\npath=/file\n")
    settings = Settings.from_env(file, environ={"websocket_path": "/lower", "Ping_Interval": "1", "port": "1"})
    assert settings.model_dump() == settings_of().model_dump()


def test_variables_of_others_are_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "settings"
    file.write_text("DATABASE_URL=postgresql:///x\n")
    assert Settings.from_env(file, environ={"HOME": "/root", "": "x"}).path == "/ws"


def test_an_option_that_is_no_variable_is_told() -> None:
    with pytest.raises(BadSettings) as caught:
        Settings.from_env(environ={}, overrides={"PING_INTERVALL": "5", "port": "5", "PING_INTERVAL": "5"})
    assert caught.value.problems == [f"{name} is no variable of the settings" for name in ("PING_INTERVALL", "port")]


def test_a_dotenv_file_is_read_as_such_a_file_is(tmp_path: Path) -> None:
    file = tmp_path / "settings"
    file.write_bytes(
        b"\xef\xbb\xbf# a comment, after the mark that editors of Windows write\r\n"
        b'export WEBSOCKET_PATH="/quoted" # here\r\nSUPABASE_AUTH_DOMAIN=auth.example.com\r\n'
        b"SUPABASE_AUTH_ISSUER=https://${SUPABASE_AUTH_DOMAIN}/\r\n"
    )
    for given_as in (file, str(file)):
        settings = Settings.from_env(given_as, environ={})
        assert settings.path == "/quoted"
        assert settings.auth_issuer == "https://auth.example.com/"


def test_a_file_that_cannot_be_read_is_no_file_without_settings(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Settings.from_env(tmp_path / "missing")
    with pytest.raises(OSError, match="directory"):
        Settings.from_env(tmp_path)
    (tmp_path / "binary").write_bytes(b"A=\xff\n")
    with pytest.raises(BadSettings, match="binary' is not UTF-8"):
        Settings.from_env(tmp_path / "binary")


def test_made_directly_they_are_those_of_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*DEFAULTS, *MAY_BE_EMPTY):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WEBSOCKET_PATH", "/process")
    monkeypatch.setenv("ALLOWED_ORIGINS", "https://a.example,https://b.example")
    settings = Settings()
    assert (settings.path, settings.origins) == ("/process", ("https://a.example", "https://b.example"))
    assert settings == Settings.from_env()
    monkeypatch.setenv("WEBSOCKET_PATH", "process")
    with pytest.raises(BadSettings, match=r"\AWEBSOCKET_PATH is 'process'; "):
        Settings()


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        settings_of().port = 5


# Which values are allowed


@pytest.mark.parametrize(
    ("text", "enabled"),
    [
        *((text, True) for text in ("true", "TRUE", "1", "yes", "on", " on ")),
        *((text, False) for text in ("false", "False", "0", "no", "off")),
    ],
)
def test_compression_is_switched_in_the_usual_words(text: str, enabled: bool) -> None:
    assert (settings_of(COMPRESSION_ENABLED=text).config.compression is not None) is enabled


@pytest.mark.parametrize(("name", "bounds"), INTEGERS.items())
def test_integers_are_taken_within_their_bounds_only(name: str, bounds: tuple[int, int]) -> None:
    low, high = bounds
    for value in bounds:
        assert dict(row[:2] for row in settings_of(**{name: f" {value} "}).describe())[name] == str(value)
    for text in (str(low - 1), str(high + 1), "abc", "1.5", "1_0", "٣", "9" * 5000, "0x10", "+1"):
        (problem,) = problems_of(**{name: text})
        assert problem.startswith(f"{name} is {text!r}; it must be an integer, {low} to {high}")


@pytest.mark.parametrize(
    ("name", "text", "allowed"),
    [
        ("WEBSOCKET_PATH", "ws", "a path in ASCII that starts with '/', without spaces, '?' and '#'"),
        ("COMPRESSION_ENABLED", "maybe", "true or false (also 1, yes, on, 0, no, off)"),
        ("LOG_LEVEL", "LOUD", "one of DEBUG, INFO, WARNING, ERROR, CRITICAL"),
        ("LOG_FORMAT", "xml", "one of json, text"),
        ("PING_INTERVAL", "0", "an integer, 1 to 2147483647 milliseconds, or off"),
        ("PONG_TIMEOUT", "off", "an integer, 1 to 2147483647 milliseconds"),
        ("WEBSOCKET_HOST", "a b", "a host's name or an address, such as '127.0.0.1', or '0.0.0.0' for all of IPv4"),
        ("METRICS_ADDRESS", "9090", "host:port, such as '127.0.0.1:9090' or '[::1]:9090', or off"),
        ("METRICS_ADDRESS", "::1:9090", "host:port, such as '127.0.0.1:9090' or '[::1]:9090', or off"),
        ("METRICS_ADDRESS", "localhost:65536", "host:port, such as '127.0.0.1:9090' or '[::1]:9090', or off"),
        ("TLS_CERT_FILE", "a\0b", "the path of a file"),
        ("DRAIN_GRACE", "-5", "an integer, 0 to 2147483647 milliseconds"),
        ("MAX_FRAME_SIZE", "1 MB", "an integer, 1 to 2147483647 bytes"),
        ("COMPRESSION_LEVEL", "10", "an integer, 1 to 9"),
        ("MAX_CONNECTIONS", "0", "an integer, 1 to 2147483647, or off"),
        ("SUPABASE_AUTH_DOMAIN", "https://auth.example.com/", "a host's name alone, like 'auth.example.com'"),
        (
            "ALLOWED_ORIGINS",
            "https://example.org,*",
            "origins such as 'https://example.org', 'file://' or 'null', separated by commas; '*' is none",
        ),
        (
            "ALLOWED_HOSTS",
            "chat.example:443",
            "hosts such as 'example.org' or '*.example.org', without a port, separated by commas; "
            "'chat.example:443' is none",
        ),
        (
            "TRUSTED_PROXIES",
            "10.0.0.1/8",
            "addresses, networks such as '10.0.0.0/8' with no bits set behind the prefix, or 'unix', "
            "separated by commas; '10.0.0.1/8' is none",
        ),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(name: str, text: str, allowed: str) -> None:
    assert problems_of(**{name: text}) == [f"{name} is {text!r}; it must be {allowed}"]


def test_all_bad_values_are_told_at_once() -> None:
    variables = dict.fromkeys([*DEFAULTS, *MAY_BE_EMPTY], " ?\0")
    assert names(problems_of(**variables)) == sorted(variables)


def test_an_empty_value_is_bad_where_there_is_a_default() -> None:
    problems = problems_of(**dict.fromkeys([*DEFAULTS, *MAY_BE_EMPTY], ""))
    assert names(problems) == sorted(DEFAULTS)


@pytest.mark.parametrize("text", [" ", "\t\n", " " * 64, "\u3000" * 32])
def test_nothing_but_spaces_is_bad_there_too_and_where_it_would_let_everyone_in(text: str) -> None:
    problems = problems_of(**dict.fromkeys([*DEFAULTS, *MAY_BE_EMPTY], text))
    assert names(problems) == sorted([*DEFAULTS, *VERIFYING, "METRICS_TOKEN"])


def test_lines_of_a_file_that_are_no_settings_are_told_with_all_other_problems(tmp_path: Path) -> None:
    file = tmp_path / "settings"
    file.write_text("PORT 3001\nJWT_SECRET\n")
    for environ, also in (({}, []), ({"LOG_FORMAT": "xml"}, ["LOG_FORMAT"])):
        with pytest.raises(BadSettings) as caught:
            Settings.from_env(file, environ=environ)
        lines = [f"line {number} of the file {str(file)!r} is no setting; write NAME=value" for number in (1, 2)]
        assert caught.value.problems[:2] == lines
        assert names(caught.value.problems[2:]) == also


@pytest.mark.parametrize(
    ("text", "good"),
    [
        *((text, True) for text in ("/", "/ws", "/a/b%20c", " /ws ")),
        *(
            (text, False)
            for text in ("ws", "/a b", "/a?b", "/a#b", "/é", "/a\x1bb", "/a\x7f", "/\udcff", "http://x/ws")
        ),
    ],
)
def test_a_path_is_what_a_request_can_ask_for(text: str, good: bool) -> None:
    if good:
        assert settings_of(WEBSOCKET_PATH=text).path == text.strip()
    else:
        assert names(problems_of(WEBSOCKET_PATH=text)) == ["WEBSOCKET_PATH"]


@pytest.mark.parametrize("text", ["auth.example.com", "localhost:8443", " 127.0.0.1 ", "x"])
def test_a_domain_is_a_host_with_or_without_a_port(text: str) -> None:
    assert settings_of(SUPABASE_AUTH_DOMAIN=text).auth_domain == text.strip()


@pytest.mark.parametrize(
    "text",
    ["a b", "a/b", "a:b", "user@a", ".a", "a.", "-a", "a-", ":80", "a:", "é", "\udcff", "https://a", "a?b"],
)
def test_a_domain_is_nothing_but_that(text: str) -> None:
    assert names(problems_of(SUPABASE_AUTH_DOMAIN=text)) == ["SUPABASE_AUTH_DOMAIN"]


@pytest.mark.parametrize("name", ["SUPABASE_AUTH_AUDIENCE", "SUPABASE_AUTH_ISSUER"])
def test_a_claim_is_printable_text(name: str) -> None:
    problems = problems_of(**{name: "a\udcffb", "JWT_SECRET": SECRET})
    assert problems == [f"{name} is 'a\\udcffb'; it must be printable text"]
    described = settings_of(**{name: " any text: é ", "JWT_SECRET": SECRET}).describe()
    assert (name, "any text: é", "environment", "") in described


def test_a_token_for_metrics_that_is_none_is_told_by_its_length() -> None:
    for text in ("s3cret", "s3cret with spaces in it", "s3cret" * 3 + "\udcff"):
        (problem,) = problems_of(METRICS_TOKEN=text)
        length = len(text.encode("utf-8", "replace"))
        assert problem == (
            f"METRICS_TOKEN is {length} bytes long; it must be at least 16 characters of ASCII without spaces"
        )


# Authentication


def test_a_secret_makes_an_authenticator() -> None:
    settings = settings_of(JWT_SECRET=SECRET, SUPABASE_AUTH_AUDIENCE="api", SUPABASE_AUTH_ISSUER="us")
    assert settings.authenticates
    assert isinstance(settings.authenticator(), JWTAuthenticator)


def test_the_authenticator_asks_for_what_the_variables_name() -> None:
    import jwt

    authenticator = settings_of(
        JWT_SECRET=SECRET, SUPABASE_AUTH_AUDIENCE="api", SUPABASE_AUTH_ISSUER="us"
    ).authenticator()
    assert authenticator is not None
    claims = {"sub": "someone", "exp": 2_000_000_000, "aud": "api", "iss": "us"}
    assert authenticator.verify(jwt.encode(claims, SECRET, "HS256"), 0.0).subject == "someone"
    for wrong, secret in [({"aud": "other"}, SECRET), ({"iss": "other"}, SECRET), ({}, SECRET[::-1])]:
        with pytest.raises(Exception, match="invalid"):
            authenticator.verify(jwt.encode({**claims, **wrong}, secret, "HS256"), 0.0)


def test_a_domain_makes_an_authenticator() -> None:
    settings = settings_of(SUPABASE_AUTH_DOMAIN="auth.example.com")
    assert settings.authenticates
    assert isinstance(settings.authenticator(), JWTAuthenticator)


def test_a_secret_is_taken_byte_by_byte() -> None:
    # Spaces are part of it, and bytes that are not UTF-8 are as the process got them.
    settings = settings_of(JWT_SECRET=" é\udcff" + "x" * 28)
    assert settings.jwt_secret is not None
    assert settings.jwt_secret.get_secret_value() == b" \xc3\xa9\xff" + b"x" * 28
    assert settings.authenticates


@pytest.mark.parametrize(
    ("secret", "length"),
    [
        ("é" * 15 + "\udcff", 31),
        ("\ud800", 1),
        (" " * 40, 40),
        ("-----BEGIN PUBLIC KEY-----\nMIGb\n-----END PUBLIC KEY-----", 56),
    ],
)
def test_a_secret_that_is_none_is_told_by_its_length_only(secret: str, length: int) -> None:
    assert problems_of(JWT_SECRET=secret) == [
        f"JWT_SECRET is {length} bytes long; it must be at least 32 bytes (RFC 7518, section 3.2), "
        "not only spaces, and no public key"
    ]


@pytest.mark.parametrize("secret", [SECRET, "short"])
def test_a_secret_and_a_domain_exclude_each_other(secret: str) -> None:
    problems = problems_of(JWT_SECRET=secret, SUPABASE_AUTH_DOMAIN="auth.example.com")
    assert problems[-1] == (
        "SUPABASE_AUTH_DOMAIN is 'auth.example.com'; it must not be set together with JWT_SECRET: "
        "one of them verifies tokens"
    )
    assert len(problems) == (1 if secret == SECRET else 2)


@pytest.mark.parametrize("name", ["SUPABASE_AUTH_AUDIENCE", "SUPABASE_AUTH_ISSUER"])
def test_claims_need_something_that_verifies_them(name: str) -> None:
    assert problems_of(**{name: "x"}) == [
        f"{name} is 'x'; it must not be set without SUPABASE_AUTH_DOMAIN or JWT_SECRET: nothing verifies tokens"
    ]
    # One that is set and bad will be set when it is put right.
    for other, text in {"JWT_SECRET": "short", "SUPABASE_AUTH_DOMAIN": "https://x"}.items():
        assert names(problems_of(**{name: "x", other: text})) == [other]


def test_a_secret_is_shown_nowhere() -> None:
    settings = settings_of(JWT_SECRET=SECRET, METRICS_TOKEN=SECRET)
    for text in (repr(settings), str(settings), settings.model_dump_json(), str(settings.describe())):
        assert SECRET not in text
    for variables in ({"JWT_SECRET": "short secret"}, {"JWT_SECRET": SECRET, "PING_INTERVAL": "0"}):
        with pytest.raises(BadSettings) as caught:
            settings_of(**variables)
        assert variables["JWT_SECRET"] not in str(caught.value) + repr(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__


def test_nothing_of_authentication_is_imported_without_need() -> None:
    code = (
        "import sys; from wsconnkit.service.settings import Settings; Settings.from_env(environ={}).authenticator();"
        "assert not {'jwt', 'cryptography'} & set(sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (run.returncode, run.stderr) == (0, "")


# TLS


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a certificate, its key, another key, and the key behind a password."""
    directory = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    issued = authority.issue_cert("example.org")
    for name, blob in {"cert": issued.cert_chain_pems[0], "key": issued.private_key_pem}.items():
        blob.write_to_path(str(directory / name))
    issued.private_key_and_cert_chain_pem.write_to_path(str(directory / "both"))
    authority.issue_cert("example.net").private_key_pem.write_to_path(str(directory / "other"))
    key = load_pem_private_key(issued.private_key_pem.bytes(), None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password"))
    (directory / "locked").write_bytes(locked)
    (directory / "text").write_text("hello\n")
    return directory


def test_files_make_a_context_for_a_server(pem: Path) -> None:
    for files in ({"TLS_CERT_FILE": "cert", "TLS_KEY_FILE": "key"}, {"TLS_CERT_FILE": "both"}):
        context = settings_of(**{name: str(pem / file) for name, file in files.items()}).ssl_context()
        assert context is not None
        assert context.protocol is ssl.PROTOCOL_TLS_SERVER


@pytest.mark.parametrize(
    ("cert", "key", "problem"),
    [
        ("missing", "key", "TLS_CERT_FILE is 'DIR/missing'; it cannot be read: No such file or directory"),
        ("cert", "missing", "TLS_KEY_FILE is 'DIR/missing'; it cannot be read: No such file or directory"),
        ("cert", "", "TLS_CERT_FILE is 'DIR/cert'; it must be a certificate in PEM, with its key without a password"),
        ("cert", "other", "TLS_CERT_FILE is 'DIR/cert'; it must be "),
        ("cert", "locked", "TLS_CERT_FILE is 'DIR/cert'; it must be "),
        ("text", "key", "TLS_CERT_FILE is 'DIR/text'; it must be "),
    ],
)
def test_files_that_cannot_be_used_are_told(pem: Path, cert: str, key: str, problem: str) -> None:
    settings = settings_of(TLS_CERT_FILE=str(pem / cert), TLS_KEY_FILE=key and str(pem / key))
    with pytest.raises(BadSettings) as caught:
        settings.ssl_context()
    (told,) = caught.value.problems
    assert told.startswith(problem.replace("DIR", str(pem)))


def test_a_key_alone_is_none() -> None:
    assert problems_of(TLS_KEY_FILE="key.pem") == [
        "TLS_KEY_FILE is 'key.pem'; it must not be set without TLS_CERT_FILE: the key of a certificate"
    ]


# What is switched off


@pytest.mark.parametrize("name", MAY_BE_OFF)
def test_what_can_be_switched_off_is_in_one_word(name: str) -> None:
    for text in ("off", " OFF "):
        settings = settings_of(**{name: text})
        described = dict(row[:2] for row in settings.describe())
        assert described[name] == ("" if name == "MAX_CONNECTIONS" else "off")
        assert settings_of(**described).model_dump() == settings.model_dump()


def test_what_is_switched_off_is_not_there() -> None:
    settings = settings_of(**dict.fromkeys(MAY_BE_OFF, "off"), METRICS_ADDRESS="off")
    assert settings.endpoints is False
    assert settings.config == ConnectionConfig(heartbeat=None)
    assert settings.admission == AdmissionConfig(
        max_connections_per_user=None,
        max_handshakes=None,
        max_handshakes_per_ip=None,
        failed_auth=None,
        tiers=dict.fromkeys(("free", "premium", "enterprise"), Rates()),
    )


# What looks like a mistake


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("PING_INTERVALL", "PING_INTERVAL"),
        ("ping_interval", "PING_INTERVAL"),
        ("PINGINTERVAL", "PING_INTERVAL"),
        ("WEBSOCKET_PROT", "WEBSOCKET_PORT"),
        ("MAX_CONNECTION", "MAX_CONNECTIONS"),
        ("ALLOWED_ORIGIN", "ALLOWED_ORIGINS"),
        ("JWT_SECRETS", "JWT_SECRET"),
        ("RATE_LIMIT_REQUEST_PER_MINUTE", "RATE_LIMIT_REQUESTS_PER_MINUTE"),
    ],
)
def test_a_misspelt_variable_is_asked_about(tmp_path: Path, name: str, meant: str) -> None:
    question = "is no variable of the settings; did you mean"
    assert settings_of(**{name: "s3cret"}).warnings() == [f"{name}, from the environment, {question} {meant}?"]
    file = tmp_path / "settings"
    file.write_text(f"{name}=s3cret\n")
    assert Settings(file, environ={}).warnings() == [f"{name}, from the file, {question} {meant}?"]
    # Whoever has both means another program's.
    good = dict(row[:2] for row in settings_of(JWT_SECRET=SECRET).describe())
    assert settings_of(**{name: "s3cret", **good, "JWT_SECRET": SECRET}).warnings() == []


def test_variables_of_others_are_not_asked_about() -> None:
    others = "HOME PATH PORT HOST SECRET_KEY DATABASE_URL LOG_FILE LOG_DIR MAX_WORKERS WEBSOCKET_URL AUTH_DOMAIN"
    assert settings_of(**dict.fromkeys(others.split(), "x")).warnings() == []


@pytest.mark.parametrize("name", ["PING_INTERVAL", "PONG_TIMEOUT", "IDLE_TIMEOUT", "CLOSE_TIMEOUT", "DRAIN_GRACE"])
def test_times_that_were_meant_in_seconds_are_asked_about(name: str) -> None:
    seconds = str(int(DEFAULTS[name]) // 1000)
    assert settings_of(**{name: seconds}).warnings() == [
        f"{name} is {seconds} ms; did you mean {seconds} seconds? The default is {DEFAULTS[name]} ms"
    ]
    assert settings_of(**{name: str(int(DEFAULTS[name]) // 10)}).warnings() == []


def test_sizes_that_were_meant_in_larger_units_are_asked_about() -> None:
    variables = {
        "MAX_FRAME_SIZE": "16",
        "FRAME_WARN_THRESHOLD": "8",
        "MAX_HEAD_SIZE": "4",
        "COMPRESSION_THRESHOLD": "1",
    }
    assert [warning.partition(";")[0] for warning in settings_of(**variables).warnings()] == [
        "MAX_HEAD_SIZE is 4 bytes",
        "MAX_FRAME_SIZE is 16 bytes",
        "FRAME_WARN_THRESHOLD is 8 bytes",
    ]
    assert settings_of(DRAIN_WINDOW="0", COMPRESSION_THRESHOLD="0", PING_INTERVAL="off").warnings() == []


def test_a_threshold_that_nothing_reaches_is_told() -> None:
    told = "FRAME_WARN_THRESHOLD is over MAX_FRAME_SIZE, so no frame is ever warned of"
    assert settings_of(FRAME_WARN_THRESHOLD="2000000").warnings() == [told]
    assert settings_of(MAX_FRAME_SIZE="200000").warnings() == []


# Admission


def rates(per_minute: int) -> Rates:
    return Rates(upgrades=RateLimit(per_minute, 60.0), messages=RateLimit(per_minute, 60.0))


def test_users_are_admitted_by_their_tier() -> None:
    assert settings_of(JWT_SECRET=SECRET).admission == AdmissionConfig(
        max_connections=None,
        max_connections_per_user=3,
        per_ip=Rates(upgrades=RateLimit(100, 60.0)),
        per_user=rates(100),
        tiers={"free": rates(100), "premium": rates(300), "enterprise": rates(1000)},
    )


def test_the_caps_on_handshakes_can_be_set_and_switched_off() -> None:
    admission = settings_of(MAX_HANDSHAKES="7", MAX_HANDSHAKES_PER_IP=" 2 ").admission
    assert (admission.max_handshakes, admission.max_handshakes_per_ip) == (7, 2)
    admission = settings_of(MAX_HANDSHAKES="off", MAX_HANDSHAKES_PER_IP="off").admission
    assert (admission.max_handshakes, admission.max_handshakes_per_ip) == (None, None)


def test_without_authentication_an_address_has_the_rates_of_a_user() -> None:
    admission = settings_of(
        RATE_LIMIT_REQUESTS_PER_MINUTE="7",
        RATE_LIMIT_FAILED_AUTH_PER_MINUTE="6",
        MAX_CONNECTIONS="20",
        MAX_CONNECTIONS_PER_USER="5",
    ).admission
    assert admission.failed_auth == RateLimit(6, 60.0)
    assert admission.per_ip == admission.per_user == rates(7)
    assert (admission.max_connections, admission.max_connections_per_user) == (20, 5)


@pytest.mark.parametrize(("free", "premium", "enterprise"), [(400, 400, 1000), (5000, 5000, 5000), (1, 300, 1000)])
def test_no_tier_has_less_than_the_one_below(free: int, premium: int, enterprise: int) -> None:
    tiers = settings_of(RATE_LIMIT_REQUESTS_PER_MINUTE=str(free)).admission.tiers
    assert tiers == {"free": rates(free), "premium": rates(premium), "enterprise": rates(enterprise)}


# The description


def test_each_variable_is_described_in_its_own_unit() -> None:
    assert {name: value for name, value, *_ in settings_of().describe()} == {
        **DEFAULTS,
        **dict.fromkeys(MAY_BE_EMPTY, ""),
    }
    described = settings_of(
        JWT_SECRET=SECRET + SECRET[:16],
        COMPRESSION_ENABLED="NO",
        LOG_LEVEL=" debug ",
        CLOSE_TIMEOUT="0029",
        MAX_CONNECTIONS="5",
        TRUSTED_PROXIES="10.0.0.0/8 , unix",
        METRICS_ADDRESS="[::1]:09090",
        IDLE_TIMEOUT="OFF",
    ).describe()
    assert [tuple(row) for row in described if row.source != "default"] == [
        ("JWT_SECRET", "*** (48 bytes)", "environment", ""),
        ("METRICS_ADDRESS", "[::1]:9090", "environment", ""),
        ("COMPRESSION_ENABLED", "false", "environment", ""),
        ("MAX_CONNECTIONS", "5", "environment", ""),
        ("TRUSTED_PROXIES", "10.0.0.0/8,unix", "environment", ""),
        ("IDLE_TIMEOUT", "off", "environment", "ms"),
        ("CLOSE_TIMEOUT", "29", "environment", "ms"),
        ("LOG_LEVEL", "DEBUG", "environment", ""),
    ]


def test_units_are_those_of_the_problems() -> None:
    units = {"ms": "milliseconds", "bytes": "bytes"}
    described = {row.variable: units[row.unit] for row in settings_of().describe() if row.unit}
    problems = [problem.split() for problem in problems_of(**dict.fromkeys(INTEGERS, "?"))]
    assert described == {
        words[0]: words[-1]
        for words in ([word.rstrip(",") for word in words if word not in ("or", "off")] for words in problems)
        if words[-1] in units.values()
    }


TEXTS = st.one_of(
    st.text("0a./:-,é \n\udcff", max_size=6),
    st.integers(-1, 2**31).map(str),
    st.sampled_from(
        [
            " ",
            "true",
            "off",
            "warning",
            "text",
            "/a",
            "auth.example.com:8443",
            SECRET,
            "localhost:0",
            "https://a.b,null",
            "a.b,*.c.d",
            "unix,::1/128",
        ]
    ),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the first draw makes a table of Unicode
@given(st.dictionaries(st.sampled_from([*DEFAULTS, *MAY_BE_EMPTY]), TEXTS))
def test_whatever_is_given_is_told_as_bad_or_makes_all_that_a_server_needs(variables: dict[str, str]) -> None:
    try:
        settings = settings_of(**variables)
    except BadSettings:
        told = names(problems_of(**variables))
        assert set(told) <= {*variables}
        assert len(told) == len({*told})
        return
    Origins(settings.origins)
    made: list[Any] = [settings.config, settings.admission, settings.proxies, settings.describe()]
    assert None not in made
    assert (settings.authenticator() is not None) is settings.authenticates
    secrets = {name: variables.get(name, "") for name in ("JWT_SECRET", "METRICS_TOKEN")}
    described = {name: value for name, value, *_ in settings.describe() if name not in secrets}
    again = settings_of(**described, **secrets)
    assert again.model_dump() == settings.model_dump()


# A server


async def handler(ws: object) -> None: ...


def test_a_server_is_made_of_them_in_one_step_on_either_event_loop() -> None:
    arguments = settings_of(JWT_SECRET=SECRET, METRICS_ADDRESS="off").serve_arguments()
    wsconnkit.asyncio.serve(handler, **arguments, metrics=None, subprotocols=["chat"])
    wsconnkit.trio.serve(handler, **arguments, metrics=None, subprotocols=["chat"])


def test_the_arguments_are_what_the_settings_say(pem: Path) -> None:
    settings = settings_of(
        JWT_SECRET=SECRET,
        WEBSOCKET_HOST="::",
        WEBSOCKET_PORT="0",
        WEBSOCKET_PATH="/chat",
        TLS_CERT_FILE=str(pem / "both"),
        METRICS_ADDRESS="127.0.0.1:9090",
        METRICS_TOKEN=SECRET,
        DRAIN_WINDOW="2000",
        DRAIN_GRACE="1000",
        ALLOWED_ORIGINS="https://a.example",
        ALLOWED_HOSTS="a.example",
        TRUSTED_PROXIES="10.0.0.0/8",
    )
    arguments = settings.serve_arguments()
    assert (arguments["host"], arguments["port"], arguments["path"]) == ("::", 0, "/chat")
    assert isinstance(arguments["ssl"], ssl.SSLContext)
    assert isinstance(arguments["authenticate"], JWTAuthenticator)
    assert arguments["reauthenticate"]
    assert arguments["drain"] == DrainConfig(window=2.0, grace=1.0)
    assert (arguments["endpoints"], arguments["metrics_token"]) == (("127.0.0.1", 9090), SECRET)
    assert (arguments["origins"], arguments["allowed_hosts"]) == (("https://a.example",), ("a.example",))
    assert (arguments["config"], arguments["admission"]) == (settings.config, settings.admission)
    forwarded = Headers([("X-Forwarded-For", "192.0.2.7")])
    assert arguments["proxies"].client_ip(("10.1.2.3", 1), forwarded) == "192.0.2.7"


def test_without_anything_that_verifies_tokens_everyone_is_let_in() -> None:
    arguments = settings_of().serve_arguments()
    assert (arguments["authenticate"], arguments["reauthenticate"], arguments["ssl"]) == (None, False, None)
    assert arguments["metrics_token"] is None
    assert arguments["allowed_hosts"] is None
