"""The pages of a server for those who watch it: /healthz, /readyz and /metrics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from hmac import compare_digest
from typing import Any

from wsconnkit.protocol.http import Headers, Response
from wsconnkit.protocol.upgrade import HTTPRequest, check_upgrade, refusal
from wsconnkit.service.policy import ServerPolicy
from wsconnkit.service.tokens import BEARER

MetricsText = Callable[[Any, "str | None"], tuple[str, bytes]]
"""Called with a `ServerPolicy` and the Accept header of a scrape; returns the content type and the text."""
AnswerHTTP = Callable[[HTTPRequest], Awaitable["Response | None"]]
"""Called with a request that asks for no WebSocket and no page of ours; None says that there is nothing at its path."""

INTERNAL_ERROR = refusal(500, "internal error")
"""The answer where the application raised."""
NO_WEBSOCKET = refusal(404, "there is no WebSocket here")
"""The answer to an upgrade where there are only pages."""


def answer_page(
    request: HTTPRequest, policy: ServerPolicy[Any], metrics: MetricsText | None, metrics_token: str | None = None
) -> Response | None:
    """Return the page that `request` asks for, None where it asks for no page of ours.

    metrics: makes the text of /metrics, which without it is no page.
    metrics_token: what a request for it must bring as `Authorization: Bearer`, None for nothing.
    """
    if request.path not in ("/healthz", "/readyz", "/metrics") or (request.path == "/metrics" and metrics is None):
        return None
    if request.method not in ("GET", "HEAD"):
        return refusal(405, f"the method is {request.method}; this page is for GET", {"Allow": "GET, HEAD"})
    if request.path == "/healthz":
        return _status_page(200, "ok")
    if request.path == "/readyz":
        return _status_page(503, "draining") if policy.is_draining else _status_page(200, "ready")
    if metrics_token is not None and not _has_token(request, metrics_token):
        return refusal(401, "this page is for those who have its token", {"WWW-Authenticate": "Bearer"})
    assert metrics is not None  # or it would be no page
    content_type, text = metrics(policy, request.headers.get("Accept"))
    return Response(200, Headers({"Content-Type": content_type, "Cache-Control": "no-store"}), text)


def check_response(response: object) -> None:
    """Raise TypeError when what the application returned is no Response."""
    if not isinstance(response, Response):
        raise TypeError(f"http returned {type(response).__name__}; it must be a Response or None")


def no_page(request: HTTPRequest, path: str | None) -> Response:
    """Return the response to a request for no page: as for a bad upgrade where the WebSocket is, and 404 elsewhere.

    path: that of the WebSocket, None when it is everywhere.
    """
    if path is not None and request.path != path:
        return refusal(404, "there is nothing at this path")
    checked = check_upgrade(request.method, request.target, "1.1", request.headers)
    assert isinstance(checked, Response)  # or it would be an upgrade
    return checked


def _has_token(request: HTTPRequest, token: str) -> bool:
    scheme, _, credentials = (request.headers.get("Authorization") or "").partition(" ")
    return scheme.lower() == BEARER and compare_digest(credentials.strip().encode("utf-8", "replace"), token.encode())


def _status_page(status: int, text: str) -> Response:
    headers = Headers({"Content-Type": "application/json", "Cache-Control": "no-store"})
    return Response(status, headers, b'{"status": "%s"}\n' % text.encode())
