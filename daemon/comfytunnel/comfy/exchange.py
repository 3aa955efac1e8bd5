"""One exchange with a ComfyUI over HTTP: a request goes out under a deadline, and either a 2xx answer comes, of which no more is read than a
cap, or a ComfyError (errors.py draws the tree). What is asked and what an answer means is client.py's to know.

No retries, no cookies, no redirects, nothing compressed. Requests that change something go over a fresh connection each, so that none is lost
in a connection that has died unnoticed, and one that fails or is given up is reset: nothing more of it is sent. Reading shares a few.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import aiohttp

from comfytunnel.comfy import answers, shapes
from comfytunnel.comfy.errors import Ambiguous, NotComfyUI, Refused, Unreachable
from comfytunnel.comfy.reset import Kept, Resettable

T = TypeVar("T")

CONNECT_DEADLINE = 10.0
READ_DEADLINE = 30.0
"""Seconds for a whole answer of queue, history and the like, which can be megabytes on a thin line."""
MAX_ANSWER = 64 * 1024**2
"""Bytes of JSON: /queue and /history carry whole workflows of everybody, and one with pictures in it is tens of megabytes."""
MAX_SMALL = 4 * 1024**2
"""Bytes of any other JSON."""
IN_A_THREAD = 1024**2
"""Bytes of JSON from which on it is read on a thread; it takes some 10 ms a MiB."""
READ_AHEAD = 1024**2
"""Bytes that aiohttp reads ahead of us (twice that, before it stops reading); with its own 64 KiB an output stops and goes at every read."""
MAX_FRAME = 64 * 1024**2
"""Bytes of a websocket message: previews of 8 MB occur (measured)."""
NOT_DELIVERED = "X-Comfytunnel-Cause"
"""Our own door's 503 carries it: there was no link, nothing has reached ComfyUI."""


class Exchanges:
    """The connections to one ComfyUI. Use it in one event loop; `close()` when done."""

    def __init__(self, base_url: str, unix_socket: str | None) -> None:
        self._base_url = base_url
        self._unix_socket = unix_socket
        self._shared: aiohttp.ClientSession | None = None
        self._fresh: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        for session in (self._shared, self._fresh):
            if session is not None:
                await session.close()
        self._shared = self._fresh = None

    @asynccontextmanager
    async def request(
        self, method: str, path: str, timeout: aiohttp.ClientTimeout, **given: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request; yields a 2xx answer and raises a ComfyError for all else. A POST that is not answered so is reset."""
        session = self._session(fresh=method == "POST")
        kept = Kept()
        if isinstance(given.get("data"), bytes):
            # As a file, which aiohttp sends piece by piece: bytes go to the transport whole, and copying 100 MB holds up the loop.
            given |= {"data": io.BytesIO(given["data"]), "headers": {"Content-Type": "application/json"}}
        url = f"{self._base_url}{path}"
        try:
            try:
                answer = await session.request(
                    method, url, timeout=timeout, allow_redirects=False, middlewares=(kept,), **given
                )
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                raise _lost(error) from error
            async with (
                answer
            ):  # outside the inner try: what the caller raises while it reads is not the road's
                if not 200 <= answer.status < 300:
                    raise await _rejection(answer, method, path)
                yield answer
        except BaseException:
            if method == "POST":
                kept.reset()
            raise

    async def send(self, method: str, path: str, deadline: float, **given: Any) -> None:
        """For what matters only by its status."""
        async with self.request(method, path, within(deadline), **given) as answer:
            await _bounded(answer, 1024**2)

    async def json(
        self, method: str, path: str, deadline: float, *, cap: int = MAX_SMALL, **given: Any
    ) -> Any:
        """A 2xx answer's JSON of `cap` bytes at most; raises NotComfyUI for anything else that comes."""
        with _read(path):
            return answers.any_json(await self.answer(method, path, deadline, cap, **given))

    async def long(self, path: str, read: Callable[[bytes], T], **given: Any) -> T:
        """GET what may be megabytes: `read` makes of it what is wanted, and its ValueError becomes a NotComfyUI."""
        raw = await self.answer("GET", path, READ_DEADLINE, MAX_ANSWER, **given)
        with _read(path):
            return await asyncio.to_thread(read, raw) if len(raw) > IN_A_THREAD else read(raw)

    async def answer(self, method: str, path: str, deadline: float, cap: int, **given: Any) -> bytes:
        """A 2xx answer's body as it came, `cap` bytes at most, and no web page."""
        async with self.request(method, path, within(deadline), **given) as answer:
            raw = await _bounded(answer, cap)
            if answer.content_type == "text/html":
                raise NotComfyUI(f"a web page answers {path} instead of ComfyUI", status=answer.status)
            return raw

    async def websocket(self, path: str, params: dict[str, str]) -> aiohttp.ClientWebSocketResponse[bool]:
        session = self._session(fresh=True)
        try:
            async with asyncio.timeout(CONNECT_DEADLINE):
                return await session.ws_connect(
                    f"{self._base_url}{path}",
                    params=params,
                    max_msg_size=MAX_FRAME,
                    heartbeat=20.0,
                    timeout=aiohttp.ClientWSTimeout(ws_close=1.0),
                )
        except aiohttp.WSServerHandshakeError as error:
            raise NotComfyUI(f"{path} answered {error.status}", status=error.status) from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _lost(error) from error

    def _session(self, *, fresh: bool) -> aiohttp.ClientSession:
        kept = self._fresh if fresh else self._shared
        if kept is None:
            connector: aiohttp.BaseConnector
            if self._unix_socket is not None:
                connector = aiohttp.UnixConnector(self._unix_socket, force_close=fresh, limit=16)
            else:
                connector = aiohttp.TCPConnector(force_close=fresh, limit=16)
            kept = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                request_class=Resettable,
                read_bufsize=READ_AHEAD,
                auto_decompress=False,  # we ask for identity; what is compressed all the same is garbage, not a bomb
                headers={"Accept-Encoding": "identity", "User-Agent": "comfytunnel"},
            )
            if fresh:
                self._fresh = kept
            else:
                self._shared = kept
        return kept


