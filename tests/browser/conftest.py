"""A real Chromium for the tests of this folder. Without it (or playwright) they are skipped; in CI that is a failure."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest

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


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
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
