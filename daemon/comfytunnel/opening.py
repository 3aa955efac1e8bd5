"""How the daemon opens its store, and what becomes of it where that cannot be used. Owned by app.py.

Without a service manager it ends with the reason. Under one it stays, tells everybody who asks, and goes on by itself once the
store opens: whoever ends there is started again without end.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path

import structlog

from comfytunnel.api.troubled import Troubled
from comfytunnel.errors import StateError
from comfytunnel.jobs.store import Store
from comfytunnel.notify import Notifier

logger = structlog.get_logger(__name__)

LOOK = 5.0  # seconds between tries


async def open_store(
    path: Path, *, config: Path, notifier: Notifier, listener: socket.socket, stop: asyncio.Event
) -> Store | None:
    """The store; None if `stop` was set before it could be opened. Raises StateError unless a service manager started us."""
    try:
        return await Store.open(path)
    except StateError as error:
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
                return await Store.open(path)
            except StateError as error:
                troubled.error = error
