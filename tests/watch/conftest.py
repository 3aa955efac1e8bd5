"""What the tests of the room stand on: one wait with a deadline, and the tools that only some machines have."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

DEADLINE = 10.0  # seconds for anything that a test waits for; most of it takes milliseconds
CAP_SYS_ADMIN = 21  # <linux/capability.h>
ROOT = Path(__file__).parents[2]


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose name is short enough for a socket in it, which that of tmp_path may not be."""
    with tempfile.TemporaryDirectory(prefix="ct-") as folder:
        yield Path(folder)


def need(*tools: str, root: bool = False) -> None:
    """Skip where the machine cannot do it. A tool that is missing in CI is a failure: .ci/run installs what tests need."""
    if sys.platform != "linux":
        pytest.skip("needs Linux")
    if root and not _may_make_namespaces():
        pytest.skip("needs root with CAP_SYS_ADMIN: it makes namespaces")
    for tool in tools:
        if shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None:
            told = f"needs {tool}"
            if os.environ.get("CI") == "true":
                pytest.fail(told)
            pytest.skip(told)


def _may_make_namespaces() -> bool:
    """Root in a container often may not."""
    status = Path("/proc/self/status").read_text("ascii")
    effective = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    return os.geteuid() == 0 and bool(int(effective.split()[1], 16) >> CAP_SYS_ADMIN & 1)


def ours() -> dict[str, str]:
    """The environment for a Python of our own in another process: it finds the package and the tests."""
    paths = [str(ROOT / "daemon"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}


async def becomes(holds: Callable[[], bool], what: str) -> None:
    """Wait for something that nobody announces."""
    loop = asyncio.get_running_loop()
    end = loop.time() + DEADLINE
    while not holds():
        assert loop.time() < end, f"not within {DEADLINE} s: {what}"
        await asyncio.sleep(0.005)
