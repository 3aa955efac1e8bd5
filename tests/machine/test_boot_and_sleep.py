"""What a user's service does at the boot of their manager, and what the daemon hears of a real logind."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import socket
import subprocess
from pathlib import Path

from tests.app.world import DEADLINE, World
from tests.machine.conftest import as_user
from tests.system.conftest import run

USER = "boxuser"
SLEEP = """
[Service]
ExecStart=
ExecStart=/bin/sleep 0.3
"""


async def listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1):
            return True
    except OSError:
        return False


async def test_an_enabled_service_comes_with_the_users_manager(world: World, program: list[str]) -> None:
    """The manager is ended and started as at a boot: nobody asks for anything, and the port is there."""
    home = Path(pwd.getpwnam(USER).pw_dir)
    uid = pwd.getpwnam(USER).pw_uid
    files = home / ".config" / "comfytunnel"
    files.mkdir(parents=True)
    (home / ".ssh").mkdir(mode=0o700, exist_ok=True)
    (files / "config.toml").write_text(
        world.config_text(
            known_hosts="~/.ssh/known_hosts", identity_file="~/.ssh/id", ssh_config="~/.ssh/config"
        ).replace(str(world.base / "pictures"), "~/Pictures/comfytunnel")
    )
    shutil.copy(world.key, home / ".ssh" / "id")
    for path in (home / ".config", files, files / "config.toml", home / ".ssh", home / ".ssh" / "id"):
        os.chown(path, uid, -1)
    ran = await as_user(USER, *program, "install", "--no-start")
    assert ran.code == 0, ran.err
    assert not await listens(world.port)
    assert (await run("systemctl", "restart", f"user@{uid}.service")).code == 0
    async with asyncio.timeout(DEADLINE):
        while not await listens(world.port):  # noqa: ASYNC110 - the kernel tells nobody
            await asyncio.sleep(0.05)
    ran = await as_user(USER, *program, "wait", "--timeout", "15")
    assert ran.code == 0, ran.err
    assert (await as_user(USER, *program, "uninstall")).code == 0


async def test_a_real_logind_announces_sleep_and_wake(world: World) -> None:
    """It believes that the machine can sleep, and what should suspend it waits for a moment instead."""
    power, unit = Path("/sys/power"), Path("/run/systemd/system/systemd-suspend.service.d")
    assert (await run("mount", "-t", "tmpfs", "tmpfs", str(power))).code == 0
    (power / "state").write_text("freeze mem\n")
    unit.mkdir(parents=True)
    (unit / "test.conf").write_text(SLEEP)
    assert (await run("systemctl", "daemon-reload")).code == 0
    await world.start()
    before = (await world.ask(lambda: world.client.tunnel("default"))).counters.links
    await world.until(
        lambda: run_sync("systemd-inhibit", "--list", "--no-pager"), lambda found: "comfytunnel" in found
    )
    ran = await run(
        "busctl",
        "call",
        "org.freedesktop.login1",
        "/org/freedesktop/login1",
        "org.freedesktop.login1.Manager",
        "Suspend",
        "b",
        "false",
    )
    assert ran.code == 0, ran.err
    await world.until(world.log.read_text, lambda found: "about to sleep" in found and "woke" in found)
    await world.until(
        lambda: world.client.tunnel("default"),
        lambda found: found.phase == "up" and found.counters.links > before,
    )
    await world.ask(lambda: world.client.wait(timeout=DEADLINE))


def run_sync(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout
