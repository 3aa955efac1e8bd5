"""The service as a person has it, under a real systemd user manager, for the time of one test. `make test-system` runs this folder,
`make test` does not.

It is installed from the built wheel (COMFYTUNNEL_TEST_INSTALLED) with `comfytunnel install`, under a name and in places of its own, so that
one that runs on this machine is not touched; `comfytunnel uninstall` ends it. Without a user manager the tests are skipped; in CI that is a
failure.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from tests.app.world import DEADLINE, World
from tests.cli.conftest import Ran

T = TypeVar("T")

NUMBERS = itertools.count(1)
HERE = [sys.executable, "-m", "comfytunnel"]  # where no wheel was installed


class Unit:
    """`comfytunnel install` and what came of it: the units of one World."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.name = f"comfytunnel-test-{os.getpid()}-{next(NUMBERS)}"  # a journal forgets nothing
        self.folder = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "systemd" / "user"
        self.program = os.environ.get("COMFYTUNNEL_TEST_INSTALLED", "").split() or HERE

    @property
    def files(self) -> list[Path]:
        """Whatever of ours lies where the manager looks."""
        return sorted(self.folder.rglob(f"*{self.name}*"))

    async def cli(self, *words: str, **environ: str) -> Ran:
        """A command of the installed program."""
        its = self.world.environment | {"COMFYTUNNEL_UNIT": self.name} | environ
        return await run(*self.program, *words, **its)

    async def install(self, *words: str) -> Ran:
        ran = await self.cli("install", *words)
        assert ran.code == 0, ran.out + ran.err
        return ran

    async def do(self, verb: str, kind: str = "service") -> None:
        """`systemctl VERB` of the unit; it returns when the verb is done."""
        await systemctl(verb, f"{self.name}.{kind}")

    async def drop_in(self, section: str, *lines: str) -> None:
        """Settings beside those of `install`, as `systemctl edit` makes them."""
        path = self.folder / f"{self.name}.service.d" / "90-test.conf"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([f"[{section}]", *lines, ""]))
        await systemctl("daemon-reload")

    async def property(self, name: str) -> str:
        return await systemctl("show", "--property", name, "--value", f"{self.name}.service")

    async def until(self, look: Callable[[], Awaitable[T]], wanted: Callable[[T], object]) -> T:
        """Look again and again until what is seen is wanted: the manager and the journal are other processes."""
        async with asyncio.timeout(DEADLINE):
            while not wanted(found := await look()):
                print(str(found)[-300:])
                await asyncio.sleep(0.05)
        return found

    async def has(self, name: str, value: str) -> None:
        """Wait until a property of the unit matches that."""
        await self.until(lambda: self.property(name), lambda found: re.fullmatch(value, found))

    async def beaten(self) -> float:
        """When the manager heard the watchdog's sign last, in seconds."""
        return int(await self.property("WatchdogTimestampMonotonic")) / 1e6

    async def pid(self) -> int:
        return int(await self.property("MainPID"))

    async def journal(self, *words: str) -> str:
        ran = await run("journalctl", "--user", "-u", self.name, "-o", "cat", "--no-pager", *words)
        return ran.out

    async def logged(self, text: str, *words: str) -> str:
        """Wait until the journal holds that."""
        return await self.until(lambda: self.journal(*words), lambda found: text in found)

    async def remove(self) -> None:
        (self.folder / f"{self.name}.service.d" / "90-test.conf").unlink(missing_ok=True)
        ran = await self.cli("uninstall", "--yes")
        assert ran.code == 0, ran.out + ran.err
        for path in self.files:  # what a test has edited stays with `uninstall`
            if path.is_file():
                path.unlink()


async def run(*words: str, stdin: str = "", **environ: str) -> Ran:
    process = await asyncio.create_subprocess_exec(
        *words,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | environ,
    )
    out, err = await asyncio.wait_for(process.communicate(stdin.encode()), DEADLINE)
    return Ran(process.returncode, out.decode(), err.decode())


async def systemctl(*words: str) -> str:
    ran = await run("systemctl", "--user", *words)
    assert ran.code == 0, ran.err
    return ran.out.strip()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    with tempfile.TemporaryDirectory(prefix="ct-") as folder:
        async with World(Path(folder)) as made:
            yield made


@pytest.fixture
async def uninstalled(world: World) -> AsyncIterator[Unit]:
    """Nothing is installed yet; whatever a test installs is removed."""
    if not (Path(os.environ.get("XDG_RUNTIME_DIR", "/nowhere")) / "systemd" / "private").is_socket():
        if os.environ.get("CI") == "true":
            pytest.fail("CI must have it: a systemd user manager")
        pytest.skip("needs a systemd user manager")
    made = Unit(world)
    try:
        yield made
    finally:
        print((await made.journal("-n", "60"))[-6000:])
        await made.remove()


@pytest.fixture
async def unit(uninstalled: Unit) -> Unit:
    """Installed and not started."""
    await uninstalled.install("--no-start")
    return uninstalled
