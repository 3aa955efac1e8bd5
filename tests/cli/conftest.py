"""The API of tests/api, and the command line as a person starts it: a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
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


class Terminal:
    """A pseudo-terminal with `comfytunnel` on it: what it shows, and a keyboard."""

    def __init__(self, screen: int) -> None:
        self.screen = screen
        self.shown = ""

    async def until(self, words: str) -> str:
        loop = asyncio.get_running_loop()
        while words not in self.shown:
            self.shown += (await loop.run_in_executor(None, os.read, self.screen, 4096)).decode(
                errors="replace"
            )
        return self.shown

    async def rest(self) -> str:
        """All that is shown until the command ends: one that writes much waits for its reader."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):  # the last process has closed it
            while data := await loop.run_in_executor(None, os.read, self.screen, 4096):
                self.shown += data.decode(errors="replace")
        return self.shown

    def type(self, keys: str) -> None:
        os.write(self.screen, keys.encode())


@contextlib.asynccontextmanager
async def on_terminal(
    cli: Cli, *args: str, whole: bool = False
) -> AsyncIterator[tuple[Terminal, asyncio.subprocess.Process]]:
    """Start a command on a terminal; stdout is a pipe, or with `whole` the terminal, too. Ctrl-C can be typed."""
    screen, inside = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "comfytunnel",
        *args,
        stdin=inside,
        stdout=inside if whole else subprocess.PIPE,
        stderr=inside,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        env={**cli.environ, "TERM": "xterm"},
        cwd=cli.folder,
    )
    os.close(inside)
    try:
        yield Terminal(screen), process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
        os.close(screen)
