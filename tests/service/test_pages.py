from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsconnkit.protocol.http import Response
from wsconnkit.protocol.serverhandshake import ServerHandshake
from wsconnkit.protocol.upgrade import HTTPRequest
from wsconnkit.service.pages import INTERNAL_ERROR, NO_WEBSOCKET, answer_page, check_response, no_page
from wsconnkit.service.policy import ServerPolicy

SETTINGS = settings(deadline=None)


def handshake_with(head: str) -> ServerHandshake:
    """Return a handshake that has received a request."""
    handshake = ServerHandshake(now=0.0, http=True)
    handshake.receive_data(f"{head}\r\nHost: example.org\r\n\r\n".encode("latin-1"), 0.0)
    return handshake


def request_of(target: str = "/healthz", *headers: str, method: str = "GET") -> HTTPRequest:
    """Return a request as it comes in."""
    request = handshake_with("\r\n".join([f"{method} {target} HTTP/1.1", *headers])).http_request
    assert request is not None
    return request


def page(target: str, *headers: str, method: str = "GET", is_draining: bool = False) -> Response | None:
    """Ask a server with metrics for a page."""
    policy: ServerPolicy[str] = ServerPolicy()
    policy.is_draining = is_draining

    def metrics(of: Any, accept: str | None) -> tuple[str, bytes]:
        assert of is policy
        return f"text/plain; accepted={accept}", b"connections 0\n"

    return answer_page(request_of(target, *headers, method=method), policy, metrics)


def read(response: Response | None) -> tuple[int, object]:
    """Return the status and the body of an answer in JSON."""
    assert response is not None
    assert response.headers.get("Content-Type") == "application/json"
    assert response.body.endswith(b"\n")
    return response.status, json.loads(response.body)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("target", ["/healthz", "/healthz?verbose=1", "http://example.org/healthz"])
def test_a_server_that_answers_is_healthy(target: str, method: str) -> None:
    assert read(page(target, method=method)) == (200, {"status": "ok"})


def test_a_server_is_ready_until_it_drains_and_healthy_even_then() -> None:
    assert read(page("/readyz")) == (200, {"status": "ready"})
    assert read(page("/readyz", is_draining=True)) == (503, {"status": "draining"})
    assert read(page("/healthz", is_draining=True)) == (200, {"status": "ok"})


@pytest.mark.parametrize("is_draining", [False, True])
@pytest.mark.parametrize("target", ["/healthz", "/readyz", "/metrics"])
def test_no_page_is_kept_by_a_cache(target: str, is_draining: bool) -> None:
    answer = page(target, is_draining=is_draining)
    assert answer is not None
    assert answer.headers.get("Cache-Control") == "no-store"


@pytest.mark.parametrize(
    ("headers", "accept"),
    [
        ([], None),
        (["Accept: text/plain"], "text/plain"),
        (["Accept: text/plain", "accept: application/openmetrics-text"], "text/plain, application/openmetrics-text"),
    ],
)
def test_metrics_are_made_as_the_scrape_accepts_them_also_while_draining(
    headers: list[str], accept: str | None
) -> None:
    answer = page("/metrics", *headers, is_draining=True)
    assert answer is not None
    assert (answer.status, answer.body) == (200, b"connections 0\n")
    assert answer.headers.get("Content-Type") == f"text/plain; accepted={accept}"


def test_without_what_makes_metrics_there_is_no_such_page() -> None:
    assert answer_page(request_of("/metrics"), ServerPolicy(), None) is None
    assert answer_page(request_of("/metrics", method="POST"), ServerPolicy(), None) is None
    assert read(answer_page(request_of("/healthz"), ServerPolicy(), None)) == (200, {"status": "ok"})


def guarded(target: str, *headers: str) -> Response | None:
    """Ask a server whose metrics want a token for a page."""
    return answer_page(request_of(target, *headers), ServerPolicy(), lambda _, accept: ("text/plain", b"0\n"), "s3cret")


@pytest.mark.parametrize("header", ["Authorization: Bearer s3cret", "authorization: bearer  s3cret "])
def test_metrics_that_want_a_token_are_for_who_has_it(header: str) -> None:
    answer = guarded("/metrics", header)
    assert answer is not None
    assert (answer.status, answer.body) == (200, b"0\n")


