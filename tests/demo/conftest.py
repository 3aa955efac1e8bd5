"""A running stand-in and an HTTP session for the tests of the demo's far end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from comfytunnel.demo.comfyui import ComfyUI


@pytest.fixture
async def comfyui(tmp_path: Path) -> AsyncIterator[ComfyUI]:
    async with ComfyUI(tmp_path) as server:
        yield server


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
        yield session
