"""The API on a loopback port: which part of it, for whom, and in which clothes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from comfytunnel.api.routes import ROUTES
from comfytunnel.config import Tcp, WebConfig
from comfytunnel.fdstore import Handed
from comfytunnel.notify import Notifier
from comfytunnel.tunnel import bound
from comfytunnel.tunnel.listeners import Listeners
from comfytunnel.weblistener import WebListener
from tests.api.conftest import WORKFLOW, Api
from tests.fakes.sshd import free_port

SERVED = {
    ("GET", "/v1/status"),
    ("GET", "/v1/events"),
    ("GET", "/v1/outages"),
    ("POST", "/v1/queue/pause"),
    ("POST", "/v1/queue/resume"),
    ("POST", "/v1/queue/drain"),
    ("GET", "/v1/workflows"),
    ("GET", "/v1/workflows/{name}"),
    ("POST", "/v1/workflows/parameters"),
    ("POST", "/v1/jobs/{id}/move"),
    ("POST", "/v1/jobs/{id}/priority"),
    ("POST", "/v1/jobs/{id}/retry"),
    ("POST", "/api/generate"),
}


@dataclass
class Web:
    """The listener of a test, and a program that calls it."""

    api: Api
    listener: WebListener
    port: int
    http: aiohttp.ClientSession

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    @property
    def config(self) -> WebConfig:
        return WebConfig(listen=(Tcp("127.0.0.1", self.port), Tcp("::1", self.port)))

    async def ask(
        self, method: str, path: str, **options: Any
    ) -> tuple[int, dict[str, Any], aiohttp.ClientResponse]:
        async with self.http.request(method, self.url + path, **options) as answer:
            body = await answer.read()
            return answer.status, json.loads(body) if body else {}, answer

    async def listening(self) -> None:
        """Wait until every address is bound."""
        await self.api.tunnels.changed.until(
            lambda _: (view := self.listener.view()) is not None and len(view.listen) == 2
        )


@pytest.fixture
async def web(api: Api) -> AsyncIterator[Web]:
    async with asyncio.TaskGroup() as group, aiohttp.ClientSession() as http:
        with Listeners(Notifier(), Handed()) as listeners:
            listener = WebListener(api.context, listeners, group, api.tunnels.poke)
            made = Web(api, listener, free_port(), http)
            listener.serve(made.config)
            await made.listening()
            yield made
            await listener.leave()


async def raw(port: int, request: bytes, host: str = "127.0.0.1") -> bytes:
    """All that comes back until the connection is closed."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(request)
        return await reader.read()
    finally:
        writer.close()


# --- which part -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), [route.key for route in ROUTES], ids=lambda text: text)
async def test_over_tcp_there_is_comfy_api_v2_and_of_ours_what_the_page_needs(
    web: Web, method: str, path: str
) -> None:
    """What is not served is unknown there: 404 before anything is looked at, or 405 where another method is served."""
    ours = path.startswith("/api/v2/") or (method, path) in SERVED
    filled = path.replace("{id}", "x").replace("{name}", "default").replace("{hash}", "x")
    async with web.http.request(method, web.url + filled) as answer:
        body = b"" if path.endswith("/events") else await answer.read()
    told = b'"There is no route ' in body
    assert ((answer.status == 404 and told) or answer.status == 405) is not ours
    assert web.api.tunnels.asked == web.api.reloads == []


async def test_over_tcp_a_job_is_ordered_within_the_queue_and_neither_sent_elsewhere_nor_told_of(
    web: Web,
) -> None:
    """docs/decisions/0010: no move to another tunnel, and a retry leaves the webhook out."""
    job_id = await web.api.submit()
    status, _, _ = await web.ask("POST", f"/v1/jobs/{job_id}/move", json={"to": "front"})
    assert status == 200
    status, told, _ = await web.ask("POST", f"/v1/jobs/{job_id}/move", json={"tunnel": "default"})
    assert (status, told["error"]["code"]) == (403, "forbidden")
    assert (await web.ask("POST", f"/v1/jobs/{job_id}/retry"))[0] == 201
    assert not web.api.scheduler.hooked
    assert (await web.api.ask("POST", f"/v1/jobs/{job_id}/retry"))[0] == 201
    assert web.api.scheduler.hooked


async def test_both_loopback_addresses_answer(web: Web) -> None:
    for host, address in (("127.0.0.1", "127.0.0.1"), ("[::1]", "::1")):
        request = f"GET /v1/status HTTP/1.1\r\nHost: {host}:{web.port}\r\nConnection: close\r\n\r\n"
        assert (await raw(web.port, request.encode(), address)).startswith(b"HTTP/1.1 200 OK\r\n")
    view = web.listener.view()
    assert view is not None
    assert view.listen == [f"127.0.0.1:{web.port}", f"[::1]:{web.port}"]


