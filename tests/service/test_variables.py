from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

import pytest

from wsconnkit.service.variables import (
    MAX_INTEGER,
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

addresses = list_of("addresses", lambda items: [ip_address(item) for item in items])


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (integer(), "1", 1),
        (integer(), str(MAX_INTEGER), MAX_INTEGER),
        (integer(0, 9), " 0\t", 0),
        (integer(0, 9), "0009", 9),
        (seconds(), "1", 0.001),
        (seconds(0), "0", 0.0),
        (or_off(seconds()), "1500", 1.5),
        (or_off(seconds()), " Off ", None),
        (parse_flag, " YES ", True),
        (parse_flag, "off", False),
        (one_of("json", "text"), " Text ", "text"),
        (parse_path, " /a/b%20c ", "/a/b%20c"),
        (parse_host, " example.org ", "example.org"),
        (parse_host, "::", "::"),
        (parse_endpoints, " ", True),
        (parse_endpoints, "OFF", False),
        (parse_endpoints, "localhost:9090", ("localhost", 9090)),
        (parse_endpoints, " [::1]:65535 ", ("::1", 65535)),
        (parse_file, " a b.pem ", "a b.pem"),
        (parse_file, "", None),
        (addresses, " 127.0.0.1 , ::1", ("127.0.0.1", "::1")),
        (addresses, " ", ()),
    ],
)
def test_a_text_makes_a_value(parse: Callable[[str], object], text: str, value: object) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text", "allowed"),
    [
        *(
            (integer(1, 9), text, "an integer, 1 to 9")
            for text in ("", "0", "10", "-1", "+1", "1.0", "1_0", "٣", "1 0")
        ),
        (integer(unit="bytes"), "9" * 11, "an integer, 1 to 2147483647 bytes"),
        (seconds(), "0", "an integer, 1 to 2147483647 milliseconds"),
        (seconds(), "off", "an integer, 1 to 2147483647 milliseconds"),
        (or_off(integer()), "", "an integer, 1 to 2147483647, or off"),
        (or_off(integer()), "none", "an integer, 1 to 2147483647, or off"),
        (parse_flag, "maybe", "true or false (also 1, yes, on, 0, no, off)"),
        (one_of("json", "text"), "xml", "one of json, text"),
        *(
            (parse_path, text, "a path in ASCII that starts with '/', without spaces, '?' and '#'")
            for text in ("", "ws", "/a b", "/a?b", "/a#b", "/é", "/\x7f")
        ),
        *(
            (parse_host, text, "a host's name or an address, such as '127.0.0.1', or '0.0.0.0' for all of IPv4")
            for text in ("", "a b", "http://a", "user@a", "a\x1b")
        ),
        *(
            (parse_endpoints, text, "host:port, such as '127.0.0.1:9090' or '[::1]:9090', or off")
            for text in ("9090", ":9090", "a:", "a:0", "a:65536", "::1:9090", "a:9090/metrics", "on")
        ),
        (parse_file, "a\0b", "the path of a file"),
        (addresses, "::1,,", "addresses, separated by commas; '' is none"),
        (addresses, "::1,x", "addresses, separated by commas; 'x' is none"),
    ],
)
def test_what_is_allowed_is_told_of_every_other_text(parse: Callable[[str], object], text: str, allowed: str) -> None:
    with pytest.raises(ValueError, match="it must be") as caught:
        parse(text)
    assert str(caught.value) == f"it must be {allowed}"
