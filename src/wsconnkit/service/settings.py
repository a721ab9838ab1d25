"""The settings of a server from environment variables and a dotenv file. It needs the extra `settings`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, final

from dotenv import dotenv_values
from pydantic import BeforeValidator, Field, PrivateAttr, SecretBytes, ValidationError, ValidationInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from wsconnkit.machines.framesize import FrameLimits
from wsconnkit.machines.heartbeat import HeartbeatConfig
from wsconnkit.machines.ratelimit import RateLimit
from wsconnkit.protocol.config import CloseConfig, ConnectionConfig
from wsconnkit.protocol.deflate import CompressionConfig
from wsconnkit.service.admission import AdmissionConfig, Rates
from wsconnkit.service.hosts import AllowedHosts
from wsconnkit.service.origins import Origins
from wsconnkit.service.proxies import TrustedProxies

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from wsconnkit.service.auth import JWTAuthenticator

_MAX_INTEGER = 2**31 - 1
_FLAGS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?")
_PREMIUM, _ENTERPRISE = 300, 1000
"""Requests a minute."""


class BadSettings(ValueError):
    """Values that are not allowed; `problems` names each variable, its value and what is allowed."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(self.problems)


# What makes a value of a variable's text, and says what is allowed when it cannot. Where nothing verifies tokens unless
# it is set, only an empty text sets nothing: one of spaces must not let everyone in.


def _integer(low: int = 1, high: int = _MAX_INTEGER, unit: str = "") -> Callable[[str], int]:
    def parse(text: str) -> int:
        text = text.strip()
        # Digits only: int() would also take "1_000" and digits of other scripts. Ten are enough for the highest.
        if text.isascii() and text.isdecimal() and len(text) <= 10 and low <= int(text) <= high:
            return int(text)
        raise ValueError(f"it must be an integer, {low} to {high}{unit and ' ' + unit}")

    return parse


def _seconds(low: int = 1) -> Callable[[str], float]:
    milliseconds = _integer(low, unit="milliseconds")
    return lambda text: milliseconds(text) / 1000


def _count_or_none(text: str) -> int | None:
    return _integer()(text) if text.strip() else None


def _flag(text: str) -> bool:
    if (word := text.strip().lower()) in _FLAGS:
        return _FLAGS[word]
    raise ValueError("it must be true or false (also 1, yes, on, 0, no, off)")


def _one_of(*allowed: str) -> Callable[[str], str]:
    words = {word.lower(): word for word in allowed}

    def parse(text: str) -> str:
        if (word := text.strip().lower()) in words:
            return words[word]
        raise ValueError(f"it must be one of {', '.join(allowed)}")

    return parse


def _path(text: str) -> str:
    text = text.strip()
    if text.startswith("/") and text.isascii() and text.isprintable() and not any(char in " ?#" for char in text):
        return text
    raise ValueError("it must be a path in ASCII that starts with '/', without spaces, '?' and '#'")


def _secret(text: str) -> SecretBytes | None:
    if not text:
        return None
    from wsconnkit.service.auth import JWTAuthenticator

    try:
        secret = text.encode("utf-8", "surrogateescape")  # as the process was given it
        JWTAuthenticator(secret=secret)
    except ValueError:
        raise ValueError(
            "it must be at least 32 bytes (RFC 7518, section 3.2), not only spaces, and no public key"
        ) from None
    return SecretBytes(secret)


def _domain(text: str, info: ValidationInfo) -> str | None:
    if not text:
        return None
    text = text.strip()
    if not _HOST.fullmatch(text):
        raise ValueError("it must be a host's name alone, like 'auth.example.com'")
    if _may_be_set(info, "jwt_secret"):
        raise ValueError("it must not be set together with JWT_SECRET: one of them verifies tokens")
    return text


def _claim(text: str, info: ValidationInfo) -> str | None:
    if not text:
        return None
    text = text.strip()
    if not (text and text.isprintable()):
        raise ValueError("it must be printable text")
    if not (_may_be_set(info, "jwt_secret") or _may_be_set(info, "auth_domain")):
        raise ValueError("it must not be set without SUPABASE_AUTH_DOMAIN or JWT_SECRET: nothing verifies tokens")
    return text


def _may_be_set(info: ValidationInfo, field: str) -> bool:
    # A field that was refused is missing there: it was set.
    return info.data.get(field, "refused") is not None


