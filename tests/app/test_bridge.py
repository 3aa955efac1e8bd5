"""The bridge that schemathesis crosses adds no fault of its own."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
from pathlib import Path

import pytest

from tests.app.bridge import EVENTS, Bridge

ANSWER = b"HTTP/1.1 422 Unprocessable Entity\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno"


@pytest.mark.parametrize("size", [0, 5_000_000], ids=["small", "large"])
async def test_an_answer_that_comes_before_all_is_sent_arrives_whole(tmp_path: Path, size: int) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n")
        writer.write(ANSWER)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_unix_server(refuse, tmp_path / "s")
    async with server, Bridge(tmp_path / "s") as bridge, asyncio.timeout(10):
        for _ in range(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", bridge.port)
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\n\r\n" + b"x" * size)
            assert await reader.read() == ANSWER
            writer.close()
            await writer.wait_closed()


async def test_a_stream_is_ended_after_a_whole_event_however_slowly_that_comes(tmp_path: Path) -> None:
    """An event in the middle of which the time is up comes to its end first."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    event = b"data: 12345678\n\n"
    gone = asyncio.Event()

    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head + b"%x\r\n" % len(event) + event[:8])
        await asyncio.sleep(3 * EVENTS)  # no synchronisation: what is slow
        writer.write(event[8:] + b"\r\n")
        await reader.read()
        writer.close()
        gone.set()

    def ask(port: int) -> bytes:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as asking:
            asking.request("GET", "/v1/events")
            return asking.getresponse().read()

    server = await asyncio.start_unix_server(stream, tmp_path / "s")
    async with server, Bridge(tmp_path / "s") as bridge, asyncio.timeout(10):
        assert await asyncio.to_thread(ask, bridge.port) == event
        await gone.wait()


async def test_what_is_asked_and_answered_goes_through_byte_for_byte(tmp_path: Path) -> None:
    """More than any buffer holds, both ways at once."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    sent = bytes(range(256)) * 20_000
    server = await asyncio.start_unix_server(echo, tmp_path / "s")
    async with server, Bridge(tmp_path / "s") as bridge, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", bridge.port)
        writer.write(sent)
        writer.write_eof()
        assert await reader.read() == sent
        writer.close()
        await writer.wait_closed()
