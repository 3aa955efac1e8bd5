"""Local programs that call all the time, and what each call came to.

served: whole and right. turned away: a 503 of ours with its reason. cut: reset, or closed before the answer began. refused: nobody
listens. The rest is never right: hung (nothing for HANG seconds), garbled (other bytes than were sent), shortened (the beginning of
an answer and then an orderly end, which a caller takes for the whole). faults.py says for how long refusals are nobody's mistake.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import socket
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from types import TracebackType

from tests.soak.site import Site

HANG = 45.0  # seconds; `hold` is 10, and the daemon may stand still for 12
PAUSE = (0.01, 0.15)  # seconds between two calls of one caller
UPLOAD = 1_000_000  # bytes: 4 s on the slow line, in which sshd says nothing
ALWAYS_WRONG = frozenset({"hung", "garbled"})


@dataclass(frozen=True)
class Outcome:
    who: str
    what: str
    began: float
    ended: float
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.who}: {self.what} after {self.ended - self.began:.1f} s {self.detail}".rstrip()


class ShortenedError(Exception):
    """The answer had begun and was closed, not reset, before its end."""


class GarbledError(Exception):
    """The answer is not what the server sent."""


class TurnedAwayError(Exception):
    """503 with our reason."""


class Clients:
    """run() until cancelled. `outcomes` grows; `on_outcome` is told of each at once."""

    def __init__(self, site: Site, on_outcome: Callable[[Outcome], None]) -> None:
        self._site = site
        self._on_outcome = on_outcome
        self.counts: Counter[tuple[str, str]] = Counter()
        self.longest = 0.0
        self.websockets: dict[str, float] = {}  # name: open since

    async def run(self) -> None:
        callers: list[tuple[str, Callable[[], Awaitable[None]]]] = [
            ("small 1", self._small),
            ("small 2", self._small),
            ("kept alive", self._kept_alive),
            ("large", self._large),
            ("half-closer", self._half_closer),
            ("uploader", self._uploader),
            ("leaver", self._leaver),
        ]
        async with asyncio.TaskGroup() as group:
            for who, call in callers:
                group.create_task(self._go_on(who, call))
            for number in (1, 2):
                who = f"websocket {number}"
                group.create_task(self._go_on(who, partial(self._websocket, who), bounded=False))

    async def _go_on(self, who: str, call: Callable[[], Awaitable[None]], *, bounded: bool = True) -> None:
        while True:
            began = time.monotonic()
            what, detail = "served", ""
            try:
                async with asyncio.timeout(HANG if bounded else None):
                    await call()
            except TimeoutError:
                what = "hung"
            except ConnectionRefusedError:
                what = "refused"
            except TurnedAwayError as error:
                what, detail = "turned away", str(error)
            except ShortenedError as error:
                what, detail = "shortened", str(error)
            except GarbledError as error:
                what, detail = "garbled", str(error)
            except (OSError, asyncio.IncompleteReadError) as error:
                what, detail = "cut", repr(error)
            outcome = Outcome(who, what, began, time.monotonic(), detail)
            self.counts[who, what] += 1
            if bounded:
                self.longest = max(self.longest, outcome.ended - began)
            self._on_outcome(outcome)
            await asyncio.sleep(self._site.rng.uniform(*PAUSE))

    # --- one call each ----------------------------------------------------------------------------------------------

    async def _small(self) -> None:
        async with _Call(self._site.ports["comfy"]) as call:
            await call.ask("GET", "/system_stats", last=True)
            if b"comfyui_version" not in await call.answer():
                raise GarbledError("/system_stats")

    async def _kept_alive(self) -> None:
        async with _Call(self._site.ports["files"]) as call:
            for _ in range(5):
                await call.ask("GET", "/small")
                if await call.answer() != b'{"ok": true}\n':
                    raise GarbledError("/small")

    async def _large(self) -> None:
        async with _Call(self._site.ports["files"]) as call:
            await call.ask("GET", "/big", last=True)
            self._check(await call.answer())

    async def _half_closer(self) -> None:
        async with _Call(self._site.ports["files"]) as call:
            await call.ask("GET", "/big", last=True)
            call.writer.write_eof()
            self._check(await call.answer())

    def _check(self, body: bytes) -> None:
        if hashlib.sha256(body).hexdigest() != self._site.digest:
            raise GarbledError("/big")

    async def _uploader(self) -> None:
        """Up and down again: both directions of the same bytes."""
        data = os.urandom(UPLOAD)
        boundary = "soak"
        parts = [
            f'--{boundary}\r\nContent-Disposition: form-data; name="overwrite"\r\n\r\ntrue\r\n'.encode(),
            f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="soak.png"\r\n'.encode(),
            b"Content-Type: image/png\r\n\r\n" + data + f"\r\n--{boundary}--\r\n".encode(),
        ]
        async with _Call(self._site.ports["comfy"]) as call:
            kind = f"multipart/form-data; boundary={boundary}"
            await call.ask("POST", "/upload/image", body=b"".join(parts), kind=kind)
            await call.answer()
            await call.ask("GET", "/view?filename=soak.png&type=input", last=True)
            if await call.answer() != data:
                raise GarbledError("/view is not what was uploaded")

    async def _leaver(self) -> None:
        """Sends its request and is gone, with a reset, before the answer can be there."""
        async with _Call(self._site.ports["files"]) as call:
            await call.ask("GET", "/big")
            call.reset()

    async def _websocket(self, who: str) -> None:
        async with _Call(self._site.ports["comfy"]) as call:
            await call.ask("GET", f"/ws?clientId={who.replace(' ', '')}", upgrade=True)
            async with asyncio.timeout(HANG):
                await call.switched()
            self.websockets[who] = time.monotonic()
            try:
                while await call.reader.read(65536):
                    pass
            finally:
                del self.websockets[who]


class _Call:
    """One connection to a forwarded port."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> _Call:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if error is None:
            self.writer.close()
        else:
            self.writer.transport.abort()

    def reset(self) -> None:
        linger = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()

    async def ask(
        self,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        kind: str = "",
        last: bool = False,
        upgrade: bool = False,
    ) -> None:
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
        if body:
            lines += [f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
        if last:
            lines.append("Connection: close")
        if upgrade:
            lines += ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
            lines.append("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await self.writer.drain()

    async def _head(self) -> tuple[int, dict[str, str]]:
        """Status and fields of the next answer."""
        line, *fields = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        return int(line.split()[1]), dict(field.lower().split(": ", 1) for field in fields if ": " in field)

    async def answer(self) -> bytes:
        """The body of the next answer, which must be a 200."""
        status, fields = await self._head()
        return await self._body(status, fields, wanted=200)

    async def switched(self) -> None:
        """The next answer must be that of an upgrade."""
        status, fields = await self._head()
        if status != 101:
            await self._body(status, fields, wanted=101)

    async def _body(self, status: int, fields: dict[str, str], *, wanted: int) -> bytes:
        try:
            body = await self.reader.readexactly(int(fields["content-length"]))
        except asyncio.IncompleteReadError as error:
            raise ShortenedError(f"{len(error.partial)} of {error.expected} bytes") from None
        if status == 503 and "retry-after" in fields:
            raise TurnedAwayError(json.loads(body)["error"]["code"])
        if status != wanted:
            raise GarbledError(f"{status}: {body[:200]!r}")
        return body
