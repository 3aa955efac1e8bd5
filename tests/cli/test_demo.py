"""`comfytunnel demo` as a process: its end, whenever somebody wants it to end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import pytest


@contextlib.asynccontextmanager
async def demo(folder: Path, *args: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-u", "-m", "comfytunnel", "demo", *args),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def until(process: asyncio.subprocess.Process, words: str) -> str:
    """Return what it has said up to the line with these words."""
    assert process.stdout is not None
    said = ""
    while words not in said:
        line = await process.stdout.readline()
        assert line, said
        said += line.decode()
    return said


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return str(answer.read().decode())


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def daemon_of(said: str) -> int:
    found = re.search(r"pid (\d+)", said)
    assert found
    return int(found[1])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_in_the_middle_of_the_job_ends_it_with_its_daemon_and_folder(
    short: Path, number: signal.Signals
) -> None:
    async with demo(short) as process, asyncio.timeout(20):
        said = await until(process, "DemoSlow")
        process.send_signal(number)
        async with asyncio.timeout(3):
            assert await process.wait() == 1
        assert process.stdout is not None
        rest = (await process.stdout.read()).decode()
    assert "Traceback" not in rest
    assert "Stopped before" in rest
    assert not is_alive(daemon_of(said))
    assert list(short.iterdir()) == []


@pytest.mark.parametrize("words", ["An instance", "A daemon"])
async def test_ctrl_c_twice_while_it_starts_leaves_nothing(short: Path, words: str) -> None:
    async with demo(short) as process, asyncio.timeout(20):
        await until(process, words)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 1
    assert list(short.iterdir()) == []


async def test_keep_ends_with_ctrl_c_and_the_picture_stays(short: Path) -> None:
    async with demo(short, "--keep") as process, asyncio.timeout(25):
        said = await until(process, "Ctrl-C here")
        page = re.search(r"The page, .*: (http://localhost:\d+/)\n", said)
        assert page
        assert "workflow" in await asyncio.to_thread(read, f"{page[1]}v1/workflows")
        assert "Skip to the form" in await asyncio.to_thread(read, page[1])
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(3):
            assert await process.wait() == 0
        assert process.stdout is not None
        rest = (await process.stdout.read()).decode()
    [picture] = short.iterdir()
    assert f"Your picture: {picture}" in rest
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert not is_alive(daemon_of(said))


async def test_a_demo_that_is_killed_leaves_no_daemon(short: Path) -> None:
    async with demo(short) as process, asyncio.timeout(20):
        daemon = daemon_of(await until(process, "A daemon"))
        process.kill()
        while is_alive(daemon):  # noqa: ASYNC110 - no child of ours: nothing rings when it ends
            await asyncio.sleep(0.02)
