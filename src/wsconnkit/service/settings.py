"""The settings of a server from environment variables and a dotenv file. It needs the extra `settings`."""

from __future__ import annotations

import os
import re
import ssl as ssl_module
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, final

from pydantic import BeforeValidator, Field, PrivateAttr, SecretBytes, ValidationError, ValidationInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from typing_extensions import TypedDict

from wsconnkit.machines.framesize import FrameLimits
from wsconnkit.machines.heartbeat import HeartbeatConfig
from wsconnkit.machines.ratelimit import RateLimit
from wsconnkit.protocol.config import CloseConfig, ConnectionConfig, HandshakeLimits
from wsconnkit.protocol.deflate import CompressionConfig
from wsconnkit.protocol.proxy import authority
from wsconnkit.service.admission import AdmissionConfig, Rates
from wsconnkit.service.drain import DrainConfig
from wsconnkit.service.hosts import AllowedHosts
from wsconnkit.service.origins import Origins
from wsconnkit.service.proxies import TrustedProxies
from wsconnkit.service.serveoptions import METRICS_TOKEN, is_metrics_token
from wsconnkit.service.settingsfile import read_settings_file
from wsconnkit.service.variables import (
    OFF,
    integer,
    list_of,
    one_of,
    or_off,
    parse_endpoints,
    parse_file,
    parse_flag,
    parse_host,
    parse_path,
    seconds,
)

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

    from wsconnkit.service.auth import JWTAuthenticator

_DEFAULT_FILE = Path(".env")
_SECRETS = ("JWT_SECRET", "METRICS_TOKEN")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?")
_PREMIUM, _ENTERPRISE = 300, 1000
"""Requests a minute."""
_LIKENESS = 0.85
"""Of the name of a variable to one of ours, from which it may be meant for that."""
_MISTAKABLE = {"ms": (20, "seconds"), "bytes": (2000, "KiB or MiB")}
"""By unit, how many times smaller than the default a value is if it was meant in another unit, and in which."""


