from __future__ import annotations

import errno
import os
import socket
import ssl

import pytest

from wsconnkit.cli.failure import os_error_text, secrets_in
from wsconnkit.service.tokens import redact

URI = "ws://carol:pass%40word@host/ws?token=s3cr%2Bet&v=1&user=alice"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('::1', 1)"), os.strerror(errno.ECONNREFUSED)),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "Name or service not known"),
        (OSError("Multiple exceptions: one, two"), "Multiple exceptions: one, two"),
        (ConnectionAbortedError(), "ConnectionAbortedError"),
        (ssl.SSLError(1, "[SSL] it failed"), "TLS failed: [ssl] it failed"),
        (UnicodeError("label too long"), "the host's name is not a valid one"),
    ],
)
def test_an_error_is_told_without_numbers(error: OSError | UnicodeError, text: str) -> None:
    assert os_error_text(error) == text


def test_a_certificate_is_told_by_what_is_wrong_with_it() -> None:
    error = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed")
    error.verify_message = "self-signed certificate"
    assert os_error_text(error) == "the server's certificate is not valid: self-signed certificate"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no such user alice", "no such user ***"),
        ("bad token s3cr%2Bet", "bad token ***"),
        ("bad token s3cr+et", "bad token ***"),
        ("GET /ws?token=s3cr%2Bet&v=1&user=alice HTTP/1.1", "GET /ws?*** HTTP/1.1"),
        ("no such user carol with pass@word", "no such user *** with ***"),
        ("HTTP 401", "HTTP 401"),
    ],
)
def test_values_from_the_query_and_the_user_are_blotted_out(text: str, shown: str) -> None:
    assert redact(text, secrets_in(URI)) == shown


def test_a_uri_without_either_hides_nothing() -> None:
    assert redact("anything", secrets_in("ws://host/")) == "anything"
