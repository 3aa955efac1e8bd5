"""ComfyUI's answers, good and bad, become values or one of four errors, bounded in time and size."""

from __future__ import annotations

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from uuid import uuid4

import pytest
from aiohttp import web

from comfytunnel.comfy import client as module
from comfytunnel.comfy import exchange
from comfytunnel.comfy.client import Client
from comfytunnel.comfy.errors import Ambiguous, ComfyError, NotComfyUI, Refused, Unreachable
from comfytunnel.comfy.shapes import MESSAGE_CHARS, TRACEBACK_CHARS, Outcome, plain, read_failure
from comfytunnel.demo.comfyui import ComfyUI

GRAPH = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 5}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
}
Serve = Callable[[Callable[[web.Request], Awaitable[web.StreamResponse]]], Awaitable[Client]]


@pytest.fixture
async def far(tmp_path: Path) -> AsyncIterator[tuple[ComfyUI, Client]]:
    async with ComfyUI(tmp_path) as comfyui:
        client = Client(comfyui.url + "/")
        yield comfyui, client
        await client.close()


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """A server that answers every request the way a test says."""
    opened: list[web.AppRunner | Client] = []

    async def begin(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> Client:
        app = web.Application()
        app.router.add_route("*", "/{rest:.*}", handler)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        client = Client(f"http://127.0.0.1:{runner.addresses[0][1]}")
        opened.extend([client, runner])
        return client

    yield begin
    for one in opened:
        await (one.close() if isinstance(one, Client) else one.cleanup())


async def test_the_whole_of_one_prompt(far: tuple[ComfyUI, Client]) -> None:
    comfyui, client = far
    assert await client.version() == "0.33.0"
    assert await client.remaining() == 0
    job_id = str(uuid4())
    answer = await client.submit(GRAPH, job_id, "me")
    assert (answer.prompt_id, answer.skipped) == (job_id, [])
    async with asyncio.timeout(10):
        await comfyui.until(lambda: job_id in comfyui.engine.history)
    entry = await client.history(job_id)
    assert entry is not None
    assert (entry.outcome, entry.job, entry.failure) == (Outcome.SUCCESS, job_id, None)
    assert [one.job for one in await client.recent()] == [job_id]
    [output] = entry.outputs
    async with client.view(output.filename, output.subfolder, output.type) as download:
        data = await download.read(10**6)
        assert len(data) == download.size
    assert data == (comfyui.base / "output" / output.filename).read_bytes()
    assert await client.history("unknown") is None
    assert len(await client.queue()) == 0


async def test_a_temp_file_is_gone_after_a_restart(far: tuple[ComfyUI, Client]) -> None:
    comfyui, client = far
    name = await client.upload_temp("marker.txt", b"x")
    assert await client.has_temp(name)
    await comfyui.restart()
    assert not await client.has_temp(name)


async def test_a_rejected_workflow_carries_the_servers_body(far: tuple[ComfyUI, Client]) -> None:
    with pytest.raises(Refused) as caught:
        await far[1].submit({"1": {"class_type": "Nope", "inputs": {}}}, str(uuid4()), "me")
    assert caught.value.status == 400
    assert caught.value.body["error"]["type"] == "missing_node_type"


async def test_only_a_failed_connect_proves_that_nothing_was_sent(far: tuple[ComfyUI, Client]) -> None:
    comfyui, client = far
    comfyui.faults.drop_prompt_response = 1
    with pytest.raises(Ambiguous) as caught:
        await client.submit(GRAPH, str(uuid4()), "me")
    assert caught.value.status is None
    comfyui.faults.reject_prompt_500 = 1
    with pytest.raises(Ambiguous) as caught:
        await client.submit(GRAPH, str(uuid4()), "me")
    assert caught.value.status == 500
    await comfyui.stop()
    with pytest.raises(Unreachable):
        await client.submit(GRAPH, str(uuid4()), "me")


@pytest.mark.parametrize("login", ["401", "redirect", "html"])
async def test_a_login_page_is_not_comfyui(far: tuple[ComfyUI, Client], login: str) -> None:
    comfyui, client = far
    comfyui.faults.html_login = login  # type: ignore[assignment]  # parametrize hands out plain strings
    for ask in (client.version, client.queue, lambda: client.submit(GRAPH, str(uuid4()), "me")):
        with pytest.raises(NotComfyUI):
            await ask()


async def test_the_doors_own_503_means_that_nothing_was_sent(serve: Serve) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.json_response({}, status=503, headers={exchange.NOT_DELIVERED: "connect_timeout"})

    with pytest.raises(Unreachable, match="connect_timeout"):
        await (await serve(handler)).submit(GRAPH, str(uuid4()), "me")


async def test_silence_ends_at_the_deadline(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    async def handler(_: web.Request) -> web.Response:
        await asyncio.sleep(60)
        return web.Response()

    monkeypatch.setattr(module, "PROBE_DEADLINE", 0.2)
    client = await serve(handler)
    with pytest.raises(Ambiguous) as caught:
        await client.version()
    assert caught.value.silent


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"[" * 100_000,
        b"null",
        b"[]",
        b'{"queue_running": 1, "queue_pending": []}',
        gzip.compress(b'{"queue_running": [], "queue_pending": []}'),
        b'{"queue_running": [], "queue_pending": []' + b" " * (65 * 1024**2) + b"}",
    ],
    ids=["empty", "text", "deep", "null", "list", "types", "gzip", "huge"],
)
async def test_an_answer_that_is_not_comfyuis_is_an_error_of_its_own(serve: Serve, body: bytes) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    client = await serve(handler)
    with pytest.raises(NotComfyUI):
        await client.queue()