@contextmanager
def _read(path: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, RecursionError) as error:
        raise NotComfyUI(f"{path} was answered with something that is not the JSON of ComfyUI") from error


def within(seconds: float) -> aiohttp.ClientTimeout:
    """A deadline for the whole of a request and its answer."""
    return aiohttp.ClientTimeout(total=seconds, sock_connect=min(CONNECT_DEADLINE, seconds))


async def _bounded(answer: aiohttp.ClientResponse, cap: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    try:
        async for chunk in answer.content.iter_any():
            size += len(chunk)
            if size > cap:
                raise NotComfyUI(f"an answer is longer than {cap // 1024**2} MiB", status=answer.status)
            parts.append(chunk)
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise _lost(error) from error
    return b"".join(parts)


async def _rejection(answer: aiohttp.ClientResponse, method: str, path: str) -> Exception:
    """The error for an answer that is not 2xx."""
    status = answer.status
    if status == 503 and NOT_DELIVERED in answer.headers:
        return Unreachable(f"the door did not deliver it ({shapes.plain(answer.headers[NOT_DELIVERED], 80)})")
    if status >= 500:
        return Ambiguous(f"{method} {path} was answered {status}", status=status)
    page = answer.content_type == "text/html"
    if status < 400 or status in (401, 407) or page or (status in (403, 404, 405) and path != "/view"):
        return NotComfyUI(f"{method} {path} was answered {status}: this is not ComfyUI itself", status=status)
    try:
        body = answers.any_json(await _bounded(answer, MAX_SMALL))
    except (NotComfyUI, ValueError, RecursionError):
        body = None  # no, too much or something else: the status alone says no
    return Refused(f"{method} {path} was answered {status}", status=status, body=body)


def _lost(error: BaseException) -> Unreachable | Ambiguous:
    """What an exception of aiohttp says about the request: only a failed connect proves that nothing was sent."""
    if isinstance(error, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)):
        return Unreachable(f"no connection ({_brief(error)})")
    if isinstance(error, TimeoutError):
        return Ambiguous("no answer within the deadline", silent=True)
    return Ambiguous(f"the connection was closed without a whole answer ({_brief(error)})")


def _brief(error: BaseException) -> str:
    """What the system said, without aiohttp's words around it."""
    if isinstance(error, aiohttp.ClientConnectorError):
        error = error.os_error
    said = error.strerror if isinstance(error, OSError) else str(error)
    return shapes.plain(said, 200) or type(error).__name__
