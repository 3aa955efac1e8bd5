"""The API of tests/api, and the command line as a person starts it: a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.api.conftest import Api
from tests.api.conftest import api as api
from tests.api.conftest import short as short


@dataclass
class Ran:
    code: int | None
    out: str
    err: str


class Cli:
    """Starts `comfytunnel ...` with its own environment: no config, state or socket of the user is seen."""

    def __init__(self, folder: Path, socket: Path) -> None:
        self.folder = folder
        self.environ = {
            **os.environ,
            "COMFYTUNNEL_SOCKET": str(socket),
            "COMFYTUNNEL_CONFIG": str(folder / "config.toml"),
            "COMFYTUNNEL_STATE_DIR": str(folder / "state"),
            "COLUMNS": "100",
        }

    async def __call__(self, *args: str, stdin: str = "") -> Ran:
        async with self.running(*args) as process:
            out, err = await process.communicate(stdin.encode())
            return Ran(process.returncode, out.decode(), err.decode())

    @contextlib.asynccontextmanager
    async def running(self, *args: str) -> AsyncIterator[asyncio.subprocess.Process]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "comfytunnel",
            *args,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environ,
            cwd=self.folder,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGKILL)
            await process.communicate()


@pytest.fixture
def cli(api: Api, tmp_path: Path) -> Cli:
    """The command line in front of the served API."""
    return Cli(tmp_path, api.path)


@pytest.fixture
def alone(short: Path) -> Cli:
    """The command line without a daemon."""
    return Cli(short, short / "none.sock")
