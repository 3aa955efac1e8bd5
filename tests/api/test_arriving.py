"""A request whose rest does not come is ended; one that comes slowly is not. Over real sockets, with seconds in the place of half a minute."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from comfytunnel.api.server import Server
from comfytunnel.api.tcp import TcpApi
from comfytunnel.errors import Error
from comfytunnel.feed import Feed
from comfytunnel.jobs.assets import Incoming
from tests.api.conftest import WORKFLOW, Api

SILENCE = 0.9  # seconds
PAUSE = SILENCE / 4
FORM = (
    b'--x\r\nContent-Disposition: form-data; name="content_type"\r\n\r\nimage/png\r\n'
    b'--x\r\nContent-Disposition: form-data; name="file_path"\r\n\r\nphoto.png\r\n'
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
)
FORM_END = b"\r\n--x--\r\n"


class Anybody:
    """Satisfies api.tcp.Guard."""

    def stranger(self, sock: socket.socket) -> Error | None:
        return None

    def wrong(
        self, method: str, target: str, minor: int, fields: Mapping[str, Sequence[str]]
    ) -> Error | None:
        return None


class Caller:
    """A program that is in no hurry."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def head(self, path: str, length: int, kind: str = "application/json") -> None:
        text = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
        await self.send(text.encode())

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> tuple[int, str]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:-2])
        body = json.loads(await self.reader.readexactly(int(fields["content-length"])))
        code = (body.get("error") or {}).get("code", "")
        assert ("connection: close" in head.lower()) is (code == "request_timeout")
        return int(head.split()[1]), code


@asynccontextmanager
async def calling(api: Api, way: str, folder: Path) -> AsyncIterator[Caller]:
    its = dataclasses.replace(api.context, closing=Feed(False))
    if way == "tcp":
        async with TcpApi(its, Anybody(), "", SILENCE) as served:
            listening = await asyncio.get_running_loop().create_server(served, "127.0.0.1", 0)
            reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
            yield Caller(reader, writer)
            writer.close()
            listening.close()
        return
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(folder / "slow.sock"))
        sock.listen()
        async with Server(its, sock, SILENCE):
            reader, writer = await asyncio.open_unix_connection(str(folder / "slow.sock"))
            yield Caller(reader, writer)
            writer.close()


@pytest.fixture(params=["tcp", "unix"])
async def caller(api: Api, short: Path, request: pytest.FixtureRequest) -> AsyncIterator[Caller]:
    async with calling(api, request.param, short) as made:
        yield made


@pytest.mark.parametrize("path", ["/api/generate", "/v1/workflows/parameters", "/api/v2/jobs"])
async def test_a_body_that_stops_coming_is_answered_and_the_connection_closed(
    caller: Caller, path: str
) -> None:
    await caller.head(path, 1000)
    await caller.send(b'{"workflow": ')
    async with asyncio.timeout(10):
        assert await caller.answer() == (408, "request_timeout")
        assert await caller.reader.read() == b""


@pytest.mark.parametrize(
    "sent", [b"", b"--x", FORM[:60], FORM[:90], FORM, FORM + b"y" * 300_000], ids=lambda sent: len(sent)
)
async def test_an_upload_that_stops_coming_leaves_nothing_behind(
    api: Api, caller: Caller, sent: bytes
) -> None:
    await caller.head("/api/v2/assets", 1_000_000, "multipart/form-data; boundary=x")
    await caller.send(sent)
    async with asyncio.timeout(10):
        assert await caller.answer() == (408, "request_timeout")
        assert await caller.reader.read() == b""
    assert not list(api.store.files.rglob("*.part"))


async def test_what_comes_slowly_is_waited_for_as_long_as_it_comes(caller: Caller) -> None:
    """For longer than any silence may last; after it the connection serves the next."""
    body = json.dumps({"workflow": WORKFLOW}).encode()
    await caller.head("/api/v2/jobs", len(body))
    for at in range(0, len(body), len(body) // 8):
        await asyncio.sleep(PAUSE)  # no synchronisation: what is slow
        await caller.send(body[at : at + len(body) // 8])
    assert await caller.answer() == (201, "")
    form = FORM + b"the picture" * 3 + FORM_END
    await caller.head("/api/v2/assets", len(form), "multipart/form-data; boundary=x")
    await caller.send(form[:-10])
    for byte in form[-10:]:
        await asyncio.sleep(PAUSE)  # as above
        await caller.send(bytes([byte]))
    assert await caller.answer() == (201, "")


async def test_time_in_which_our_own_disk_is_slow_is_not_the_callers(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a caller that has sent all of it may take its time to read the answer."""
    write = Incoming.write

    async def slow(self: Incoming, data: bytes) -> None:
        await asyncio.sleep(SILENCE * 1.5)  # no synchronisation: the disk
        await write(self, data)

    monkeypatch.setattr(Incoming, "write", slow)
    form = FORM + b"y" * 700_000 + FORM_END
    await caller.head("/api/v2/assets", len(form), "multipart/form-data; boundary=x")
    await caller.send(form)
    assert await caller.answer() == (201, "")
