"""A network that delivers a POST after its sender has given up: within the settle time that is never a second execution."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

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
