"""The bytes of the async client, there and back: httpx, which is imported when an AsyncClient is made and is not among what comfytunnel needs.

It carries a Call and knows no route. Every wait has an end: the time-out of an answer, the silence of a stream. A connection serves one call: none is
kept that a restart of the daemon would break, or that belongs to another event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from comfytunnel.client.address import Address, check
from comfytunnel.client.connection import GONE, STOPPED, does_not_answer, has_gone, nobody_listens, not_ours
from comfytunnel.client.following import SILENCE, Deadline
from comfytunnel.errors import NotRunningError, UsageError
from comfytunnel.protocol import Call, EventParser, ServerSentEvent, error_from, version_of

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")


class AsyncCarrier:
    """Carries calls to one address. `timeout` is in seconds and holds for each answer."""

    def __init__(
        self, address: Address, timeout: float, told_version: Callable[[str], None] | None = None
    ) -> None:
        """UsageError where httpx is not installed."""
        try:
            import httpx
        except ImportError as error:
            raise UsageError(
                "AsyncClient needs httpx, which is not installed.",
                hint="Install it: pip install 'comfytunnel[async]'",
            ) from error
        check(address)
        self.address = address
        self.timeout = timeout
        self._told_version = told_version
        self._http = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(
                uds=str(address.socket) if address.socket is not None else None,
                limits=httpx.Limits(max_keepalive_connections=0),
                trust_env=False,
                verify=False,  # there is no TLS on this road, and reading the certificates takes 20 ms
            ),
            base_url=address.base_url,
            headers=address.headers,
            trust_env=False,  # a proxy of the environment is not for this machine
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End what is under way. Nothing is kept open between two calls: who leaves this out leaks nothing."""
        await self._http.aclose()

    async def call(self, call: Call[T], body: Iterator[bytes] | None = None) -> T:
        async with self._exchange(call, body) as answer:
            return call.read(answer.status_code, await self._whole(answer))

    async def chunks(self, call: Call[Any]) -> AsyncGenerator[bytes, None]:
        """The answer in pieces, for what may be large."""
        async with self._exchange(call) as answer:
            await self._raise_if_error(answer)
            with self._blame(STOPPED):
                async for chunk in answer.aiter_raw():
                    yield chunk

    async def stream(self, call: Call[Any], timeout: float | None) -> AsyncGenerator[ServerSentEvent, None]:
        """Server-Sent Events until the stream ends. TimedOutError after `timeout` seconds in all."""
        deadline, parser = Deadline(timeout, time.monotonic()), EventParser()
        async with self._exchange(call) as answer:
            await self._raise_if_error(answer)
            pieces = answer.aiter_raw()
            while True:
                left = deadline.left(time.monotonic())
                try:
                    with self._blame(STOPPED):
                        async with asyncio.timeout(SILENCE if left is None else min(left, SILENCE)):
                            data = await anext(pieces, b"")
                except NotRunningError as error:
                    if deadline.left(time.monotonic()) == 0:
                        raise deadline.passed() from error
                    raise
                if not data:
                    return
                for event in parser.feed(data):
                    yield event

    @contextlib.asynccontextmanager
    async def _exchange(
        self, call: Call[Any], body: Iterator[bytes] | None = None
    ) -> AsyncIterator[httpx.Response]:
        """Send `call` on a connection of its own, and close it at the end."""
        import httpx

        patience = httpx.Timeout(max(self.timeout, call.patience))
        headers = {**call.headers, "Connection": "close", "Accept-Encoding": "identity"}
        content = call.body if body is None else _read_on_a_thread(body)
        request = self._http.build_request(
            call.method, call.path, content=content, headers=headers, timeout=patience
        )
        with self._blame():
            answer = await self._http.send(request, stream=True)
        try:
            version = version_of(answer.headers.get("Server", ""))
            if self._told_version is not None and version is not None:
                self._told_version(version)
            yield answer
        finally:
            await answer.aclose()

    async def _whole(self, answer: httpx.Response) -> bytes:
        with self._blame():
            return await answer.aread()

    async def _raise_if_error(self, answer: httpx.Response) -> None:
        if answer.status_code >= 400:
            raise error_from(answer.status_code, await self._whole(answer))

    @contextlib.contextmanager
    def _blame(self, gone: str = GONE) -> Iterator[None]:
        """Turn what httpx says about the daemon into our own errors."""
        import httpx

        try:
            yield
        except httpx.ConnectError as error:
            denied = "Permission denied" in str(error)  # of the cause only the words are left
            raise not_ours(self.address) if denied else nobody_listens(self.address) from error
        except (httpx.TimeoutException, TimeoutError) as error:
            raise does_not_answer(self.address) from error
        except httpx.TransportError as error:
            raise has_gone(self.address, gone) from error


async def _read_on_a_thread(body: Iterator[bytes]) -> AsyncIterator[bytes]:
    """A file's bytes, read beside the loop."""
    while chunk := await asyncio.to_thread(next, body, b""):
        yield chunk
