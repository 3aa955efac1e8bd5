"""Who may speak to the control socket, what it says to nonsense, and how it comes and goes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from comfytunnel import wire
from comfytunnel.api import answers
from comfytunnel.api.listen import Lock, control_socket
from comfytunnel.api.openapi import document
from comfytunnel.api.routes import ROUTES
from comfytunnel.errors import Error, RefusedError, StateError, UsageError
from comfytunnel.peer import peer_uid
from tests.api.conftest import Api, serving

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.mark.parametrize("header", ["Origin", "Referer"])
async def test_a_request_from_a_web_page_is_refused(api: Api, header: str) -> None:
    for path in ("/v1/status", "/nowhere"):
        status, body = await api.ask("GET", path, headers={header: "http://localhost"})
        assert (status, body["error"]["code"]) == (403, "browser_refused")


async def test_an_unknown_route_is_404_in_json(api: Api) -> None:
    status, body = await api.ask("GET", "/v1/nowhere")
    assert (status, body["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    "nonsense", [b"nonsense", b"GET /v1/status HTTP/1.1\r\nHost : x", b"GET /" + b"x" * 20_000]
)
async def test_what_is_no_http_gets_the_envelope_too_and_nobody_is_woken_for_it(
    api: Api, nonsense: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    reader, writer = await asyncio.open_unix_connection(api.path)
    async with asyncio.timeout(10):
        writer.write(nonsense + b"\r\n\r\n")
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert head.split()[1] == b"400"
    assert json.loads(body)["error"]["code"] == "bad_request"
    assert f"Server: {wire.SERVER}".encode() in head
    assert not caplog.records


@pytest.mark.parametrize("path", ["/v1/status", "/api/v2/jobs"])
async def test_a_line_that_is_too_long_to_be_read_is_400_and_told_of_everywhere(api: Api, path: str) -> None:
    """Found by schemathesis: a label of some thousand characters."""
    async with api.http.get(f"http://localhost{path}?label={'x' * 9000}") as response:
        assert (response.status, (await response.json())["error"]["code"]) == (400, "bad_request")
    operation = document(ROUTES)["paths"][path]["get"]
    assert "bad_request" in operation["responses"]["400"]["description"]


async def test_a_wrong_method_is_405_and_says_which_is_right(api: Api) -> None:
    async with api.http.delete("http://localhost/api/v2/jobs") as response:
        body = await response.json()
        assert (response.status, response.headers["Allow"]) == (405, "GET, POST")
    assert body["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize("path", sorted({route.path for route in ROUTES}))
async def test_allow_names_the_methods_of_the_path_and_of_no_other_that_it_would_fit(
    api: Api, path: str
) -> None:
    """RFC 9110, 15.5.6: what this resource takes. `from-hash` fits where an id stands, and is none."""
    async with api.http.options(f"http://localhost{path.replace('{', '').replace('}', '')}") as response:
        assert response.status == 405
    methods = sorted(route.method for route in ROUTES if route.path == path)
    assert response.headers["Allow"] == ", ".join(methods)


async def test_a_body_over_the_limit_is_refused_before_it_is_sent(api: Api) -> None:
    reader, writer = await asyncio.open_unix_connection(api.path)
    writer.write(
        f"POST /api/v2/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: {answers.BODY_LIMIT + 1}\r\n\r\n".encode()
    )
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 422")
    assert b"too_large" in await reader.read(4096)
    writer.close()


async def test_a_body_of_unknown_length_is_refused_when_it_outgrows_the_limit(api: Api) -> None:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(answers.BODY_LIMIT // 2**22 + 1):
            yield b" " * 2**22

    status, answer = await api.ask("POST", "/api/v2/jobs", data=body())
    assert (status, answer["error"]["code"]) == (422, "too_large")


async def test_a_surprise_is_logged_and_told_without_its_details(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_name: str) -> None:
        raise RuntimeError("the password is hunter2")

    monkeypatch.setattr(api.tunnels, "status", broken)
    status, body = await api.ask("GET", "/v1/tunnels/default")
    assert (status, body["error"]["code"]) == (500, "internal")
    assert "hunter2" not in str(body)


async def test_our_own_uid_is_what_the_kernel_says() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert peer_uid(ours) == os.geteuid()


@ROOT_ONLY
async def test_another_user_is_refused_even_where_the_file_mode_lets_them(api: Api) -> None:
    """The check of the peer's uid itself: the mode of socket and folders is opened for it."""
    for folder in (api.path.parent, api.path.parent.parent):
        folder.chmod(0o755)
    api.path.chmod(0o666)
    status = await _status_seen_by(65534, api.path)
    assert status.startswith("HTTP/1.1 403")
    assert await _status_seen_by(os.geteuid(), api.path) == "HTTP/1.1 200 OK"


