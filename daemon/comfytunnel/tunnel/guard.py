"""Who may pass: the rules for a request's head, for the door and for the TCP listener of the API. Pure.

ComfyUI has no password, so any web page that the user visits could drive an open forward, directly or through a name that it
points at loopback (DNS rebinding). Browsers tell the truth in Host, Origin and Sec-Fetch-*, which no page can set: these decide. Programs
send neither Origin nor Sec-Fetch-*, and a Host that is loopback. Where requests begin is read in framing.py, whose peer it is in owner.py.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus

from comfytunnel.tunnel.framing import Head, Reader, Refusal

_RETRY_AFTER = 5  # seconds
_SHOWN = 120  # characters of a page's own words in a message
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?")
_HTTP_PORT = 80  # what a Host without a port means
_LOOPBACK = re.compile(
    r"localhost|\[::1\]|127(?:\.[0-9]{1,3}){3}"
)  # what `listen` can be; addresses cannot be rebound
_ABSOLUTE = re.compile(r"https?://([^/?#]*)", re.IGNORECASE)
_OURS = ("none", "same-origin")  # Sec-Fetch-Site: typed or from a program, and from the page itself
_ONCE = ("host", "origin", "sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest")

OTHER_USER = Refusal(
    403,
    "other_user",
    "This port belongs to another user of this machine, or whose program you are cannot be told.",
    "Its owner can set `allow_other_users = true` in the config.",
)


@dataclass(frozen=True, slots=True)
class Rules:
    """As in the config, in lower case. `navigation`: a link from anywhere may open a page at top level (never a POST). `port`: the one that
    Host must name, None for any (a forwarded port may be reached under several)."""

    allowed_hosts: frozenset[str] = frozenset()
    allowed_origins: frozenset[str] = frozenset()
    allow_other_users: bool = False
    navigation: bool = True
    port: int | None = None


STRICT = Rules()


def guard(rules: Rules) -> Reader:
    """A fresh reader for one connection that lets pass what `rules` allow."""
    return Reader(partial(judge, rules))


def judge(rules: Rules, head: Head) -> Refusal | None:
    """None if the request may pass, else why not."""
    fields = head.fields
    for name in _ONCE:
        if len(fields.get(name, ())) > 1:
            return Refusal(400, "bad_request", f"The request has more than one {name} field.")
    host, origin, site = (_one(head, name) for name in ("host", "origin", "sec-fetch-site"))
    if host is None:
        if (
            head.minor == 0
            and rules.port is None
            and not any(name == "origin" or name.startswith("sec-fetch-") for name in fields)
        ):
            return _target(head, None)  # old programs; no browser is one
        return Refusal(400, "bad_request", "The request has no Host field.")
    return (
        _host(rules, host)
        or _target(head, host)
        or _origin(rules, host, origin)
        or _site(rules, head, origin, site)
    )


def _one(head: Head, name: str) -> str | None:
    values = head.fields.get(name)
    return values[0].lower() if values else None


def _host(rules: Rules, host: str) -> Refusal | None:
    match = _HOST.fullmatch(host)
    name = match[1] if match else ""
    if name and (_LOOPBACK.fullmatch(name) or name in rules.allowed_hosts or host in rules.allowed_hosts):
        if match is None or rules.port in (None, int(match[2] or _HTTP_PORT)):
            return None
        return Refusal(
            403, "host_refused", f"The request is for {_shown(host)}, and this is port {rules.port}."
        )
    return Refusal(
        403,
        "host_refused",
        f"The request is for the host {_shown(host)}, which is not this machine's loopback.",
        "Ask for localhost; or add the host to `allowed_hosts` in the config, if the name is yours.",
    )


def _target(head: Head, host: str | None) -> Refusal | None:
    """The target may repeat the host and must not name another one: servers differ in which they believe."""
    target = head.target
    if head.method == "CONNECT":
        named: str | None = target
    elif target.startswith("/") or (target == "*" and head.method == "OPTIONS"):
        return None
    else:
        match = _ABSOLUTE.match(target)
        named = match[1] if match else None
    if named is None:
        return Refusal(
            400, "bad_request", f"The request's target {_shown(target)} is neither a path nor a URL."
        )
    if host is not None and named.lower() == host:
        return None
    return Refusal(
        403,
        "host_refused",
        f"The request's target names {_shown(named)} and its Host field does not.",
        "Ask for localhost directly, not through this port as a proxy.",
    )


def _origin(rules: Rules, host: str, origin: str | None) -> Refusal | None:
    if origin is None or origin in rules.allowed_origins or origin == f"http://{host}":
        return None
    return Refusal(
        403,
        "origin_refused",
        f"The request comes from a web page of {_shown(origin)}, not from the one at http://{_shown(host)}.",
        "If that page is yours, add its origin to `allowed_origins` in the config.",
    )


def _site(rules: Rules, head: Head, origin: str | None, site: str | None) -> Refusal | None:
    if site is None or site in _OURS or origin in rules.allowed_origins:
        return None
    navigates = (head.method, _one(head, "sec-fetch-mode"), _one(head, "sec-fetch-dest")) == (
        "GET",
        "navigate",
        "document",
    )
    if navigates and rules.navigation:
        return None
    return Refusal(
        403,
        "site_refused",
        f"The request comes from a web page of elsewhere (Sec-Fetch-Site: {_shown(site)}).",
        "Open localhost in the address bar; if the page is yours, let it send its Origin and add that to `allowed_origins`.",
    )


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def response(refusal: Refusal) -> bytes:
    """A whole HTTP response that says so and ends the connection. Its header X-Comfytunnel-Cause tells our own clients that nothing of the
    request has reached ComfyUI."""
    error = {"code": refusal.code, "message": refusal.message, "details": {"hint": refusal.hint}}
    body = json.dumps({"error": error}, indent=2).encode() + b"\n"
    retry = f"Retry-After: {_RETRY_AFTER}\r\n" if refusal.status == HTTPStatus.SERVICE_UNAVAILABLE else ""
    head = (
        f"HTTP/1.1 {refusal.status} {HTTPStatus(refusal.status).phrase}\r\n"
        "Server: comfytunnel\r\n"
        f"X-Comfytunnel-Cause: {refusal.code}\r\n"
        f"{retry}"
        "Content-Type: application/json\r\n"
        "X-Content-Type-Options: nosniff\r\n"
        "Cache-Control: no-store\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + body
