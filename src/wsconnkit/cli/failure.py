"""Why something failed, in a line for the terminal."""

from __future__ import annotations

import os
import socket
import ssl
from urllib.parse import parse_qsl, unquote, urlsplit


def os_error_text(error: OSError | UnicodeError) -> str:
    """Return what the operating system says, without numbers and addresses."""
    if isinstance(error, UnicodeError):
        return "the host's name is not a valid one"  # it cannot be encoded for DNS
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is not valid: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        reason = getattr(error, "reason", None) or error.strerror or str(error)
        return f"TLS failed: {reason.replace('_', ' ').lower()}"
    if isinstance(error, socket.gaierror) or not error.errno:
        return error.strerror or str(error) or type(error).__name__
    return os.strerror(error.errno)


def secrets_in(uri: str) -> list[str]:
    """Return everything from the user and the query of `uri`, which the peer may repeat, for `redact`."""
    parts = urlsplit(uri)
    pairs = [pair.partition("=")[2] for pair in parts.query.split("&")]
    given = [parts.query, *pairs, *(value for _, value in parse_qsl(parts.query))]
    return [*given, *(unquote(part) for part in parts.netloc.rpartition("@")[0].split(":"))]
