"""What RFC 9110 and RFC 9112 ask of us: which rule applies, and which test holds it.

All MUSTs and SHOULDs for an origin server's responses, a user agent's requests and for what a recipient reads have
been gone through. Those for proxies, caches, ranges, preconditions, content codings, trailers, redirects and bodies of
requests do not apply: we have none of them, or the application has, which makes the responses of `http=`.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import NamedTuple

import pytest

from .handshakes import connect, request, response, serve

TESTS = Path(__file__).parents[1]


class Rule(NamedTuple):
    """A rule of one of the RFCs, and where it is held."""

    section: str
    level: str
    words: str
    held: str
    """The test that holds it, or, behind "no: ", why we do otherwise."""


SERVER = "protocol/test_serverhandshake.py::"
CLIENT = "protocol/test_clienthandshake.py::"
UPGRADE = "protocol/test_upgrade.py::"
BOTH = "protocol/test_handshake.py::"
REFUSES = SERVER + "test_server_refuses_with_a_complete_response"
UNUSUAL = SERVER + "test_server_takes_requests_that_look_unusual"
WHOLE = "asyncio/test_refusals.py::test_a_refusal_is_whole_whatever_was_sent_behind_the_request"

RULES = [
    # What a server puts into a response.
    Rule(
        "9112, 4",
        "MUST",
        "a space before the reason, also where that is absent",
        SERVER + "test_reject_sends_the_response_that_is_given",
    ),
    Rule(
        "9112, 4",
        "MAY",
        "a reason, without which some clients take no 101",
        SERVER + "test_server_answers_the_example_of_the_rfc",
    ),
    Rule(
        "9112, 2.2",
        "MUST NOT",
        "a bare CR, or a line break in a header",
        SERVER + "test_headers_that_http_forbids_are_refused_by_accept_which_then_still_works",
    ),
    Rule(
        "9112, 5.2",
        "MUST NOT",
        "a folded line",
        SERVER + "test_responses_that_http_forbids_are_refused_by_reject_and_accept_then_still_works",
    ),
    Rule(
        "9112, 6.1",
        "MUST NOT",
        "Transfer-Encoding with 1xx, 204, or for HTTP/1.0",
        SERVER + "test_a_204_with_a_length_is_not_sent",
    ),
    Rule("9112, 6.3", "SHOULD", "a length wherever possible", REFUSES),
    Rule("9112, 9.3", "MUST", "close in each response that is no 1xx, as we answer one request", REFUSES),
    Rule("9112, 9.6", "MUST", "an end of the connection behind it, in which the response is not lost", WHOLE),
    Rule(
        "9112, 9.6",
        "MUST NOT",
        "an answer to what follows on that connection",
        SERVER + "test_after_a_refusal_nothing_more_is_read_or_accepted",
    ),
    Rule(
        "9112, 9.8",
        "MUST",
        "a closure alert before the end of TLS",
        "tls/test_ends.py::test_a_refusal_ends_with_a_closure_alert",
    ),
    Rule(
        "9112, 9.5",
        "SHOULD",
        "a graceful close on a timeout",
        SERVER + "test_a_client_that_never_finishes_its_request_is_told_so",
    ),
    Rule(
        "9110, 5.3",
        "MUST NOT",
        "a second line of a header that is no list",
        SERVER + "test_a_date_that_was_given_is_sent_as_it_is",
    ),
    Rule("9110, 5.6.7", "MUST", "dates as IMF-fixdate", SERVER + "test_a_server_with_a_clock_dates_its_responses"),
    Rule(
        "9110, 6.2",
        "SHOULD",
        "HTTP/1.1, also to HTTP/1.0",
        SERVER + "test_a_request_for_something_else_can_be_answered",
    ),
    Rule(
        "9110, 6.6.1",
        "MUST",
        "Date in 2xx, 3xx and 4xx, with a clock",
        SERVER + "test_a_server_with_a_clock_dates_its_responses",
    ),
    Rule("9110, 6.6.1", "MUST NOT", "Date without a clock", SERVER + "test_a_server_without_a_clock_sends_no_date"),
    Rule("9110, 7.8", "MUST", "Upgrade in a 101", SERVER + "test_server_answers_the_example_of_the_rfc"),
    Rule(
        "9110, 7.8",
        "MUST NOT",
        "a switch to what the client has not named",
        UPGRADE + "test_check_upgrade_refuses_what_asks_for_no_websocket_or_wrongly",
    ),
    Rule(
        "9110, 7.8",
        "MUST",
        "Upgrade named in Connection wherever it is sent",
        SERVER + "test_who_names_upgrade_in_a_response_says_that_it_is_for_this_hop",
    ),
    Rule(
        "9110, 7.8",
        "MUST",
        "100 before 101 where the client waits for it",
        SERVER + "test_a_client_that_waits_for_a_word_before_it_goes_on_gets_it_before_the_switch",
    ),
    Rule("9110, 8.3", "SHOULD", "Content-Type for content", REFUSES),
    Rule(
        "9110, 8.6",
        "MUST NOT",
        "Content-Length with 1xx, 204",
        SERVER + "test_a_status_without_a_body_is_sent_without_a_length",
    ),
    Rule(
        "9110, 8.6",
        "MUST NOT",
        "another Content-Length to HEAD or with 304 than to GET or with 200",
        SERVER + "test_an_answer_to_head_is_that_to_get_without_the_body",
    ),
    Rule("9110, 8.6", "SHOULD", "Content-Length where the size is known", SERVER + "test_reject_needs_no_body"),
    Rule(
        "9110, 8.6",
        "MUST NOT",
        "Content-Length in a 2xx to CONNECT",
        UPGRADE + "test_no_tunnel_is_asked_of_the_application",
    ),
    Rule(
        "9110, 9.3.2", "MUST NOT", "content to HEAD", SERVER + "test_an_answer_to_head_is_that_to_get_without_the_body"
    ),
    Rule(
        "9110, 9.3.2",
        "SHOULD",
        "the same headers to HEAD as to GET",
        "asyncio/test_http.py::test_a_head_is_the_same_without_the_body_and_other_methods_are_refused",
    ),
    Rule(
        "9110, 10.2.1",
        "MUST",
        "Allow in a 405",
        SERVER + "test_a_405_says_which_methods_there_are",
    ),
    Rule(
        "9110, 11.6.1",
        "MUST",
        "WWW-Authenticate in a 401",
        SERVER + "test_a_status_is_not_sent_without_the_header_that_belongs_to_it",
    ),
    Rule("9110, 15.2", "MUST NOT", "1xx to HTTP/1.0", UPGRADE + "test_an_upgrade_in_http_1_0_is_a_plain_request"),
    Rule("9110, 15.3.6", "MUST NOT", "content in a 205", SERVER + "test_a_205_has_no_body_and_says_so"),
    Rule("9110, 15.5", "SHOULD", "what is wrong in a 4xx and 5xx", REFUSES),
    Rule(
        "9110, 15.5.22",
        "MUST",
        "Upgrade in a 426",
        SERVER + "test_a_status_is_not_sent_without_the_header_that_belongs_to_it",
    ),
    Rule(
        "9110, 15.6.4",
        "MAY",
        "Retry-After in a 503, as in a 429",
        "asyncio/test_refusals.py::test_an_upgrade_too_many_is_told_when_to_try_again",
    ),
    Rule("9110, 15.6.6", "SHOULD", "what is spoken in a 505", REFUSES),
    # What a server makes of a request.
    Rule(
        "9112, 2.2",
        "MUST",
        "reads octets, not characters",
        SERVER + "test_server_keeps_what_it_read_for_the_application",
    ),
    Rule(
        "9112, 2.2",
        "MAY",
        "takes a single LF for a line's end",
        SERVER + "test_lines_may_end_without_a_carriage_return_and_be_folded",
    ),
    Rule("9112, 2.2", "MUST", "refuses a bare CR", REFUSES),
    Rule(
        "9112, 2.2",
        "SHOULD",
        "ignores an empty line before the request line",
        SERVER + "test_empty_lines_before_the_request_are_ignored",
    ),
    Rule("9112, 2.2", "MUST", "refuses white space before the first header", REFUSES),
    Rule("9112, 2.2", "SHOULD", "answers nonsense with 400 and ends", REFUSES),
    Rule("9112, 3", "SHOULD", "501 for a method longer than any", "no: 405 says which method there is, and 501 not"),
    Rule(
        "9112, 3",
        "MUST",
        "414 for a target that is too long",
        BOTH + "test_a_head_over_several_limits_is_refused_alike_however_it_arrives",
    ),
    Rule(
        "9112, 3",
        "SHOULD",
        "takes a request line of 8000 octets",
        "protocol/test_http_rules.py::test_a_request_line_of_8000_octets_is_taken",
    ),
    Rule("9112, 3.2", "SHOULD", "400 for a request line that is invalid, and no correction", REFUSES),
    Rule(
        "9112, 3.2",
        "MUST",
        "400 for no Host, for two, and for one that is none",
        UPGRADE + "test_check_request_refuses_a_host_that_is_none",
    ),
    Rule("9112, 3.2.2", "MUST", "takes the absolute form", SERVER + "test_server_serves_its_path_in_every_form"),
    Rule(
        "9112, 3.2.2",
        "MUST",
        "goes by the host of an absolute target",
        UPGRADE + "test_the_host_of_an_absolute_target_overrules_the_header",
    ),
    Rule("9112, 5.1", "MUST", "400 for white space between a name and its colon", REFUSES),
    Rule(
        "9112, 5.2",
        "MUST",
        "refuses a folded line, or takes it for spaces",
        SERVER + "test_lines_may_end_without_a_carriage_return_and_be_folded",
    ),
    Rule("9112, 6.1", "SHOULD", "501 for a transfer coding that it does not know", REFUSES),
    Rule(
        "9112, 6.1", "MUST", "ends behind a request with a length and a coding, or with a coding in HTTP/1.0", REFUSES
    ),
    Rule("9112, 6.3", "MUST", "400 for lengths that differ or are none", REFUSES),
    Rule(
        "9112, 6.3",
        "MUST",
        "400 where chunked is not the last coding",
        "no: it is 501, as for each coding besides chunked alone",
    ),
    Rule(
        "9112, 9.3",
        "MUST",
        "reads the body of a request, or ends behind the response",
        "asyncio/test_http.py::test_a_body_is_neither_read_nor_in_the_way",
    ),
    Rule("9110, 2.5", "SHOULD", "takes HTTP/1.2 for HTTP/1.1", UPGRADE + "test_check_upgrade_needs_http_1_1"),
    Rule(
        "9110, 4.2.1", "MUST", "refuses a target without a host", SERVER + "test_server_refuses_a_target_that_is_no_uri"
    ),
    Rule(
        "9110, 4.2.4", "SHOULD", "refuses a target with a user", SERVER + "test_server_refuses_a_target_that_is_no_uri"
    ),
    Rule("9110, 5.1", "SHOULD", "ignores headers that it does not know", UNUSUAL),
    Rule("9110, 5.3", "MUST NOT", "acts before the head is complete", SERVER + "test_accept_and_reject_need_a_request"),
    Rule("9110, 5.4", "MUST", "4xx for headers that are too large", BOTH + "test_both_sides_have_the_same_limits"),
    Rule("9110, 5.5", "MUST", "leaves out white space around a value", UNUSUAL),
    Rule("9110, 5.5", "SHOULD", "takes other octets as they are", UNUSUAL),
    Rule("9110, 5.5", "MUST", "refuses NUL, CR and LF in a value", REFUSES),
    Rule(
        "9110, 5.6.1.2",
        "MUST",
        "ignores empty items of a list",
        "protocol/test_http.py::test_tokens_are_the_items_of_all_headers_of_a_name_without_empty_ones",
    ),
    Rule(
        "9110, 5.6.4",
        "MUST",
        "takes a quoted pair for its second octet",
        "protocol/test_http.py::test_parses_extensions",
    ),
    Rule("9110, 7.4", "MUST", "refuses https: without TLS", "no: a proxy that ends TLS hides it from us"),
    Rule("9110, 7.8", "SHOULD", "compares the names of protocols without case", UNUSUAL),
    Rule(
        "9110, 7.8", "MUST", "ignores Upgrade in HTTP/1.0", UPGRADE + "test_an_upgrade_in_http_1_0_is_a_plain_request"
    ),
    Rule(
        "9110, 9.1",
        "SHOULD",
        "501 for a method that it does not know",
        "no: 405 says which method there is, and 501 not",
    ),
    Rule("9110, 9.1", "SHOULD", "405 for a method that is not allowed there", UPGRADE + "test_check_upgrade_needs_get"),
    Rule("9110, 9.3.6", "MUST", "refuses CONNECT", UPGRADE + "test_no_tunnel_is_asked_of_the_application"),
    Rule(
        "9110, 10.1.1",
        "MUST",
        "100 or a final status at once for a body that waits",
        "asyncio/test_http.py::test_a_body_is_neither_read_nor_in_the_way",
    ),
    # What a user agent puts into a request.
    Rule(
        "9112, 2.2",
        "MUST NOT",
        "an empty line around a request",
        CLIENT + "test_client_sends_the_example_of_the_rfc_at_once",
    ),
    Rule(
        "9112, 2.2", "MUST NOT", "a line break in a header", CLIENT + "test_headers_that_http_forbids_cannot_be_given"
    ),
    Rule("9112, 3.2.1", "MUST", "path and query alone, / for no path", "protocol/test_uri.py::test_parses_the_parts"),
    Rule(
        "9112, 3.2.3",
        "MUST",
        "host and port alone to CONNECT",
        "protocol/test_proxy.py::test_the_request_names_the_server_and_its_port",
    ),
    Rule(
        "9112, 3.2",
        "MUST",
        "Host, as the URI has it, without its user",
        "protocol/test_uri.py::test_host_is_for_the_resolver_and_the_host_header_for_the_request",
    ),
    Rule("9110, 7.2", "SHOULD", "Host first", UPGRADE + "test_headers_that_are_given_replace_ours"),
    Rule("9110, 4.2.4", "MUST NOT", "a user in the target", UPGRADE + "test_ask_with_the_credentials_of_the_uri"),
    Rule("9110, 7.1", "MUST NOT", "a fragment", "protocol/test_uri.py::test_other_uris_are_refused_with_what_is_wrong"),
    Rule(
        "9110, 7.8", "MUST", "Upgrade named in Connection", CLIENT + "test_client_sends_the_example_of_the_rfc_at_once"
    ),
    Rule(
        "9110, 8.6",
        "SHOULD NOT",
        "Content-Length without content",
        CLIENT + "test_client_sends_the_example_of_the_rfc_at_once",
    ),
    Rule(
        "9110, 9.3.6",
        "MUST",
        "the port to CONNECT",
        "protocol/test_proxy.py::test_the_request_names_the_server_and_its_port",
    ),
    Rule(
        "9110, 10.1.5",
        "SHOULD",
        "User-Agent, and no more than a name in it",
        CLIENT + "test_client_sends_the_example_of_the_rfc_at_once",
    ),
    Rule(
        "9112, 9.3",
        "MUST",
        "close, without persistent connections",
        "no: a 101 persists, and servers and proxies would take it for an end",
    ),
    # What a user agent makes of a response.
    Rule("9112, 4", "SHOULD", "ignores the reason", CLIENT + "test_client_takes_a_101"),
    Rule(
        "9112, 5.2",
        "MUST",
        "takes a folded line for spaces",
        "protocol/test_http_rules.py::test_a_folded_line_of_a_response_is_one_with_spaces",
    ),
    Rule(
        "9112, 6.3",
        "MUST",
        "ignores lengths and codings in a 2xx to CONNECT",
        "protocol/test_proxy.py::test_a_success_opens_the_tunnel_however_it_arrives",
    ),
    Rule("9112, 6.3", "MUST", "ends where the length is none", CLIENT + "test_client_refuses_what_is_no_http"),
    Rule(
        "9112, 8",
        "MUST",
        "tells what it has of a response that is cut short",
        CLIENT + "test_a_refusal_whose_transport_breaks_still_tells_the_status",
    ),
    Rule("9112, 9.6", "MUST", "ends behind a response with close", CLIENT + "test_client_learns_how_it_was_refused"),
    Rule(
        "9112, 9.8",
        "MUST",
        "a closure alert before it ends TLS",
        "no: whoever was refused drops the transport, as all has been said",
    ),
    Rule(
        "9110, 4.3.4",
        "MUST",
        "verifies who the server is",
        "asyncio/test_tls.py::test_a_certificate_for_another_name_is_refused",
    ),
    Rule(
        "9110, 5.6.7",
        "MUST",
        "reads all three forms of a date",
        "service/test_reconnect.py::test_a_date_may_have_each_of_its_three_forms",
    ),
    Rule(
        "9110, 15",
        "MUST",
        "takes an unknown status for the x00 of its class",
        "service/test_reconnect.py::test_what_may_work_later_is_tried_again_after_a_random_part_of_the_window",
    ),
    Rule(
        "9110, 15",
        "SHOULD",
        "takes what is no status for a 5xx",
        "service/test_reconnect.py::test_what_may_work_later_is_tried_again_after_a_random_part_of_the_window",
    ),
    Rule("9110, 15.2", "MUST", "reads 1xx before the final response", CLIENT + "test_client_takes_a_101"),
    Rule(
        "9110, 15.5.4",
        "SHOULD NOT",
        "repeats what was forbidden",
        "service/test_reconnect.py::test_what_can_never_work_stops_at_once",
    ),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.section} {rule.level} {rule.words}")
def test_each_rule_is_held_by_a_test_or_says_why_not(rule: Rule) -> None:
    assert rule.section.startswith(("9110, ", "9112, "))
    if rule.held.startswith("no: "):
        return
    file, _, name = rule.held.partition("::")
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_no_rule_is_there_twice() -> None:
    assert len({(rule.section, rule.level, rule.words) for rule in RULES}) == len(RULES)


def test_a_request_line_of_8000_octets_is_taken() -> None:
    line = "GET /" + "a" * (8000 - len("GET / HTTP/1.1")) + " HTTP/1.1"
    assert serve(request(line=line)).request is not None


def test_a_folded_line_of_a_response_is_one_with_spaces() -> None:
    client = connect()
    client.receive_data(response("X-A: a\r\n\t b"), 0.0)
    assert client.agreement is not None
    assert client.agreement.headers.get("X-A") == "a b"
