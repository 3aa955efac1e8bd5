"""Threads for what may block for ever: name look-ups, folders of a network that is away. Nobody waits for them at exit."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

T = TypeVar("T")


def in_thread(work: Callable[[], T], name: str) -> asyncio.Future[T]:
    """Run what may block for ever in a thread of its own, which nobody waits for at exit. Whoever asked may give up."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def done(settle: Callable[[], None]) -> None:
        if not future.done():
            settle()
            future.exception()  # nobody may be left to ask for it, and that is no fault of the work

    def run() -> None:
        try:
            settle = partial(future.set_result, work())
        except Exception as error:  # noqa: BLE001 - it is raised again, where the future is awaited
            settle = partial(future.set_exception, error)
        try:
            loop.call_soon_threadsafe(done, settle)
        except RuntimeError:
            return  # the loop is closed: the daemon has stopped meanwhile

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
