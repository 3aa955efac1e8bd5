"""The bench for every test of the jobs room."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.jobs.bench import Bench


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """A stand-in that serves, a scheduler that runs, a link that is up."""
    made = Bench(tmp_path)
    await made.far.start()
    await made.start()
    made.link_up()
    yield made
    await made.stop()