@ROOT_ONLY
async def test_the_file_mode_stops_another_user_before_that(api: Api) -> None:
    for folder in (api.path.parent, api.path.parent.parent):
        folder.chmod(0o755)
    assert await _status_seen_by(65534, api.path) == "PermissionError"


async def _status_seen_by(uid: int, path: Path) -> str:
    """Return the status line that a process of that user gets."""
    script = """
import os, socket, sys
os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))
s = socket.socket(socket.AF_UNIX)
try:
    s.connect(sys.argv[2])
    s.sendall(b"GET /v1/health HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
    print(s.recv(4096).split(b"\\r\\n")[0].decode())
except OSError as error:
    print(type(error).__name__)
"""
    process = await asyncio.create_subprocess_exec(
        "/usr/bin/env",
        "-S",
        sys.executable,
        "-I",
        "-S",
        "-c",
        script,
        str(uid),
        str(path),
        stdout=subprocess.PIPE,
    )
    out, _ = await process.communicate()
    return out.decode().strip()


def test_socket_and_lock_are_0600_and_their_folder_0700(short: Path) -> None:
    path = short / "run" / "control.sock"
    usual = os.umask(0)
    try:
        with Lock(path.parent) as lock, control_socket(path, lock):
            modes = [stat.S_IMODE(p.stat().st_mode) for p in (path, path.parent / "daemon.lock", path.parent)]
    finally:
        os.umask(usual)
    assert modes == [0o600, 0o600, 0o700]
    assert not path.exists()


def test_a_second_daemon_is_refused_by_name_and_the_first_goes_on(short: Path) -> None:
    """The second one is another process, or flock would not see the difference."""
    script = (
        "import sys; from pathlib import Path; from comfytunnel.api.listen import Lock, control_socket\n"
        "p = Path(sys.argv[1])\n"
        "with Lock(p.parent, p.parent / 'state') as l, control_socket(p, l):\n"
        "    print('up', flush=True); sys.stdin.read()\n"
    )
    path = short / "c.sock"
    first = subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with first:
        assert first.stdout is not None
        assert first.stdout.readline() == "up\n"
        inode = path.stat().st_ino
        with pytest.raises(RefusedError, match=str(first.pid)), Lock(path.parent):
            pass
        with pytest.raises(RefusedError), Lock(short / "else", path.parent / "state"):
            pass
        with Lock(short / "else"):
            pass  # what was taken before the refusal has been given back
        assert path.stat().st_ino == inode
        first.send_signal(signal.SIGKILL)
    assert path.exists()
    with Lock(path.parent) as lock, control_socket(path, lock) as sock:
        assert stat.S_ISSOCK(path.stat().st_mode)
        assert path.stat().st_ino != inode or sock.fileno() >= 0


def test_a_file_that_is_no_socket_is_never_removed(short: Path) -> None:
    (short / "c.sock").write_text("precious")
    with Lock(short) as lock, pytest.raises(StateError), control_socket(short / "c.sock", lock):
        pass
    assert (short / "c.sock").read_text() == "precious"


def test_a_path_too_long_is_told_before_anything_is_bound(short: Path) -> None:
    long = short / ("x" * 120)
    with (
        Lock(short) as lock,
        pytest.raises(UsageError, match="COMFYTUNNEL_SOCKET"),
        control_socket(long, lock),
    ):
        pass


async def test_the_server_stops_at_once_with_streams_and_idle_callers(short: Path) -> None:
    """The daemon has two seconds in all; an open stream must not cost any of them."""
    async with serving(short) as api:
        job_id = await api.submit()
        streams = [
            await api.http.get(f"http://localhost{path}")
            for path in ("/v1/events", f"/api/v2/jobs/{job_id}/events")
        ]
        for stream in streams:
            assert await stream.content.readline()
        begun = time.monotonic()
        await api.server.__aexit__(None, None, None)
        assert time.monotonic() - begun < 1
        for stream in streams:
            await asyncio.wait_for(stream.content.read(), 1)  # the end, not a reset


async def test_a_request_that_hangs_does_not_keep_the_server(short: Path) -> None:
    """A body that never comes: half a second more than the grace is all it gets."""
    async with serving(short) as api:
        reader, writer = await asyncio.open_unix_connection(api.path)
        writer.write(b"POST /api/v2/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
        await writer.drain()
        await api.ask("GET", "/v1/health")
        begun = time.monotonic()
        await api.server.__aexit__(None, None, None)
        assert time.monotonic() - begun < 1.9
        writer.close()
        await reader.read()


def test_details_are_an_object_even_where_there_are_none() -> None:
    """As docs/api.md shows it: a program may look for `details.hint` without looking for `details` first."""
    body = answers.refusal(Error("So it is.")).body
    assert isinstance(body, bytes)
    assert json.loads(body)["error"] == {"code": "internal", "message": "So it is.", "details": {}}
