"""Every answer of the API that any test brings about is judged: by what the route table says of it, and what lies under /api/v2 by the contract's
OpenAPI file too.

An API in this process is judged as it answers, whoever asks; one in a process of its own where our clients and the SDK's read. What is wrong is
collected, and the test fails at its end (conftest.py).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import httpx
import msgspec
from aiohttp import web

from comfytunnel import wire
from comfytunnel.api import answers, assets, server, stream, tcp
from comfytunnel.api.route import Events, Media, Route
from comfytunnel.api.routes import ROUTES
from comfytunnel.client import carrier
from comfytunnel.client import connection as sockets
from comfytunnel.decoding import schemas
from comfytunnel.protocol import EventParser
from tests.api import contract

GUARD = {"bad_request", "request_timeout", "host_refused", "origin_refused", "site_refused", "other_user"}
CONDITIONAL = {
    304,
    412,
}  # HTTP's own answers to If-None-Match and If-Match, of which the contract says nothing
CONTRACT_EVENTS = {
    "status": "StatusEvent",
    "progress": "Progress",
    "preview": "PreviewEvent",
    "output": "Output",
}

wrongs: list[str] = []
"""What was wrong with answers since the last test."""


def judged(method: str, path: str, status: int, headers: Any, body: bytes | None) -> None:
    """Judge one answer, and remember what is wrong with it. `body` None: it is not known."""
    try:
        _judge(method, path.partition("?")[0], status, headers, body)
    except Exception as error:  # noqa: BLE001 - whatever it is, the test shall show it
        wrongs.append(f"{method} {path} {status}: {error}"[:2000])


def judged_event(path: str, name: str, data: bytes, event_id: str = "") -> None:
    try:
        body = msgspec.json.decode(data)
        if path.startswith("/api/v2/"):
            assert not event_id, "the contract's events carry no id"
            contract.check_schema(CONTRACT_EVENTS[name], body)
        route = _route("GET", path.partition("?")[0])
        assert route is not None
        stream = route.answers[200]
        assert isinstance(stream, Events)
        _fits(stream.kinds[name], body)
    except Exception as error:  # noqa: BLE001 - as above
        wrongs.append(f"event {name} of {path}: {error}"[:2000])


def _judge(method: str, path: str, status: int, headers: Any, body: bytes | None) -> None:
    if status in (200, 304) and (path == "/" or path.startswith("/page/")):
        return  # the page's files, which are no API: tests/api/test_page.py
    route = _route(method, path)
    if status in (429, 503):
        assert int(headers["Retry-After"]) >= 0
    if status == 401:
        assert headers["WWW-Authenticate"] == "Bearer"
    if body is None or method == "HEAD" or status in (204, 304, 416):
        assert route is None or status in {401, *route.answers, *route.refusals}, "a status that is not told"
        assert route is not None or status < 400 or method != "HEAD"
        _by_contract(route, status, None)
        return
    is_json = headers["Content-Type"].partition(";")[0] == "application/json"
    told: Any = msgspec.json.decode(body) if is_json else None
    if status >= 400:
        _fits(wire.ErrorEnvelope, told)
        code = told["error"]["code"]
        if code in GUARD and answers.STATUS[code] == status:
            return  # said before the API has seen anything of the request
        if told["error"]["message"].startswith("There is no route") or code == "method_not_allowed":
            route = None  # over TCP there are fewer
        assert status in (answers.STATUS[code], answers.CONTRACT_WORD.get(answers.STATUS[code])), (
            "another status"
        )
    if route is None:
        assert status in (400, 401, 403, 404, 405), "there is no such route"
        return
    if status >= 400:
        known = ("unauthorized", *route.refusals.get(status, ()))
        assert code in known, f"the table does not tell of {code}"
    else:
        kind = route.answers[status]
        if isinstance(kind, Media):
            assert kind.content_type in ("*/*", headers["Content-Type"])
        else:
            _fits(kind, told)
    _by_contract(route, status, told)


def _by_contract(route: Route | None, status: int, told: Any) -> None:
    """Judge what is the contract's too."""
    if route is None or not contract.knows(*route.key) or (told is None and status in CONDITIONAL):
        return
    if told is None:
        assert contract.allows(*route.key, status)
    else:
        contract.check(*route.key, status, told)


@functools.cache
def _patterns() -> list[tuple[Route, re.Pattern[str]]]:
    return [(route, re.compile(re.sub(r"\{\w+\}", "[^/]+", route.path))) for route in ROUTES]


