"""How the daemon comes by its own files (the lock, the store, the uploads), and what becomes of it where they cannot be used. Owned by app.py.

Without a service manager it ends with the reason. Under one it stays, tells everybody who asks, and goes on by itself once they
can be used: whoever ends there is started again without end.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import structlog

from comfytunnel.api.listen import Lock
from comfytunnel.api.troubled import Troubled
from comfytunnel.ending import end
from comfytunnel.errors import Error
from comfytunnel.jobs.assets import Assets
from comfytunnel.jobs.store import Store
from comfytunnel.notify import Notifier

logger = structlog.get_logger(__name__)

T = TypeVar("T")

LOOK = 2.0  # seconds between tries
LONG = 5.0  # seconds after which the manager is told that it takes longer, and how often
LONGER = 30.0  # seconds that it is asked for each time; its own patience is 60 (TimeoutStartSec)
LONGEST = (
    900.0  # seconds after which it is not asked any more: a disk that hangs is not waited for without end
)


class State(NamedTuple):
    """`late`: it could not be used at first, so what was read before may be old."""

    store: Store
    assets: Assets
    late: bool = False


async def open_state(
    folder: Path,
    lock: Lock,
    *,
    config: Path,
    notifier: Notifier,
    listener: socket.socket,
    stop: asyncio.Event,
) -> State | None:
    """All of it, with `lock` taken; None if `stop` was set before. Raises StateError and RefusedError unless a service manager started us."""

    async def attempt() -> State:
        lock.take()
        store = await Store.open(folder / "jobs.db")
        try:
            assets = Assets(store)
            await assets.open()
        except BaseException:
            await store.close()
            raise
        return State(store, assets)

    try:
        return await patiently(attempt, notifier, stop)
    except Error as error:
        if not notifier.managed:
            raise
        first = error
    logger.error("state", message=first.message, hint=first.hint)
    async with Troubled(first, str(config), listener) as troubled:
        notifier.ready()
        while True:
            notifier.status(troubled.error.message)
            notifier.alive()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK):
                    await stop.wait()
                return None
            try:
                state = await patiently(attempt, notifier, stop)
                return None if state is None else state._replace(late=True)
            except Error as error:
                troubled.error = error


async def patiently(
    attempt: Callable[[], Coroutine[Any, Any, T]],
    notifier: Notifier,
    stop: asyncio.Event,
    every: float = LONG,
) -> T | None:
    """Await it, and ask the manager for more time every `every` seconds meanwhile: an upgrade copies the whole database first. None if `stop` was
    set before it was done; then it is given up."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    doing, stopping = asyncio.create_task(attempt()), asyncio.create_task(stop.wait())
    try:
        while not doing.done() and not stopping.done():
            await asyncio.wait({doing, stopping}, timeout=every, return_when=asyncio.FIRST_COMPLETED)
            if not doing.done() and not stopping.done() and loop.time() - began < LONGEST:
                notifier.status("Opening the job database takes long; after an upgrade it is copied first.")
                notifier.longer(LONGER)
                notifier.alive()
        return await doing if doing.done() else None
    finally:
        await end([stopping, doing])
