"""A POST that its sender has given up: what the network delivers within the settle time is no second execution, and the rest never arrives."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace

import pytest

from comfytunnel.comfy import client as comfy
from comfytunnel.comfy.client import Client
from comfytunnel.feed import Feed
from comfytunnel.jobs.model import Status
from comfytunnel.jobs.scheduler import Gate, Place
from tests.jobs.bench import Bench, picture


class Slow:
    """A relay to ComfyUI that hangs up on the first POST /prompt and delivers it some seconds later."""

    def __init__(self, port: int, late: float) -> None:
        self.port = port
        self.late = late
        self.kept = 0
        self.tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.port)
        back = asyncio.create_task(copy(far_reader, writer))
        self.tasks.add(back)
        head = b""
        while data := await reader.read(65536):
            head += data
            if not self.kept and head.startswith(b"POST /prompt") and complete(head):
                self.kept += 1
                writer.transport.abort()
                await asyncio.sleep(self.late)
                far_writer.write(head)
                await far_writer.drain()
                break
            if not head.startswith(b"POST /prompt") or self.kept:
                far_writer.write(data)
        else:
            far_writer.close()  # the near side has left; the far one ends the late POST's connection by itself
        await back
        far_writer.close()
        writer.close()


def complete(request: bytes) -> bool:
    head, _, body = request.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return bool(lengths) and len(body) >= int(lengths[0].split(b":")[1])


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass  # that side has hung up
    writer.close()


@pytest.mark.parametrize("late", [0.0, 0.1, 0.4])
async def test_a_post_that_arrives_within_the_settle_time_runs_once(bench: Bench, late: float) -> None:
    slow = Slow(bench.far.port, late)
    server = await asyncio.start_server(slow.serve, "127.0.0.1", 0)
    client = Client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    await bench.scheduler.remove_place("default")
    bench.scheduler.apply(replace(bench.settings, settle=0.6))
    bench.scheduler.add_place(Place("default", client, Feed(Gate(1, True))))
    done = await bench.ends(await bench.submit(picture()))
    assert slow.kept == 1
    assert (done.status, done.executions, bench.far.prompts_received) == (Status.SUCCEEDED, 1, 1)
    await bench.scheduler.remove_place("default")
    await client.close()
    server.close()
    await asyncio.wait(slow.tasks)


class Thin:
    """A relay that lets the first POST /prompt stand still in its body until a second one comes, and then passes on what it still gets."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.posts = 0
        self.begun = asyncio.Event()
        self.second = asyncio.Event()
        self.first_ended = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.port)
        back = asyncio.create_task(copy(far_reader, writer))
        first = False
        try:
            while data := await reader.read(65536):
                far_writer.write(data)
                await far_writer.drain()
                if data.startswith(b"POST /prompt"):
                    self.posts += 1
                    first = self.posts == 1
                    if first:
                        self.begun.set()
                        await self.second.wait()
                    else:
                        self.second.set()
            far_writer.write_eof()
        except ConnectionError:
            far_writer.transport.abort()  # a door does so, too: what it was given last may be less than was sent
        if first:
            self.first_ended.set()
        await back
        far_writer.close()
        writer.close()


async def test_a_post_that_is_given_up_over_a_link_that_lives_is_not_delivered_any_more(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The body is larger than what kernels hold, so most of it still lies with us at the deadline; then the line becomes fast."""
    monkeypatch.setattr(comfy, "SUBMIT_DEADLINE", 1.0)
    thin = Thin(bench.far.port)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(
        socket.SOL_SOCKET, socket.SO_RCVBUF, 65536
    )  # the kernel would take 33 MB in our stead
    server = await asyncio.start_server(thin.serve, sock=listener, limit=65536)
    client = Client(f"http://127.0.0.1:{listener.getsockname()[1]}")
    await bench.scheduler.remove_place("default")
    bench.scheduler.add_place(Place("default", client, Feed(Gate(1, True))))
    workflow = picture(seconds=0.3)
    workflow["1"]["_meta"] = {"title": "x" * 12_000_000}
    job = await bench.submit(workflow)
    async with asyncio.timeout(20):
        await thin.begun.wait()
        monkeypatch.setattr(comfy, "SUBMIT_DEADLINE", 20.0)  # for the second
        await thin.first_ended.wait()
    done = await bench.ends(job)
    assert thin.posts == 2
    assert (done.status, done.executions, done.attempts) == (Status.SUCCEEDED, 1, 2)
    assert (bench.far.prompts_received, bench.far.executions) == (1, [job.id])
    await bench.scheduler.remove_place("default")
    await client.close()
    server.close()
