"""A real Chromium for the tests of this folder. Without it (or playwright) they are skipped; in CI that is a failure."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.browser.pageworld import ADJUSTED, LANDSCAPE, REPAINT, PageWorld

if TYPE_CHECKING:
    from playwright.async_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--no-sandbox",  # CI runs as root
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--host-resolver-rules=MAP *.example 127.0.0.1",  # foreign names, and what DNS rebinding makes of one
)


def missing(what: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must have it: {what}")
    pytest.skip(what)


@asynccontextmanager
async def launched() -> AsyncIterator[Browser]:
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        missing("needs Chromium: apt-get install chromium")
    try:
        from playwright.async_api import async_playwright
    except ImportError:
        missing("needs playwright: pip install playwright")
    async with async_playwright() as driver:
        chromium = await driver.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield chromium
        await chromium.close()


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with launched() as chromium:
        yield chromium


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def page_world() -> AsyncIterator[PageWorld]:
    """One daemon and one far end for all tests of a file, which leave no job waiting and the queue open."""
    with tempfile.TemporaryDirectory(prefix="ct-") as folder:
        async with PageWorld(Path(folder)) as world:
            world.name_workflow("landscape", LANDSCAPE, ADJUSTED)
            world.name_workflow("repaint", REPAINT)
            await world.start()
            yield world


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium() -> AsyncIterator[Browser]:
    """One browser for all tests of a file; each has a profile of its own in it."""
    async with launched() as browser:
        yield browser
