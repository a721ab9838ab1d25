"""Why something failed, in a line for the terminal."""

from __future__ import annotations

import os
import socket
import ssl
from urllib.parse import parse_qsl, urlsplit

from wsconnkit.service.tokens import redact


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


def without_query(text: str, uri: str) -> str:
    """Return `text`, which came from the peer, with everything from the query of `uri` blotted out."""
    query = urlsplit(uri).query
    pairs = [pair.partition("=")[2] for pair in query.split("&")]
    values = [query, *pairs, *(value for _, value in parse_qsl(query))]
    return redact(text, values)