async def test_urls_begin_with_the_hosts_name_as_the_caller_wrote_it(web: Web) -> None:
    for name in ("localhost", "127.0.0.1"):
        web_url = f"http://{name}:{web.port}"
        async with web.http.post(f"{web_url}/api/v2/jobs", json={"workflow": WORKFLOW}) as answer:
            job = await answer.json()
        assert answer.status == 201
        assert job["urls"]["self"] == f"{web_url}/api/v2/jobs/{job['id']}"


# --- for whom -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Host": "evil.example:PORT"}, "host_refused"),
        ({"Host": "localhost:18188"}, "host_refused"),
        ({"Host": "localhost"}, "host_refused"),
        ({"Host": "127.0.0.1.evil.example:PORT"}, "host_refused"),
        ({"Origin": "http://evil.example"}, "origin_refused"),
        ({"Origin": "http://localhost:18188"}, "origin_refused"),
        ({"Origin": "https://localhost:PORT"}, "origin_refused"),
        ({"Origin": "http://127.0.0.1:PORT"}, "origin_refused"),
        ({"Origin": "null"}, "origin_refused"),
        ({"Sec-Fetch-Site": "cross-site"}, "site_refused"),
        ({"Sec-Fetch-Site": "same-site"}, "site_refused"),
        (
            {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
            "site_refused",
        ),
    ],
    ids=lambda value: " ".join(value.values()) if isinstance(value, dict) else value,
)
async def test_what_comes_from_another_page_is_refused(web: Web, headers: dict[str, str], code: str) -> None:
    """Also a link on another page, which ComfyUI's own port lets pass, and also what this port does not serve."""
    sent = {name: value.replace("PORT", str(web.port)) for name, value in headers.items()}
    for method, path in (("GET", "/api/v2/jobs"), ("POST", "/api/v2/jobs"), ("GET", "/v1/nowhere")):
        status, body, _ = await web.ask(method, path, headers=sent)
        assert (status, body["error"]["code"]) == (403, code)
    assert not any((await web.api.store.counts()).values())


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "LOCALHOST:PORT"},
        {"Host": "127.0.0.1:PORT", "Origin": "http://127.0.0.1:PORT", "Sec-Fetch-Site": "same-origin"},
        {"Host": "[::1]:PORT"},
        {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
        {"Authorization": "Bearer whatever"},
        {"Referer": "http://localhost:PORT/"},
    ],
    ids=lambda value: " ".join(value.values()),
)
async def test_programs_and_the_port_itself_pass(web: Web, headers: dict[str, str]) -> None:
    sent = {name: value.replace("PORT", str(web.port)) for name, value in headers.items()}
    assert (await web.ask("GET", "/v1/status", headers=sent))[0] == 200


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"GET /v1/status HTTP/1.0\r\n\r\n", b"400"),
        (b"GET /v1/status HTTP/1.1\r\nHost: localhost:PORT\r\nHost: evil.example\r\n\r\n", b"400"),
        (b"GET http://evil.example/v1/status HTTP/1.1\r\nHost: localhost:PORT\r\n\r\n", b"403"),
        (b"GET /v1/status HTTP/1.1\r\nHost: localhost:PORT\r\nHost : x\r\n\r\n", b"400"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: localhost:PORT\r\n\r\n", b"400"),
    ],
    ids=["no host", "two hosts", "another target", "a bad field", "no http", "a long line"],
)
async def test_what_could_be_read_in_two_ways_or_not_at_all_is_refused_in_our_words(
    web: Web, request_head: bytes, status: bytes
) -> None:
    async with asyncio.timeout(10):
        request = request_head.replace(b"PORT", b"%d" % web.port).replace(
            b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"
        )
        answer = await raw(web.port, request)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split()[1] == status
    assert json.loads(body)["error"]["code"] in ("bad_request", "host_refused")
    assert b"nosniff" in head
    assert b"default-src 'none'" in head


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_another_user_of_the_machine_is_turned_away(web: Web) -> None:
    script = (
        "import encodings.idna, os, socket, sys; os.setgid(65534); os.setuid(65534)\n"
        "s = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n"
        "s.sendall(b'GET /v1/status HTTP/1.1\\r\\nHost: localhost:%s\\r\\n\\r\\n' % sys.argv[1].encode())\n"
        "answer = b''\n"
        "while more := s.recv(65536): answer += more\n"
        "sys.stdout.buffer.write(answer)\n"
    )
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", "-c", script, str(web.port), stdout=subprocess.PIPE
    )
    answer, _ = await program.communicate()  # ends because the connection does not stay open
    assert answer.startswith(b"HTTP/1.1 403")
    assert b'"other_user"' in answer


