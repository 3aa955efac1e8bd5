"""What every walk begins with, and the seed of the one that is walked alone."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from comfytunnel.jobs.store import Store
from tests.walks.judge import WATCH

SEED = os.environ.get("WALK_SEED")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty database of ours that writes down every change of a job. Without logs: they would take half of the time."""
    path = tmp_path_factory.mktemp("template") / "jobs.db"

    async def make() -> None:
        store = await Store.open(path)
        await store.close()

    asyncio.run(make())
    with sqlite3.connect(path) as database:
        database.executescript(WATCH)
    database.close()
    server, tracing = logging.getLogger("aiohttp.server"), sys.gettrace()
    if SEED is None:
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
        server.setLevel(logging.CRITICAL + 1)
    sys.settrace(None)  # what is covered is asked of the other tests: here it would double the time
    yield path
    sys.settrace(tracing)
    structlog.reset_defaults()
    server.setLevel(logging.NOTSET)