class BadSettings(ValueError):
    """Values that are not allowed; `problems` names each variable, its value and what is allowed."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(self.problems)


class Setting(NamedTuple):
    """A variable, its value in force, where that is from, and its unit: "ms", "bytes", or "" for none.

    source: "default", "environment", "file" or "option".
    """

    variable: str
    value: str
    source: str
    unit: str


class SettingsArguments(TypedDict):
    """The keyword arguments of `serve` that settings give."""

    host: str
    port: int
    path: str
    ssl: ssl_module.SSLContext | None
    config: ConnectionConfig
    authenticate: JWTAuthenticator | None
    reauthenticate: bool
    origins: tuple[str, ...]
    allowed_hosts: tuple[str, ...] | None
    proxies: TrustedProxies
    admission: AdmissionConfig
    drain: DrainConfig
    endpoints: bool | tuple[str, int]
    metrics_token: str | None


# What depends on other variables, or is a secret. Where nothing verifies tokens unless it is set, only an empty text
# sets nothing: one of spaces must not let everyone in.


def _count_or_none(text: str) -> int | None:
    return or_off(integer())(text) if text.strip() else None


def _key_file(text: str, info: ValidationInfo) -> str | None:
    if text.strip() and not _may_be_set(info, "tls_cert_file"):
        raise ValueError("it must not be set without TLS_CERT_FILE: the key of a certificate")
    return parse_file(text)


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


def _metrics_token(text: str) -> SecretBytes | None:
    if not text:
        return None
    if not is_metrics_token(text):
        raise ValueError(f"it must be {METRICS_TOKEN}")
    return SecretBytes(text.encode())


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


_origins = list_of("origins such as 'https://example.org', 'file://' or 'null'", Origins)
_hosts = list_of("hosts such as 'example.org' or '*.example.org', without a port", AllowedHosts)
_networks = list_of(
    "addresses, networks such as '10.0.0.0/8' with no bits set behind the prefix, or 'unix'", TrustedProxies
)


def _rates(per_minute: int | None) -> Rates:
    limit = None if per_minute is None else RateLimit(per_minute)
    return Rates(upgrades=limit, messages=limit)


# A text in the annotation is the unit of the variable.
_Count = Annotated[int, BeforeValidator(integer())]
_CountOrOff = Annotated[int | None, BeforeValidator(or_off(integer()))]
_Bytes = Annotated[int, BeforeValidator(integer(unit="bytes")), "bytes"]
_Seconds = Annotated[float, BeforeValidator(seconds()), "ms"]
_SecondsOrZero = Annotated[float, BeforeValidator(seconds(0)), "ms"]
_SecondsOrOff = Annotated[float | None, BeforeValidator(or_off(seconds())), "ms"]
_LogLevel = Annotated[str, BeforeValidator(one_of("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"))]
_LogFormat = Annotated[Literal["json", "text"], BeforeValidator(one_of("json", "text"))]


def _variable(name: str, default: str = "") -> Any:
    return Field(default, alias=name, validate_default=True)


@final
class Settings(BaseSettings):
    """What a server is started with; `from_env` makes it. Raises BadSettings, once for all bad values.

    jwt_secret: of HS256 tokens, at least 32 bytes; takes the place of auth_domain.
    auth_domain: the host whose JSON Web Key Set verifies tokens.
    auth_audience, auth_issuer: what tokens must name.
    endpoints: of `serve`: where /healthz, /readyz and /metrics are.
    metrics_token: what those must bring who read /metrics; None for nothing.
    handshake_timeout, ping_interval, pong_timeout, idle_timeout, close_timeout, drain_window, drain_grace: seconds;
        ping_interval is None for no heartbeat, idle_timeout for no such limit.
    max_header_size, max_head_size: bytes of one header, or the target, and of all together.
    compression_threshold, max_frame_size, frame_warn_threshold: bytes; max_frame_size is the limit of a message, too.
    max_connections, max_connections_per_user, max_handshakes, max_handshakes_per_ip, requests_per_minute,
        failed_auth_per_minute: None for no limit.
    requests_per_minute: upgrades, and messages, of a user of the tier free or of none.
    failed_auth_per_minute: invalid tokens of an address.
    origins: those of web pages that may connect, next to the server's own.
    allowed_hosts: those that requests may be for; none for all.
    trusted_proxies: networks.
    """

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        case_sensitive=True, frozen=True, hide_input_in_errors=True
    )

    # The secret comes first, because what is said of the others depends on it.
    jwt_secret: Annotated[SecretBytes | None, BeforeValidator(_secret)] = _variable("JWT_SECRET")
    auth_domain: Annotated[str | None, BeforeValidator(_domain)] = _variable("SUPABASE_AUTH_DOMAIN")
    auth_audience: Annotated[str | None, BeforeValidator(_claim)] = _variable("SUPABASE_AUTH_AUDIENCE")
    auth_issuer: Annotated[str | None, BeforeValidator(_claim)] = _variable("SUPABASE_AUTH_ISSUER")
    host: Annotated[str, BeforeValidator(parse_host)] = _variable("WEBSOCKET_HOST", "127.0.0.1")
    port: Annotated[int, BeforeValidator(integer(0, 65535))] = _variable("WEBSOCKET_PORT", "3001")
    path: Annotated[str, BeforeValidator(parse_path)] = _variable("WEBSOCKET_PATH", "/ws")
    tls_cert_file: Annotated[str | None, BeforeValidator(parse_file)] = _variable("TLS_CERT_FILE")
    tls_key_file: Annotated[str | None, BeforeValidator(_key_file)] = _variable("TLS_KEY_FILE")
    endpoints: Annotated[bool | tuple[str, int], BeforeValidator(parse_endpoints)] = _variable("METRICS_ADDRESS")
    metrics_token: Annotated[SecretBytes | None, BeforeValidator(_metrics_token)] = _variable("METRICS_TOKEN")
    handshake_timeout: _Seconds = _variable("HANDSHAKE_TIMEOUT", "10000")
    max_headers: _Count = _variable("MAX_HEADERS", "128")
    max_header_size: _Bytes = _variable("MAX_HEADER_SIZE", "8192")
    max_head_size: _Bytes = _variable("MAX_HEAD_SIZE", "32768")
    ping_interval: _SecondsOrOff = _variable("PING_INTERVAL", "30000")
    pong_timeout: _Seconds = _variable("PONG_TIMEOUT", "5000")
    max_missed_pongs: _Count = _variable("MAX_MISSED_PONGS", "3")
    compression_enabled: Annotated[bool, BeforeValidator(parse_flag)] = _variable("COMPRESSION_ENABLED", "true")
    compression_level: Annotated[int, BeforeValidator(integer(high=9))] = _variable("COMPRESSION_LEVEL", "6")
    compression_threshold: Annotated[int, BeforeValidator(integer(0, unit="bytes")), "bytes"] = _variable(
        "COMPRESSION_THRESHOLD", "1024"
    )
    max_frame_size: _Bytes = _variable("MAX_FRAME_SIZE", "1048576")
    frame_warn_threshold: _Bytes = _variable("FRAME_WARN_THRESHOLD", "524288")
    max_connections_per_user: _CountOrOff = _variable("MAX_CONNECTIONS_PER_USER", "3")
    max_connections: Annotated[int | None, BeforeValidator(_count_or_none)] = _variable("MAX_CONNECTIONS")
    max_handshakes: _CountOrOff = _variable("MAX_HANDSHAKES", "1000")
    max_handshakes_per_ip: _CountOrOff = _variable("MAX_HANDSHAKES_PER_IP", "100")
    requests_per_minute: _CountOrOff = _variable("RATE_LIMIT_REQUESTS_PER_MINUTE", "100")
    failed_auth_per_minute: _CountOrOff = _variable("RATE_LIMIT_FAILED_AUTH_PER_MINUTE", "10")
    origins: Annotated[tuple[str, ...], BeforeValidator(_origins)] = _variable("ALLOWED_ORIGINS")
    allowed_hosts: Annotated[tuple[str, ...], BeforeValidator(_hosts)] = _variable("ALLOWED_HOSTS")
    trusted_proxies: Annotated[tuple[str, ...], BeforeValidator(_networks)] = _variable("TRUSTED_PROXIES")
    idle_timeout: _SecondsOrOff = _variable("IDLE_TIMEOUT", "300000")
    close_timeout: _Seconds = _variable("CLOSE_TIMEOUT", "5000")
    drain_window: _SecondsOrZero = _variable("DRAIN_WINDOW", "10000")
    drain_grace: _SecondsOrZero = _variable("DRAIN_GRACE", "15000")
    log_level: _LogLevel = _variable("LOG_LEVEL", "INFO")
    log_format: _LogFormat = _variable("LOG_FORMAT", "json")

    _sources: dict[str, str] = PrivateAttr(default_factory=dict)
    _strangers: dict[str, str] = PrivateAttr(default_factory=dict)
    """Where each variable is from that is none of ours."""

    def __init__(
        self,
        file: str | os.PathLike[str] | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        overrides: Mapping[str, str] | None = None,
    ) -> None:
        variables_of_file, problems = ({}, []) if file is None else read_settings_file(file)
        layers = {
            "file": variables_of_file,
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
            raise BadSettings([*problems, *map(_problem, error.errors())]) from None
        if problems:
            raise BadSettings(problems)
        self._sources.update(sources)
        for source in ("file", "environment"):
            self._strangers.update(dict.fromkeys(layers[source].keys() - names, source))

    @classmethod
    def from_env(
        cls,
        file: str | os.PathLike[str] | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        overrides: Mapping[str, str] | None = None,
    ) -> Settings:
        """Read the variables of the process, else of the dotenv `file`, else take the defaults.

        `Settings(...)` does the same, but reads no file that it is not given.

        file: None for `.env` in the working directory, if there is one.
        environ: in place of the variables of the process.
        overrides: values by the names of variables that win over all others, such as options of a command line.
        Raises BadSettings, also for a file that is not UTF-8 or has lines that are no settings, and OSError for one
        that cannot be read.
        """
        if (
            file is None and _DEFAULT_FILE.exists() and not _DEFAULT_FILE.is_dir()
        ):  # some have a virtual environment there
            file = _DEFAULT_FILE
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
            heartbeat=None
            if self.ping_interval is None
            else HeartbeatConfig(
                interval=self.ping_interval, timeout=self.pong_timeout, max_missed=self.max_missed_pongs
            ),
            limits=FrameLimits(
                max_frame_size=self.max_frame_size,
                max_message_size=self.max_frame_size,
                warn_threshold=self.frame_warn_threshold,
            ),
            compression=compression if self.compression_enabled else None,
            close=CloseConfig(timeout=self.close_timeout),
            handshake=HandshakeLimits(
                timeout=self.handshake_timeout,
                max_line=self.max_header_size,
                max_headers=self.max_headers,
                max_head=self.max_head_size,
            ),
            idle_timeout=self.idle_timeout,
        )

    @property
    def admission(self) -> AdmissionConfig:
        """Who gets in and how often: the tiers free, premium and enterprise, and what one address may do."""
        requests, failures = self.requests_per_minute, self.failed_auth_per_minute
        free = _rates(requests)
        return AdmissionConfig(
            max_connections=self.max_connections,
            max_connections_per_user=self.max_connections_per_user,
            max_handshakes=self.max_handshakes,
            max_handshakes_per_ip=self.max_handshakes_per_ip,
            failed_auth=None if failures is None else RateLimit(failures),
            per_ip=Rates(upgrades=free.upgrades) if self.authenticates else free,
            per_user=free,
            tiers={
                "free": free,
                # Never less than what costs nothing.
                "premium": _rates(requests and max(_PREMIUM, requests)),
                "enterprise": _rates(requests and max(_ENTERPRISE, requests)),
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

    def serve_arguments(self) -> SettingsArguments:
        """Return the keyword arguments of `serve`: `serve(handler, **settings.serve_arguments(), metrics=…)`.

        Without anything that verifies tokens, everyone is let in. Raises BadSettings as `ssl_context` does.
        """
        return {
            "host": self.host,
            "port": self.port,
            "path": self.path,
            "ssl": self.ssl_context(),
            "config": self.config,
            "authenticate": self.authenticator(),
            "reauthenticate": self.authenticates,
            "origins": self.origins,
            "allowed_hosts": self.allowed_hosts or None,
            "proxies": self.proxies,
            "admission": self.admission,
            "drain": DrainConfig(window=self.drain_window, grace=self.drain_grace),
            "endpoints": self.endpoints,
            "metrics_token": self.metrics_token.get_secret_value().decode() if self.metrics_token else None,
        }

    def ssl_context(self) -> ssl_module.SSLContext | None:
        """Return what TLS is served with, None without. Raises BadSettings for files that cannot be used for it."""
        if self.tls_cert_file is None:
            return None
        for variable, file in (("TLS_CERT_FILE", self.tls_cert_file), ("TLS_KEY_FILE", self.tls_key_file)):
            try:
                if file is not None:
                    open(file, "rb").close()
            except OSError as error:
                raise BadSettings([f"{variable} is {file!r}; it cannot be read: {error.strerror}"]) from None
        context = ssl_module.create_default_context(ssl_module.Purpose.CLIENT_AUTH)
        try:
            # Without a password, OpenSSL would ask for one.
            context.load_cert_chain(self.tls_cert_file, self.tls_key_file, password="")
        except ssl_module.SSLError as error:
            reason = (error.reason or "no PEM in it").replace("_", " ").lower()
            raise BadSettings(
                [
                    f"TLS_CERT_FILE is {self.tls_cert_file!r}; it must be a certificate in PEM, with its key without a "
                    f"password in the same file or in TLS_KEY_FILE: {reason}"
                ]
            ) from None
        return context

    def describe(self) -> list[Setting]:
        """Return each variable; secrets are masked."""
        return [
            Setting(
                str(field.alias),
                _text_of(getattr(self, name), field),
                self._sources.get(str(field.alias), "default"),
                _unit_of(field),
            )
            for name, field in type(self).model_fields.items()
        ]

    def warnings(self) -> list[str]:
        """Return what is allowed, but looks like a mistake."""
        return [*self._misspelt(), *self._in_other_units(), *self._without_effect()]

    def _misspelt(self) -> Iterator[str]:
        free = {str(field.alias) for field in type(self).model_fields.values()} - self._sources.keys()
        for name, source in sorted(self._strangers.items()):
            for meant in get_close_matches(name.upper(), free, 1, _LIKENESS):
                yield f"{name}, from the {source}, is no variable of the settings; did you mean {meant}?"

    def _in_other_units(self) -> Iterator[str]:
        for name, field in type(self).model_fields.items():
            variable, unit = str(field.alias), _unit_of(field)
            text = _text_of(getattr(self, name), field)
            if variable in self._sources and unit and text.isdecimal():
                ratio, other = _MISTAKABLE[unit]
                if 0 < int(text) * ratio < int(field.default):
                    default = f"The default is {field.default} {unit}"
                    yield f"{variable} is {text} {unit}; did you mean {text} {other}? {default}"

    def _without_effect(self) -> Iterator[str]:
        if self.frame_warn_threshold > self.max_frame_size and "FRAME_WARN_THRESHOLD" in self._sources:
            yield "FRAME_WARN_THRESHOLD is over MAX_FRAME_SIZE, so no frame is ever warned of"


def _problem(error: ErrorDetails) -> str:
    name, text = error["loc"][0], error["input"]
    value = f"{len(text.encode('utf-8', 'replace'))} bytes long" if name in _SECRETS else repr(text)
    return f"{name} is {value}; {error['ctx']['error']}"


def _unit_of(field: FieldInfo) -> str:
    return next((unit for unit in field.metadata if isinstance(unit, str)), "")


def _text_of(value: object, field: FieldInfo) -> str:
    """Return `value` as its variable would have it."""
    if field.alias == "METRICS_ADDRESS":
        return authority(*value) if isinstance(value, tuple) else "" if value else OFF
    if isinstance(value, SecretBytes):
        return f"*** ({len(value)} bytes)"
    if isinstance(value, float):
        return str(round(value * 1000))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(value)
    if value is None:
        return OFF if field.default else ""
    return str(value)