def _list_of(what: str, check: Callable[[list[str]], object]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        items = tuple(item.strip() for item in text.split(",")) if text.strip() else ()
        for item in items:
            try:
                check([item])
            except ValueError:
                raise ValueError(f"it must be {what}, separated by commas; {item!r} is none") from None
        return items

    return parse


_origins = _list_of("origins such as 'https://example.org', 'file://' or 'null'", Origins)
_hosts = _list_of("hosts such as 'example.org' or '*.example.org', without a port", AllowedHosts)
_networks = _list_of(
    "addresses, networks such as '10.0.0.0/8' with no bits set behind the prefix, or 'unix'", TrustedProxies
)


def _rates(per_minute: int) -> Rates:
    return Rates(upgrades=RateLimit(per_minute), messages=RateLimit(per_minute))


_Count = Annotated[int, BeforeValidator(_integer())]
_Bytes = Annotated[int, BeforeValidator(_integer(unit="bytes"))]
_Seconds = Annotated[float, BeforeValidator(_seconds())]
_SecondsOrZero = Annotated[float, BeforeValidator(_seconds(0))]
_LogLevel = Annotated[str, BeforeValidator(_one_of("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"))]
_LogFormat = Annotated[Literal["json", "text"], BeforeValidator(_one_of("json", "text"))]


def _variable(name: str, default: str = "") -> Any:
    return Field(default, alias=name, validate_default=True)


@final
class Settings(BaseSettings):
    """What a server is started with; `from_env` makes it. Raises BadSettings, once for all bad values.

    jwt_secret: of HS256 tokens, at least 32 bytes; takes the place of auth_domain.
    auth_domain: the host whose JSON Web Key Set verifies tokens.
    auth_audience, auth_issuer: what tokens must name.
    ping_interval, pong_timeout, idle_timeout, close_timeout, drain_window, drain_grace: seconds.
    compression_threshold, max_frame_size, frame_warn_threshold: bytes; max_frame_size is the limit of a message, too.
    max_connections, max_handshakes, max_handshakes_per_ip: None for no limit.
    requests_per_minute: upgrades, and messages, of a user of the tier free or of none.
    failed_auth_per_minute: invalid tokens of an address.
    origins: those of web pages that may connect, next to the server's own.
    allowed_hosts: those that requests may be for; none for all.
    trusted_proxies: networks.
    """

    model_config = SettingsConfigDict(case_sensitive=True, frozen=True, hide_input_in_errors=True)

    # The secret comes first, because what is said of the others depends on it.
    jwt_secret: Annotated[SecretBytes | None, BeforeValidator(_secret)] = _variable("JWT_SECRET")
    auth_domain: Annotated[str | None, BeforeValidator(_domain)] = _variable("SUPABASE_AUTH_DOMAIN")
    auth_audience: Annotated[str | None, BeforeValidator(_claim)] = _variable("SUPABASE_AUTH_AUDIENCE")
    auth_issuer: Annotated[str | None, BeforeValidator(_claim)] = _variable("SUPABASE_AUTH_ISSUER")
    port: Annotated[int, BeforeValidator(_integer(0, 65535))] = _variable("WEBSOCKET_PORT", "3001")
    path: Annotated[str, BeforeValidator(_path)] = _variable("WEBSOCKET_PATH", "/ws")
    ping_interval: _Seconds = _variable("PING_INTERVAL", "30000")
    pong_timeout: _Seconds = _variable("PONG_TIMEOUT", "5000")
    max_missed_pongs: _Count = _variable("MAX_MISSED_PONGS", "3")
    compression_enabled: Annotated[bool, BeforeValidator(_flag)] = _variable("COMPRESSION_ENABLED", "true")
    compression_level: Annotated[int, BeforeValidator(_integer(high=9))] = _variable("COMPRESSION_LEVEL", "6")
    compression_threshold: Annotated[int, BeforeValidator(_integer(0, unit="bytes"))] = _variable(
        "COMPRESSION_THRESHOLD", "1024"
    )
    max_frame_size: _Bytes = _variable("MAX_FRAME_SIZE", "1048576")
    frame_warn_threshold: _Bytes = _variable("FRAME_WARN_THRESHOLD", "524288")
    max_connections_per_user: _Count = _variable("MAX_CONNECTIONS_PER_USER", "3")
    max_connections: Annotated[int | None, BeforeValidator(_count_or_none)] = _variable("MAX_CONNECTIONS")
    max_handshakes: Annotated[int | None, BeforeValidator(_count_or_none)] = _variable("MAX_HANDSHAKES", "1000")
    max_handshakes_per_ip: Annotated[int | None, BeforeValidator(_count_or_none)] = _variable(
        "MAX_HANDSHAKES_PER_IP", "100"
    )
    requests_per_minute: _Count = _variable("RATE_LIMIT_REQUESTS_PER_MINUTE", "100")
    failed_auth_per_minute: _Count = _variable("RATE_LIMIT_FAILED_AUTH_PER_MINUTE", "10")
    origins: Annotated[tuple[str, ...], BeforeValidator(_origins)] = _variable("ALLOWED_ORIGINS")
    allowed_hosts: Annotated[tuple[str, ...], BeforeValidator(_hosts)] = _variable("ALLOWED_HOSTS")
    trusted_proxies: Annotated[tuple[str, ...], BeforeValidator(_networks)] = _variable("TRUSTED_PROXIES")
    idle_timeout: _Seconds = _variable("IDLE_TIMEOUT", "300000")
    close_timeout: _Seconds = _variable("CLOSE_TIMEOUT", "5000")
    drain_window: _SecondsOrZero = _variable("DRAIN_WINDOW", "10000")
    drain_grace: _SecondsOrZero = _variable("DRAIN_GRACE", "15000")
    log_level: _LogLevel = _variable("LOG_LEVEL", "INFO")
    log_format: _LogFormat = _variable("LOG_FORMAT", "json")

    _sources: dict[str, str] = PrivateAttr(default_factory=dict)

    def __init__(
        self,
        file: str | os.PathLike[str] | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        overrides: Mapping[str, str] | None = None,
    ) -> None:
        layers = {
            "file": {} if file is None else _read(file),
            "environment": os.environ if environ is None else environ,
            "option": overrides or {},
        }
        names = {str(field.alias) for field in type(self).model_fields.values()}
        if unknown := layers["option"].keys() - names:
            raise BadSettings([f"{name} is no variable of the settings" for name in sorted(unknown)])
        values: dict[str, Any] = {}
        sources: dict[str, str] = {}
        for source, variables in layers.items():
            for name in names & variables.keys():
                values[name], sources[name] = variables[name], source
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise BadSettings([_problem(each) for each in error.errors()]) from None
        self._sources.update(sources)

    @classmethod
    def from_env(
        cls,
        file: str | os.PathLike[str] | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        overrides: Mapping[str, str] | None = None,
    ) -> Settings:
        """Read the variables of the process, else of the dotenv `file`, else take the defaults.

        environ: in place of the variables of the process.
        overrides: values by the names of variables that win over all others, such as options of a command line.
        Raises BadSettings, also for a file that is not UTF-8, and OSError for one that cannot be read.
        """
        return cls(file, environ=environ, overrides=overrides)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take no source but ours: the others read JSON, and pass over a file that is missing."""
        return (init_settings,)

    @property
    def config(self) -> ConnectionConfig:
        """The settings of each connection."""
        compression = CompressionConfig(level=self.compression_level, threshold=self.compression_threshold)
        return ConnectionConfig(
            heartbeat=HeartbeatConfig(
                interval=self.ping_interval, timeout=self.pong_timeout, max_missed=self.max_missed_pongs
            ),
            limits=FrameLimits(
                max_frame_size=self.max_frame_size,
                max_message_size=self.max_frame_size,
                warn_threshold=self.frame_warn_threshold,
            ),
            compression=compression if self.compression_enabled else None,
            close=CloseConfig(timeout=self.close_timeout),
            idle_timeout=self.idle_timeout,
        )

    @property
    def admission(self) -> AdmissionConfig:
        """Who gets in and how often: the tiers free, premium and enterprise, and what one address may do."""
        free = _rates(self.requests_per_minute)
        return AdmissionConfig(
            max_connections=self.max_connections,
            max_connections_per_user=self.max_connections_per_user,
            max_handshakes=self.max_handshakes,
            max_handshakes_per_ip=self.max_handshakes_per_ip,
            failed_auth=RateLimit(self.failed_auth_per_minute),
            per_ip=Rates(upgrades=free.upgrades) if self.authenticates else free,
            per_user=free,
            tiers={
                "free": free,
                # Never less than what costs nothing.
                "premium": _rates(max(_PREMIUM, self.requests_per_minute)),
                "enterprise": _rates(max(_ENTERPRISE, self.requests_per_minute)),
            },
        )

    @property
    def proxies(self) -> TrustedProxies:
        """Whose word about a client's address counts."""
        return TrustedProxies(self.trusted_proxies)

    @property
    def authenticates(self) -> bool:
        """Whether there is anything that verifies tokens."""
        return self.jwt_secret is not None or self.auth_domain is not None

    def authenticator(self) -> JWTAuthenticator | None:
        """Return what verifies tokens, None where nothing is set for that."""
        if not self.authenticates:
            return None
        from wsconnkit.service.auth import JWTAuthenticator

        return JWTAuthenticator(
            secret=self.jwt_secret.get_secret_value() if self.jwt_secret else None,
            domain=self.auth_domain,
            audience=self.auth_audience,
            issuer=self.auth_issuer,
        )

    def describe(self) -> list[tuple[str, str, str]]:
        """Return each variable, its value in force, and where that is from; secrets are masked.

        It is from "default", "environment", "file" or "option".
        """
        return [
            (str(field.alias), _text_of(getattr(self, name)), self._sources.get(str(field.alias), "default"))
            for name, field in type(self).model_fields.items()
        ]


def _read(file: str | os.PathLike[str]) -> dict[str, str]:
    try:
        with open(file, encoding="utf-8-sig") as stream:
            # A name without a value has None there.
            return {name: value or "" for name, value in dotenv_values(stream=stream).items()}
    except UnicodeDecodeError:
        raise BadSettings([f"the file {os.fspath(file)!r} is not UTF-8"]) from None


def _problem(error: ErrorDetails) -> str:
    name, text = error["loc"][0], error["input"]
    value = f"{len(text.encode('utf-8', 'replace'))} bytes long" if name == "JWT_SECRET" else repr(text)
    return f"{name} is {value}; {error['ctx']['error']}"


def _text_of(value: object) -> str:
    """Return `value` as its variable would have it."""
    if isinstance(value, SecretBytes):
        return f"*** ({len(value)} bytes)"
    if isinstance(value, float):
        return str(round(value * 1000))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(value)
    return "" if value is None else str(value)