def _route(method: str, path: str) -> Route | None:
    return next(
        (route for route, pattern in _patterns() if route.method == method and pattern.fullmatch(path)), None
    )


@functools.cache
def _schema(kind: Any) -> dict[str, Any]:
    [schema], parts = schemas([kind])
    found: dict[str, Any] = contract.closed({**schema, "$defs": parts})
    return found


def _fits(kind: Any, body: Any) -> None:
    contract.fits(_schema(kind), body)


# --- where answers are seen -----------------------------------------------------------------------------------------


@web.middleware
async def _as_it_answers(request: web.Request, handler: answers.Handler) -> web.StreamResponse:
    """Around the outermost middleware of the API: what leaves it, leaves the server."""
    found = await answers_errors_to_json(request, handler)
    if isinstance(found, web.Response):
        body = found.body
        judged(
            request.method,
            request.path,
            found.status,
            found.headers,
            body if isinstance(body, bytes) else b"",
        )
    return found


answers_errors_to_json = answers.errors_to_json


async def _sends(self: stream.Stream, name: str, body: Any, event_id: int | None = None) -> None:
    judged_event(
        self._request.path, name, msgspec.json.encode(body), "" if event_id is None else str(event_id)
    )
    await stream_send(self, name, body, event_id)


stream_send = stream.Stream.send


async def _prepare(self: Any, request: web.BaseRequest) -> Any:
    """Files are sent by aiohttp: their status is known when their head is out."""
    prepared = await file_prepare(self, request)
    judged(request.method, request.path, self.status, self.headers, None)
    return prepared


file_prepare = assets._File.prepare


class _Answer(sockets.Answer):
    """An answer to our client, which a daemon in another process may have given."""

    def __init__(self, connection: sockets.Connection, response: Any) -> None:
        super().__init__(connection, response)
        assert isinstance(connection, _Connection)
        self._method, self._path = connection.asked
        self._headers = response.headers
        self._judged = self.server.startswith(wire.SERVER)  # else it is a test's own idea of a daemon
        streams = (response.headers.get("Content-Type") or "").startswith("text/event-stream")
        self._events = EventParser() if streams else None
        if streams and self._judged:
            judged(self._method, self._path, self.status, self._headers, None)

    def read(self) -> bytes:
        body = super().read()
        if self._judged:
            judged(self._method, self._path, self.status, self._headers, body)
        return body

    def read_some(self, timeout: float | None = None) -> bytes:
        data = super().read_some(timeout)
        if self._events is not None and self._judged:
            for event in self._events.feed(data):
                judged_event(self._path, event.name, event.data, event.id)
        return data


class _Connection(sockets.Connection):
    asked = ("", "")

    def putrequest(self, method: str, url: str, *rest: Any, **more: Any) -> None:
        self.asked = (method, url)
        super().putrequest(method, url, *rest, **more)


def _seen_by_the_sdk(request: httpx.Request, found: httpx.Response, streams: bool) -> httpx.Response:
    if found.headers.get("Server", "").startswith(wire.SERVER):
        body = None if streams else found.content
        judged(request.method, request.url.path, found.status_code, found.headers, body)
    return found


def _send(self: httpx.Client, request: httpx.Request, *, stream: bool = False, **more: Any) -> httpx.Response:
    return _seen_by_the_sdk(request, httpx_send(self, request, stream=stream, **more), stream)


async def _send_async(
    self: httpx.AsyncClient, request: httpx.Request, *, stream: bool = False, **more: Any
) -> httpx.Response:
    return _seen_by_the_sdk(request, await httpx_send_async(self, request, stream=stream, **more), stream)


httpx_send, httpx_send_async = httpx.Client.send, httpx.AsyncClient.send


@contextmanager
def at_work() -> Iterator[None]:
    """Judge whatever is answered from now on."""
    with (
        mock.patch.object(server, "errors_to_json", _as_it_answers),
        mock.patch.object(tcp, "errors_to_json", _as_it_answers),
        mock.patch.object(stream.Stream, "send", _sends),
        mock.patch.object(assets._File, "prepare", _prepare),
        mock.patch.object(carrier, "Answer", _Answer),
        mock.patch.object(carrier, "Connection", _Connection),
        mock.patch.object(httpx.Client, "send", _send),
        mock.patch.object(httpx.AsyncClient, "send", _send_async),
    ):
        yield