async def test_the_token_is_wanted_from_everybody_once_it_is_set(web: Web) -> None:
    """And a reload of the token alone leaves the listener as it is."""
    web.listener.serve(WebConfig(listen=web.config.listen, token="sesame"))
    wrong = [
        {},
        {"Authorization": "sesame"},
        {"Authorization": "Bearer sesam"},
        {"Authorization": "Bearer ü"},
    ]
    for headers in wrong:
        for method, path in (
            ("GET", "/api/v2/jobs"),
            ("HEAD", "/api/v2/assets/by-hash/x"),
            ("POST", "/v1/reload"),
        ):
            status, body, answer = await web.ask(method, path, headers=headers)
            assert (status, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
            assert method == "HEAD" or body["error"]["code"] == "unauthorized"
    right = {"Authorization": "Bearer sesame"}
    assert (await web.ask("GET", "/api/v2/jobs", headers=right))[0] == 200
    refused = await web.ask("GET", "/api/v2/jobs", headers=right | {"Origin": "http://evil.example"})
    assert refused[0] == 403
    web.listener.serve(web.config)
    assert (await web.ask("GET", "/api/v2/jobs"))[0] == 200


# --- in which clothes -----------------------------------------------------------------------------------------------


async def test_every_answer_forbids_a_browser_to_guess_and_to_run_anything(web: Web) -> None:
    job_id = await web.api.submit()
    for method, path in (
        ("GET", "/v1/status"),
        ("GET", "/v1/events"),
        ("GET", f"/api/v2/jobs/{job_id}/events"),
        ("GET", "/nowhere"),
        ("PATCH", "/api/v2/jobs"),
        ("POST", "/api/v2/jobs"),
    ):
        async with web.http.request(method, web.url + path) as answer:
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
            assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize(
    ("name", "kind", "way"),
    [
        ("a.png", "image/png", "inline"),
        ("a.html", "text/html", "attachment"),
        ("a.svg", "image/svg+xml", "attachment"),
        ("a.js", "text/javascript", "attachment"),
        ("a.xml", "application/xml", "attachment"),
        ("a.pdf", "application/pdf", "attachment"),
        ("a.txt", "text/plain", "attachment"),
    ],
)
async def test_an_output_that_a_browser_could_run_is_a_download_in_a_sandbox(
    web: Web, tmp_path: Path, name: str, kind: str, way: str
) -> None:
    job_id = await web.api.submit()
    await web.api.scheduler.start(job_id)
    (tmp_path / name).write_bytes(b"<script>alert(1)</script>")
    output = await web.api.scheduler.output(job_id, tmp_path / name, kind)
    async with web.http.get(f"{web.url}/api/v2/assets/{output.asset_id}/content") as answer:
        assert answer.headers["Content-Disposition"].startswith(f"{way};")
        assert answer.headers["Content-Type"] == (kind if way == "inline" else "application/octet-stream")
        assert "sandbox" in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


# --- where ----------------------------------------------------------------------------------------------------------


async def test_another_address_takes_its_place_and_streams_end_at_once(web: Web) -> None:
    stream = await web.http.get(f"{web.url}/v1/events")
    assert await stream.content.readline() == b"event: status\n"
    before, web.port = web.port, free_port()
    async with asyncio.timeout(1):
        await web.listener.leave(web.config)
    await stream.content.read()  # its end, not a reset
    web.listener.serve(web.config)
    await web.listening()
    assert (await web.ask("GET", "/v1/status"))[0] == 200
    assert before != web.port
    assert not web.api.context.closing.value, "the control socket's streams go on"


async def test_switched_off_it_is_gone(web: Web) -> None:
    await web.listener.leave(WebConfig())
    web.listener.serve(WebConfig())
    assert web.listener.view() is None


async def test_a_port_that_is_taken_is_said_with_its_holder_and_taken_over_later(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other address is served meanwhile, and so is everything else."""
    monkeypatch.setattr(bound, "BIND_AGAIN", 0.05)
    script = "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); sys.stdin.read()"
    holder = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    web.port = int(await holder.stdout.readline())
    await web.listener.leave(web.config)
    web.listener.serve(web.config)

    def trouble(_: int) -> bool:
        view = web.listener.view()
        return view is not None and view.cause is not None and bool(view.listen)

    async with asyncio.timeout(10):
        await web.api.tunnels.changed.until(trouble)
        view = web.listener.view()
        assert view is not None
        assert view.cause is not None
        assert view.cause.code == "port_in_use"
        assert str(holder.pid) in view.cause.message
        assert view.listen == [f"[::1]:{web.port}"]
        assert (await web.api.ask("GET", "/v1/health"))[0] == 200
        await holder.communicate(b"")
        await web.listening()
    view = web.listener.view()
    assert view is not None
    assert view.cause is None
    assert (await web.ask("GET", "/v1/status"))[0] == 200


async def test_callers_beyond_the_bound_are_closed(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("comfytunnel.api.tcp.CALLERS_MOST", 3)
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(socket.create_connection(("127.0.0.1", web.port)))
        assert await raw(web.port, b"") == b""
