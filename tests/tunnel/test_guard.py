"""Who may pass: the rules, one request a line, as browsers and programs really send them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfytunnel.tunnel.framing import Head, Refusal
from comfytunnel.tunnel.guard import STRICT, Rules, guard, judge, response

OPEN = Rules(
    frozenset({"my-box.lan", "proxy:81"}), frozenset({"http://localhost:5173", "https://my-box.lan"})
)


def verdict(text: str, rules: Rules = STRICT) -> str:
    """The code of the refusal of a request that is written as `FIRST LINE | Name: value | ...`, or "passes"."""
    reader = guard(rules)
    data = "".join(f"{line.strip()}\r\n" for line in text.split("|")).encode() + b"\r\n"
    passed = reader.feed(data)
    assert passed == (b"" if reader.refusal else data)
    return reader.refusal.code if reader.refusal else "passes"


HERE = "Host: localhost:18188"
PASSES = {
    "curl": f"GET / HTTP/1.1 | {HERE} | User-Agent: curl/8 | Accept: */*",
    "curl -0": f"GET / HTTP/1.0 | {HERE}",
    "a program of long ago": "GET / HTTP/1.0",
    "requests": f"GET /queue HTTP/1.1 | {HERE} | User-Agent: python-requests/2 | Connection: keep-alive",
    "httpx": "GET /queue HTTP/1.1 | Host: 127.0.0.1:18188 | Accept: */* | Connection: keep-alive",
    "aiohttp's websocket": f"GET /ws HTTP/1.1 | {HERE} | Upgrade: websocket | Connection: Upgrade | Sec-WebSocket-Version: 13",
    "IPv6": "GET / HTTP/1.1 | Host: [::1]:18188",
    "no port": "GET / HTTP/1.1 | Host: localhost",
    "another port": "GET / HTTP/1.1 | Host: LOCALHOST:8080",
    "another loopback address": "GET / HTTP/1.1 | Host: 127.0.0.2:18188",
    "an address that was typed": f"GET / HTTP/1.1 | {HERE} | Sec-Fetch-Site: none | Sec-Fetch-Mode: navigate | Sec-Fetch-Dest: document",
    "a link from elsewhere": f"GET / HTTP/1.1 | {HERE} | Sec-Fetch-Site: cross-site | Sec-Fetch-Mode: navigate | Sec-Fetch-Dest: document",
    "the page's own picture": f"GET /view HTTP/1.1 | {HERE} | Sec-Fetch-Site: same-origin | Sec-Fetch-Mode: no-cors | Sec-Fetch-Dest: image",
    "the page's own POST": f"POST /prompt HTTP/1.1 | {HERE} | Origin: http://localhost:18188 | Sec-Fetch-Site: same-origin | Content-Length: 0",
    "the page's websocket": f"GET /ws HTTP/1.1 | {HERE} | Origin: http://localhost:18188 | Upgrade: websocket | Sec-Fetch-Site: same-origin",
    "a proxy's target": f"GET http://localhost:18188/ HTTP/1.1 | {HERE}",
    "OPTIONS of all": f"OPTIONS * HTTP/1.1 | {HERE}",
}
REFUSED = {
    "a rebound name": ("host_refused", "GET / HTTP/1.1 | Host: evil.example:18188"),
    "a name that begins well": ("host_refused", "GET / HTTP/1.1 | Host: localhost.evil.example"),
    "a name that looks like loopback": ("host_refused", "GET / HTTP/1.1 | Host: 127.0.0.1.evil.example"),
    "the address of all": ("host_refused", "GET / HTTP/1.1 | Host: 0.0.0.0:18188"),
    "an empty host": ("host_refused", "GET / HTTP/1.1 | Host:"),
    "a user in the host": ("host_refused", "GET / HTTP/1.1 | Host: localhost@evil.example"),
    "two in one": ("host_refused", "GET / HTTP/1.1 | Host: localhost, evil.example"),
    "no host": ("bad_request", "GET / HTTP/1.1 | Accept: */*"),
    "no host, and a browser": ("bad_request", "GET / HTTP/1.0 | Origin: http://localhost"),
    "no host, and a newer browser": ("bad_request", "GET / HTTP/1.0 | Sec-Fetch-Site: none"),
    "two hosts": ("bad_request", f"GET / HTTP/1.1 | {HERE} | {HERE}"),
    "two origins": ("bad_request", f"GET / HTTP/1.1 | {HERE} | Origin: http://localhost:18188 | Origin: http://evil"),
    "two sites": ("bad_request", f"GET / HTTP/1.1 | {HERE} | Sec-Fetch-Site: none | Sec-Fetch-Site: cross-site"),
    "another host as a target": ("host_refused", f"GET http://evil.example/ HTTP/1.1 | {HERE}"),
    "another port as a target": ("host_refused", f"GET http://localhost:1/ HTTP/1.1 | {HERE}"),
    "a user in the target": ("host_refused", f"GET http://localhost:18188@evil/ HTTP/1.1 | {HERE}"),
    "a target without a host, long ago": ("host_refused", "GET http://evil.example/ HTTP/1.0"),
    "a target that is no URL": ("bad_request", f"GET view HTTP/1.1 | {HERE}"),
    "all of something": ("bad_request", f"GET * HTTP/1.1 | {HERE}"),
    "a proxy's tunnel": ("host_refused", f"CONNECT example.com:443 HTTP/1.1 | {HERE}"),
    "another origin": ("origin_refused", f"POST /prompt HTTP/1.1 | {HERE} | Origin: https://evil.example"),
    "another port's origin": ("origin_refused", f"POST /prompt HTTP/1.1 | {HERE} | Origin: http://localhost:5173"),
    "another loopback's origin": ("origin_refused", f"POST /prompt HTTP/1.1 | {HERE} | Origin: http://127.0.0.1:18188"),
    "no origin to name": ("origin_refused", f"POST /prompt HTTP/1.1 | {HERE} | Origin: null"),
    "an empty origin": ("origin_refused", f"POST /prompt HTTP/1.1 | {HERE} | Origin:"),
    "an extension": ("origin_refused", f"GET / HTTP/1.1 | {HERE} | Origin: chrome-extension://abc"),
    "a preflight": ("origin_refused", f"OPTIONS / HTTP/1.1 | {HERE} | Origin: https://evil.example | Access-Control-Request-Method: POST"),
    "a websocket of another page": ("origin_refused", f"GET /ws HTTP/1.1 | {HERE} | Origin: http://localhost:1 | Upgrade: websocket"),
    "a picture in another page": (
        "site_refused",
        f"GET /view HTTP/1.1 | {HERE} | Sec-Fetch-Site: cross-site | Sec-Fetch-Mode: no-cors | Sec-Fetch-Dest: image",
    ),
    "a picture in another port's page": (
        "site_refused",
        f"GET /view HTTP/1.1 | {HERE} | Sec-Fetch-Site: same-site | Sec-Fetch-Mode: no-cors | Sec-Fetch-Dest: image",
    ),
    "a frame in another page": (
        "site_refused",
        f"GET / HTTP/1.1 | {HERE} | Sec-Fetch-Site: cross-site | Sec-Fetch-Mode: navigate | Sec-Fetch-Dest: iframe",
    ),
    "a form of another page": (
        "site_refused",
        f"POST /prompt HTTP/1.1 | {HERE} | Sec-Fetch-Site: cross-site | Sec-Fetch-Mode: navigate | Sec-Fetch-Dest: document",
    ),
    "a site of the future": ("site_refused", f"GET / HTTP/1.1 | {HERE} | Sec-Fetch-Site: elsewhere"),
}  # fmt: skip


@pytest.mark.parametrize("text", PASSES.values(), ids=PASSES)
def test_programs_and_comfyuis_own_page_pass(text: str) -> None:
    assert verdict(text) == "passes"


@pytest.mark.parametrize(("code", "text"), REFUSED.values(), ids=REFUSED)
def test_pages_of_elsewhere_are_refused(code: str, text: str) -> None:
    assert verdict(text) == code


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("GET / HTTP/1.1 | Host: my-box.lan", "passes"),
        ("GET / HTTP/1.1 | Host: My-Box.lan:18188", "passes"),
        ("GET / HTTP/1.1 | Host: proxy:81", "passes"),
        ("GET / HTTP/1.1 | Host: proxy:82", "host_refused"),
        ("GET / HTTP/1.1 | Host: other.lan", "host_refused"),
        (
            f"POST /prompt HTTP/1.1 | {HERE} | Origin: http://localhost:5173 | Sec-Fetch-Site: same-site",
            "passes",
        ),
        (f"OPTIONS /prompt HTTP/1.1 | {HERE} | Origin: http://LOCALHOST:5173", "passes"),
        ("POST /prompt HTTP/1.1 | Host: my-box.lan | Origin: https://my-box.lan", "passes"),
        (f"POST /prompt HTTP/1.1 | {HERE} | Origin: http://localhost:5174", "origin_refused"),
        (f"POST /prompt HTTP/1.1 | {HERE} | Origin: null", "origin_refused"),
        (f"GET /view HTTP/1.1 | {HERE} | Sec-Fetch-Site: same-site", "site_refused"),
    ],
)
def test_the_config_lets_more_pass_and_nothing_besides(text: str, code: str) -> None:
    assert verdict(text, OPEN) == code


def test_without_navigation_a_link_from_elsewhere_is_refused_too() -> None:
    """As the TCP listener of the API may have it."""
    assert verdict(PASSES["a link from elsewhere"], Rules(navigation=False)) == "site_refused"
    assert verdict(PASSES["an address that was typed"], Rules(navigation=False)) == "passes"


@pytest.mark.parametrize("code", ["host_refused", "origin_refused", "site_refused"])
def test_a_refusal_names_the_reason_and_the_next_step(code: str) -> None:
    text = next(text for found, text in REFUSED.values() if found == code)
    reader = guard(STRICT)
    reader.feed("".join(f"{line.strip()}\r\n" for line in text.split("|")).encode() + b"\r\n")
    assert reader.refusal is not None
    head, _, body = response(reader.refusal).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 403 Forbidden\r\n")
    assert f"\r\nContent-Length: {len(body)}\r\n".encode() in head + b"\r\n"
    error = json.loads(body)["error"]
    assert error["code"] == code
    assert error["message"]
    assert {
        "host_refused": "allowed_hosts",
        "origin_refused": "allowed_origins",
        "site_refused": "allowed_origins",
    }[code] in error["details"]["hint"]


def test_what_a_page_says_of_itself_is_cut_short() -> None:
    refusal = judge(STRICT, Head("GET", "/", 1, {"host": ["x" * 60_000]}))
    assert refusal is not None
    assert len(refusal.message) < 300


NAMES = st.sampled_from(["host", "origin", "sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest", "x"])
VALUES = st.sampled_from(
    ["localhost", "http://localhost", "null", "none", "navigate", "document", "cross-site"]
) | st.text(max_size=9)


@given(
    st.text(max_size=9),
    st.text(max_size=9),
    st.integers(0, 1),
    st.dictionaries(NAMES, st.lists(VALUES, min_size=1, max_size=2)),
)
def test_whatever_a_head_says_there_is_a_verdict(
    method: str, target: str, minor: int, fields: dict[str, list[str]]
) -> None:
    found = judge(STRICT, Head(method, target, minor, fields))
    assert found is None or isinstance(found, Refusal)
    if fields.get("host", ["localhost"]) != ["localhost"]:
        assert found is not None