async def test_what_python_writes_as_json_is_read(serve: Serve) -> None:
    """NaN in somebody's workflow and a file name that is not UTF-8 must not blind us."""
    body = (
        b'{"j": {"prompt": [1, "j", {"1": {"inputs": {"x": NaN}}}, {}, []], "status": {"status_str": "success"},'
        b' "outputs": {"9": {"images": [{"filename": "\\udcff.png", "type": "output"}, {"filename": 5}, 7],'
        b' "text": ["a", 5, "b"], "odd": 5, "animated": [true]}, "8": 5}}}'
    )

    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    entry = await (await serve(handler)).history("j")
    assert entry is not None
    assert [(one.filename, one.text) for one in entry.outputs] == [("?.png", None), ("text_9.txt", "a\nb")]


async def test_a_connection_that_closes_without_an_answer_is_ambiguous(tmp_path: Path) -> None:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        client = Client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        with pytest.raises(Ambiguous):
            await client.queue()
        await client.close()


@pytest.mark.parametrize("end", ["deadline", "cancel", "500"])
async def test_a_post_that_is_given_up_is_reset(monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    """A close would have the rest of the body delivered; a reset is also what tells the door to drop what it holds."""
    monkeypatch.setattr(module, "SUBMIT_DEADLINE", 0.2 if end == "deadline" else 20.0)
    begun, given_up = asyncio.Event(), asyncio.Event()
    said: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if end == "500":
            writer.write(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n")
        begun.set()
        await given_up.wait()
        try:
            while await reader.read(65536):
                pass
            said.set_result("closed")
        except ConnectionResetError:
            said.set_result("reset")
        writer.transport.abort()

    async with asyncio.timeout(10), await asyncio.start_server(serve, "127.0.0.1", 0, limit=1024) as server:
        client = Client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        asking = asyncio.create_task(client.submit({"1": {"x": "x" * 50_000}}, str(uuid4()), "me"))
        await begun.wait()
        if end == "cancel":
            asking.cancel()
        with pytest.raises(asyncio.CancelledError if end == "cancel" else Ambiguous):
            await asking
        given_up.set()
        assert await said == "reset"
        await client.close()


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n",
        b"HTTP/1.1 206 Partial Content\r\nContent-Length: 4\r\nContent-Range: bytes 0-3/4000\r\n",
    ],
    ids=["no length", "encoded", "a part"],
)
async def test_a_download_that_does_not_show_its_end_is_not_taken_for_whole(head: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head + b"\r\nhalf")
        writer.close()

    async with asyncio.timeout(10), await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        client = Client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        with pytest.raises(Ambiguous):
            async with client.view("a.png", "", "output") as download:
                await download.read(100)
        await client.close()


async def test_an_odd_prompt_id_in_the_answer_means_look_it_up(serve: Serve) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.json_response({"prompt_id": "x/../../queue?", "number": 0, "node_errors": {}})

    assert (await (await serve(handler)).submit(GRAPH, str(uuid4()), "me")).prompt_id is None


async def test_a_no_without_end_is_a_no_all_the_same(serve: Serve) -> None:
    """A 400 says what it says, whatever its body is."""

    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=400, body=b'"' + b"x" * 10_000_000 + b'"', content_type="application/json")

    with pytest.raises(Refused) as caught:
        await (await serve(handler)).submit(GRAPH, str(uuid4()), "me")
    assert caught.value.body is None


async def test_it_speaks_through_a_unix_socket(tmp_path: Path) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.json_response({"queue_running": [], "queue_pending": [[2, "b"], [1, "a"], "x", [3]]})

    app = web.Application()
    app.router.add_get("/queue", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "s")).start()
    client = Client("http://localhost", unix_socket=str(tmp_path / "s"))
    assert [item.prompt_id for item in (await client.queue()).pending] == ["a", "b"]
    await client.close()
    await runner.cleanup()


async def test_nothing_of_aiohttp_leaves_the_room() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        client = Client(f"http://127.0.0.1:{taken.getsockname()[1]}")
        for ask in (
            client.version,
            client.queue,
            lambda: client.websocket("x"),
            lambda: client.interrupt("x"),
        ):
            with pytest.raises(ComfyError):
                await ask()
        await client.close()


def test_terminal_escapes_and_invisible_characters_are_taken_out() -> None:
    assert plain("a\x1b[31mred\x1b]0;title\x07\x1b(B \u202ex\x00\r\n\tend\x9b") == "ared x\n\tend"
    assert plain("x" * 50, 10) == "x" * 10
    assert plain("abc" * 50, 3, keep_end=True) == "abc"
    assert plain(None) == ""


def test_an_error_of_a_node_is_capped_and_keeps_the_end_of_its_traceback() -> None:
    """The class, the id and the last lines tell most; a server may send a hundred megabytes of it."""
    failure = read_failure(
        {
            "node_id": "12\x1b[2J" + "7" * 5000,
            "node_type": "K\nSampler" + "x" * 5000,
            "exception_type": "OutOfMemoryError",
            "exception_message": "\x1b[31mno room" + "y" * 50_000,
            "traceback": ["line\n" * 100_000, 7, "\x1b]0;title\x07the end"],
        }
    )
    assert failure.node_id is not None
    assert failure.class_type is not None
    assert failure.traceback is not None
    assert failure.message.startswith("OutOfMemoryError: no room")
    assert len(failure.message) <= MESSAGE_CHARS + 100
    assert failure.node_id.startswith("127")
    assert len(failure.node_id) <= 200 >= len(failure.class_type)
    assert failure.class_type.startswith("K Sampler")
    assert failure.traceback.endswith("the end")
    assert len(failure.traceback) <= TRACEBACK_CHARS
    assert "\x1b" not in failure.message + failure.traceback + failure.node_id
