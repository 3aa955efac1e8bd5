"""The bytes of the blocking client, there and back: http.client, because it starts in 20 ms where httpx takes 180 (measured).

It carries a Call and knows no route. Every wait has an end: the time-out of an answer, the silence of a stream.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from comfytunnel.client.address import Address, check
from comfytunnel.client.connection import Answer, Connection, blame
from comfytunnel.client.following import SILENCE, Deadline
from comfytunnel.errors import NotRunningError, UsageError
from comfytunnel.protocol import Call, EventParser, ServerSentEvent, error_from, version_of

T = TypeVar("T")


class Carrier:
    """Carries calls to one address. `timeout` is in seconds and holds for each answer."""

    def __init__(
        self, address: Address, timeout: float, told_version: Callable[[str], None] | None = None
    ) -> None:
        self.address = address
        self.timeout = timeout
        self._told_version = told_version

    @property
    def socket_path(self) -> Path:
        """UsageError for a client of a TCP port."""
        if self.address.socket is None:
            raise UsageError(f"The client of {self.address} has no socket.")
        return self.address.socket

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Nothing is kept open: this is for those who are used to it."""

    def call(self, call: Call[T], body: Iterator[bytes] | None = None) -> T:
        with self._exchange(call, body) as answer:
            return call.read(answer.status, answer.read())

    def chunks(self, call: Call[Any]) -> Iterator[bytes]:
        """The answer in pieces, for what may be large."""
        with self._exchange(call) as answer:
            _raise_if_error(answer)
            while chunk := answer.read_some():
                yield chunk

    def stream(self, call: Call[Any], timeout: float | None) -> Iterator[ServerSentEvent]:
        """Server-Sent Events until the stream ends. TimedOutError after `timeout` seconds in all."""
        deadline, parser = Deadline(timeout, time.monotonic()), EventParser()
        with self._exchange(call) as answer:
            _raise_if_error(answer)
            while True:
                left = deadline.left(time.monotonic())
                try:
                    data = answer.read_some(SILENCE if left is None else min(left, SILENCE))
                except NotRunningError as error:
                    if deadline.left(time.monotonic()) == 0:
                        raise deadline.passed() from error
                    raise
                if not data:
                    return
                yield from parser.feed(data)

    @contextlib.contextmanager
    def _exchange(self, call: Call[Any], body: Iterator[bytes] | None = None) -> Iterator[Answer]:
        """Send `call` on a connection of its own, and close it at the end."""
        check(self.address)
        connection = Connection(self.address, max(self.timeout, call.patience))
        try:
            with blame(self.address):
                try:
                    headers = {**call.headers, **self.address.headers}
                    connection.request(call.method, call.path, body or call.body, headers)
                except (BrokenPipeError, ConnectionResetError):
                    if body is None:
                        raise
                    # refused before all of it was sent: the answer says why
                answer = Answer(connection, connection.getresponse())
            if self._told_version is not None and (version := version_of(answer.server)) is not None:
                self._told_version(version)
            yield answer
        finally:
            connection.close()


def _raise_if_error(answer: Answer) -> None:
    if answer.status >= 400:
        raise error_from(answer.status, answer.read())
