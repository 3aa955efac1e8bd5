"""The control socket of a daemon that cannot use its state: little is served, and all of it in the shapes of the whole API."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from comfytunnel.api.server import Server
from comfytunnel.api.troubled import Troubled
from comfytunnel.errors import StateError
from comfytunnel.feed import Feed
from tests.api.conftest import Api


@pytest.fixture
async def path(short: Path) -> AsyncIterator[Path]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(short / "control.sock"))
        sock.listen()
        async with Troubled(StateError("The database is of a newer version."), "config.toml", sock):
            yield short / "control.sock"


async def ask(path: Path, request: str) -> tuple[int, str, Any]:
    """The status, the type and the JSON of what comes back."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(request.encode())
    head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    writer.close()
    kind = next(line for line in head.split("\r\n") if line.startswith("Content-Type: "))
    return int(head.split()[1]), kind.partition(": ")[2], json.loads(body)


@pytest.mark.parametrize(
    ("request_text", "status", "code"),
    [
        ("nonsense\r\n\r\n", 400, "bad_request"),
        ("GET /v1/status HTTP/1.1\r\nHost : x\r\n\r\n", 400, "bad_request"),
        (f"GET /{'x' * 20_000} HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, "bad_request"),
        ("POST /api/v2/jobs HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 500, "state_error"),
        ("DELETE /v1/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 500, "state_error"),
        (
            "GET /v1/status HTTP/1.1\r\nHost: x\r\nOrigin: http://x\r\nConnection: close\r\n\r\n",
            403,
            "browser_refused",
        ),
    ],
    ids=["no http", "a bad field", "a long line", "a job", "another method", "a page"],
)
async def test_what_it_refuses_is_refused_in_the_envelope(
    path: Path, request_text: str, status: int, code: str
) -> None:
    async with asyncio.timeout(10):
        found, kind, told = await ask(path, request_text)
    assert (found, kind) == (status, "application/json; charset=utf-8")
    assert told["error"]["code"] == code


async def test_it_says_what_is_wrong(path: Path) -> None:
    async with asyncio.timeout(10):
        _, _, told = await ask(path, "GET /v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert told["cause"]["message"] == "The database is of a newer version."


@pytest.mark.parametrize("turns", [2, 3])
@pytest.mark.parametrize("whole", [False, True], ids=["troubled", "whole"])
async def test_who_comes_in_the_moment_of_its_end_is_let_go_and_not_forgotten(
    api: Api, short: Path, turns: int, whole: bool
) -> None:
    with socket.socket(socket.AF_UNIX) as sock, socket.socket(socket.AF_UNIX) as caller:
        sock.bind(str(short / "other.sock"))
        sock.listen()
        its = dataclasses.replace(api.context, closing=Feed(False))
        async with Server(its, sock) if whole else Troubled(StateError("It is away."), "config.toml", sock):
            caller.connect(str(short / "other.sock"))
            for _ in range(turns):  # of the loop: it is accepted, and nobody has been told
                await asyncio.sleep(0)
        caller.settimeout(10)
        assert caller.recv(1) == b""
    gc.collect()  # a socket that is forgotten is a warning then, and warnings are errors
