"""GET /view: one output read piece by piece, from its beginning or, if it is still the same file, from where an earlier download was cut.

"The same" is what ComfyUI's ETag says: it is made of the file's time in nanoseconds and its size, and If-Match is honoured, while If-Range is
not (measured, 0.33). A server without such a tag is read from the beginning each time.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC
from email.utils import parsedate_to_datetime

import aiohttp

from comfytunnel.comfy.errors import Ambiguous, Cut, Refused
from comfytunnel.comfy.shapes import plain
from comfytunnel.comfy.upload import CONNECT_DEADLINE, Request

IDLE_DEADLINE = 60.0
"""Seconds without a byte of a download."""

LARGE = 1024**2
"""Bytes from which on a download has its connection to itself: the tunnel has let the far side send megabytes ahead on it, and cannot take that
back while it is open. Kept alive it left the second of three large outputs a quarter of the window and the third a sixteenth (measured)."""

_TAG = re.compile(r'"([0-9A-Za-z-]{1,64})"')
"""A strong ETag of ComfyUI's kind, `"18c5f2-2dc6c0"`."""
_PART = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", re.ASCII)


class Download:
    """An output that is being read. `start`: which byte comes first; `size` of the whole file in bytes as announced, None if it was not; `tag`: what
    `Client.view` wants in order to go on later, None if it cannot; `modified`: when the file was written, in seconds since the epoch by the server's
    clock (rounded up to whole ones), None if it was not said."""

    def __init__(self, answer: aiohttp.ClientResponse, start: int, size: int | None) -> None:
        self._answer = answer
        self.start = start
        self.size = size
        self.tag = _tag(answer)
        self.modified = _modified(answer)

    async def read(self, size: int) -> bytes:
        """The next bytes, about `size` of them, none at the end; the end may come early, so compare with what was announced.

        Raises Cut when the download is cut, which may cost what aiohttp had read ahead (up to `size` bytes).
        """
        parts: list[bytes] = []
        got = 0
        try:
            while got < size and (part := await self._answer.content.read(size - got)):
                parts.append(part)
                got += len(part)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            if not parts:  # else the next call raises: aiohttp goes on raising what broke a stream
                raise Cut(
                    f"the download was cut ({plain(str(error), 200) or type(error).__name__})"
                ) from error
        return b"".join(parts)


@asynccontextmanager
async def download(
    request: Request, filename: str, subfolder: str, kind: str, start: int, tag: str | None
) -> AsyncIterator[Download]:
    """See Client.view; `request` is that client's."""
    params = {"filename": filename, "subfolder": subfolder, "type": kind}
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_DEADLINE, sock_read=IDLE_DEADLINE)
    part = {"Range": f"bytes={start}-", "If-Match": f'"{tag}"'} if tag is not None else {}
    async with request("GET", "/view", timeout, params=params, headers=part) as answer:
        _keep_alive_if_small(answer)
        if tag is None:
            if not _whole(answer):
                # A proxy's doing: an end that cannot be told from a cut, a part, or other bytes than the file's.
                raise Ambiguous(
                    f"/view was answered {answer.status} in a form that does not show a whole file"
                )
            yield Download(answer, 0, answer.content_length)
            return
        size = _total(answer, start)
        if size is None or _tag(answer) != tag:
            raise Refused("/view was not answered with the rest of the same file", status=412)
        yield Download(answer, start, size)


def _keep_alive_if_small(answer: aiohttp.ClientResponse) -> None:
    connection, size = answer.connection, answer.content_length
    if connection is not None and connection.protocol is not None and (size is None or size >= LARGE):
        connection.protocol.force_close()  # once the whole answer is there


def _plain_bytes(answer: aiohttp.ClientResponse) -> bool:
    return answer.headers.get("Content-Encoding", "").lower() in ("", "identity")


def _whole(answer: aiohttp.ClientResponse) -> bool:
    chunked = "chunked" in answer.headers.get("Transfer-Encoding", "").lower()
    return answer.status == 200 and _plain_bytes(answer) and (answer.content_length is not None or chunked)


def _total(answer: aiohttp.ClientResponse, start: int) -> int | None:
    """The size of the whole file, if the answer is all of it from byte `start` on."""
    said = _PART.fullmatch(answer.headers.get("Content-Range", ""))
    if answer.status != 206 or said is None or not _plain_bytes(answer):
        return None
    first, last, size = map(int, said.groups())
    fits = first == start and last + 1 == size and answer.content_length == size - start
    return size if fits else None


def _tag(answer: aiohttp.ClientResponse) -> str | None:
    said = _TAG.fullmatch(answer.headers.get("ETag", ""))
    return None if said is None else said[1]


def _modified(answer: aiohttp.ClientResponse) -> float | None:
    try:
        said = parsedate_to_datetime(answer.headers.get("Last-Modified", "")[:40])
        return said.replace(tzinfo=said.tzinfo or UTC).timestamp()
    except (ValueError, OverflowError):
        return None
