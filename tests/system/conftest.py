"""A unit of a real systemd user manager, for the time of one test. `make test-system` runs this folder, `make test` does not.

Without a user manager the tests are skipped; in CI that is a failure. The unit lies in the manager's run-time folder and is
removed with the test.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.app.world import DEADLINE, World

UNIT = """
[Unit]
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
FileDescriptorStoreMax=16
ExecStart="{python}" -m comfytunnel daemon
Restart=on-failure
RestartSec=0.1
StandardOutput=append:{log}
StandardError=append:{log}
{environment}
"""


class Unit:
    """One service of the user manager that runs the daemon of a World."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world = world
        self.path = folder / f"comfytunnel-test-{os.getpid()}.service"

    async def do(self, verb: str) -> None:
        """`systemctl VERB` of the unit; it returns when the verb is done."""
        await systemctl(verb, self.path.name)

    async def property(self, name: str) -> str:
        return await systemctl("show", "--property", name, "--value", self.path.name)

    async def has(self, name: str, value: str) -> None:
        """Wait until a property of the unit is that: the manager reads our messages when it has time."""
        async with asyncio.timeout(DEADLINE):
            while (found := await self.property(name)) != value:
                print(f"{name} is {found!r}")
                await asyncio.sleep(0.02)


async def systemctl(*words: str) -> str:
    process = await asyncio.create_subprocess_exec(
        "systemctl", "--user", *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), DEADLINE)
    assert process.returncode == 0, err.decode()
    return out.decode().strip()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    with tempfile.TemporaryDirectory(prefix="ct-") as folder:
        async with World(Path(folder)) as made:
            yield made


@pytest.fixture
async def unit(world: World) -> AsyncIterator[Unit]:
    """Known to the manager and not started."""
    manager = Path(os.environ.get("XDG_RUNTIME_DIR", "/nowhere")) / "systemd"
    if not (manager / "private").is_socket():
        if os.environ.get("CI") == "true":
            pytest.fail("CI must have it: a systemd user manager")
        pytest.skip("needs a systemd user manager")
    made = Unit(world, manager / "user")
    wanted = {
        name: value
        for name, value in world.environment.items()
        if name.startswith(("COMFYTUNNEL_", "PYTHON", "COVERAGE_"))
    }
    made.path.parent.mkdir(exist_ok=True)
    made.path.write_text(
        UNIT.format(
            python=sys.executable,
            log=world.log,
            environment="\n".join(f'Environment="{name}={value}"' for name, value in wanted.items()),
        )
    )
    try:
        await systemctl("daemon-reload")
        yield made
        await made.do("stop")
    finally:
        made.path.unlink()
        await systemctl("daemon-reload")
