from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.app.world import World


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """A far end that is running; the daemon is started by the test. The folder's path is short: it holds a socket."""
    with tempfile.TemporaryDirectory(prefix="ct-") as folder:
        async with World(Path(folder)) as made:
            yield made


@pytest.fixture
def short_path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ct-") as folder:
        yield Path(folder)