@pytest.mark.parametrize(
    "header",
    [
        "X-Other: s3cret",
        "Authorization: s3cret",
        "Authorization: Bearer",
        "Authorization: Bearer s3cre",
        "Authorization: Bearer s3cret2",
        "Authorization: Basic s3cret",
        "Authorization: Bearer \xe9",
    ],
)
def test_metrics_that_want_a_token_are_for_nobody_else(header: str) -> None:
    for target in ("/metrics", "/metrics?token=s3cret"):
        answer = guarded(target, header)
        assert read(answer) == (401, {"error": "this page is for those who have its token"})
        assert answer is not None
        assert answer.headers.get("WWW-Authenticate") == "Bearer"


def test_probes_need_no_token() -> None:
    assert read(guarded("/healthz"))[0] == read(guarded("/readyz"))[0] == 200


@pytest.mark.parametrize("target", ["/", "/ws", "/healthz/", "/HEALTHZ", "/health", "//healthz", "/%68ealthz"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_other_paths_are_no_pages(target: str, method: str) -> None:
    assert page(target, method=method) is None


@pytest.mark.parametrize("target", ["/healthz", "/readyz", "/metrics"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "get"])
def test_pages_are_read_only(target: str, method: str) -> None:
    answer = page(target, method=method)
    assert read(answer) == (405, {"error": f"the method is {method}; this page is for GET"})
    assert answer is not None
    assert answer.headers.get("Allow") == "GET, HEAD"


@pytest.mark.parametrize("target", ["/healthz", "/readyz", "/metrics"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_pages_can_be_sent(target: str, method: str) -> None:
    handshake = handshake_with(f"{method} {target} HTTP/1.1")
    answer = page(target, method=method)
    assert answer is not None
    handshake.respond(answer)
    head, _, body = handshake.data_to_send().partition(b"\r\n\r\n")
    assert f"Content-Length: {len(answer.body)}".encode() in head
    assert body == (b"" if method == "HEAD" else answer.body)


def test_at_the_path_of_the_websocket_it_is_said_what_is_there() -> None:
    for answer in (no_page(request_of("/ws"), "/ws"), no_page(request_of("/ws?token=x"), "/ws")):
        assert read(answer) == (426, {"error": "this is a WebSocket endpoint"})
        assert answer.headers.get("Upgrade") == "websocket"
    posted = no_page(request_of("/ws", method="POST"), "/ws")
    assert (posted.status, posted.headers.get("Allow")) == (405, "GET")


def test_elsewhere_there_is_nothing() -> None:
    for method in ("GET", "POST"):
        answer = no_page(request_of("/favicon.ico", method=method), "/ws")
        assert read(answer) == (404, {"error": "there is nothing at this path"})


def test_a_websocket_without_a_path_is_everywhere() -> None:
    assert no_page(request_of("/favicon.ico"), None).status == 426


@pytest.mark.parametrize(("answer", "status"), [(INTERNAL_ERROR, 500), (NO_WEBSOCKET, 404)])
def test_the_answers_that_are_always_the_same_can_be_sent(answer: Response, status: int) -> None:
    assert read(answer)[0] == status
    handshake = handshake_with("GET / HTTP/1.1")
    handshake.respond(answer)
    assert handshake.response is answer


targets = st.sampled_from(
    ["/", "/ws", "/healthz", "/readyz", "/metrics", "http://example.org/ws", "*", "example.org:1"]
)
headers = st.sampled_from(
    [
        "Connection: Upgrade",
        "Connection: close",
        "Upgrade: h2c",
        "Upgrade: websocket",
        "Upgrade: WebSocket, h2c",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Content-Length: 5",
        "Accept: */*",
    ]
)


@SETTINGS
@given(
    st.sampled_from(["GET", "HEAD", "POST", "CONNECT", "OPTIONS"]),
    targets | st.text("/wshealtz?%.:*", min_size=1, max_size=12),
    st.sampled_from(["1.1", "1.0"]),
    st.lists(headers, max_size=4, unique_by=lambda header: header.partition(":")[0]),
    st.sampled_from([None, "/ws"]),
)
def test_every_request_that_is_no_upgrade_has_an_answer_that_can_be_sent(
    method: str, target: str, version: str, lines: list[str], path: str | None
) -> None:
    handshake = handshake_with("\r\n".join([f"{method} {target} HTTP/{version}", *lines]))
    request = handshake.http_request
    if request is None:
        return  # an upgrade, or refused by the handshake
    policy: ServerPolicy[str] = ServerPolicy()
    answer = answer_page(request, policy, lambda _, accept: (str(accept), b"")) or no_page(request, path)
    handshake.respond(answer)
    assert handshake.response is answer
    assert policy.stats.refused == {}


def test_what_the_application_returns_must_be_a_response() -> None:
    check_response(Response(200))
    with pytest.raises(TypeError, match="http returned str; it must be a Response or None"):
        check_response("text")
