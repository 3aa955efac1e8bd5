"""A TCP port in front of a Unix socket, byte for byte: for tools that know no Unix socket. An event stream, which would never end, is ended in good
order after its first events."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import TracebackType
from typing import Self

EVENTS = 0.1  # seconds that an event stream goes on
STREAM = b"Content-Type: text/event-stream"
END = b"0\r\n\r\n"  # of a chunked body


class Bridge:
    """`async with Bridge(path) as bridge:` serves on 127.0.0.1, `bridge.port`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._calls: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._server.close()
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        call = asyncio.current_task()
        assert call is not None
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        near, far = writer, None
        try:
            answers, far = await asyncio.open_unix_connection(self._path)
            up = asyncio.create_task(_pass(reader, far))
            try:
                await _pass_answers(answers, near)
            finally:
                up.cancel()
                await asyncio.gather(up, return_exceptions=True)
        except OSError:
            pass  # either side has left
        finally:
            for each in (near, far):
                if each is not None:
                    each.transport.abort() if each is far else each.close()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


async def _pass_answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    data, streams = b"", False
    try:
        async with asyncio.timeout(None) as patience:
            while data := await reader.read(65536):
                if STREAM in data and not streams:
                    streams = True
                    data = data.replace(STREAM, b"Connection: close\r\n" + STREAM, 1)
                    patience.reschedule(asyncio.get_running_loop().time() + EVENTS)
                writer.write(data)
                await writer.drain()
    except TimeoutError:
        writer.write(END)  # events are written whole: what came last ends a chunk
        await writer.drain()
