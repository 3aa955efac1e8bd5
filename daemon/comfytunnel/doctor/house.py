"""What all tunnels share: the config file and the disk, looked at as they are now."""

from __future__ import annotations

import asyncio
import stat
from dataclasses import dataclass
from pathlib import Path

from comfytunnel import config
from comfytunnel.doctor.chain import Broken, Words
from comfytunnel.errors import ConfigError
from comfytunnel.folders import AGAIN, read_only
from comfytunnel.jobs.disk import try_folder
from comfytunnel.jobs.landing import trouble
from comfytunnel.jobs.store import Store
from comfytunnel.threads import in_thread
from comfytunnel.tunnel.ignored import ignored
from comfytunnel.tunnel.target import Target

DISK_DEADLINE = 5.0  # seconds for one folder; two of them fit into a step


@dataclass(frozen=True, slots=True)
class House:
    """What all tunnels share. `loaded`: whether the daemon has a config that it uses."""

    config: Path
    loaded: bool
    state_dir: Path
    output_dir: Path
    store: Store


async def look_at_config(
    house: House, tunnel: config.TunnelConfig | None, target: Target | None
) -> tuple[str, str]:
    """The file as it is now, and what of ssh_config has no effect. A broken file is a finding even if an older one is in use."""
    try:
        loaded, mode = await in_thread(
            lambda: (config.load(house.config), house.config.stat().st_mode), "config"
        )
    except ConfigError as error:
        kept = " The config from before is still in use." if house.loaded else ""
        raise Broken(f"{error.message}{kept}", error.hint or "Run `comfytunnel config check`.") from error
    said = f"{house.config} (mode {stat.S_IMODE(mode):04o})"
    hint = ""
    if tunnel is None or loaded.tunnels.get(tunnel.name) != tunnel:
        hint = "The file says something else than what is in use: run `comfytunnel config reload`."
    elif unwritable := await in_thread(lambda: read_only(loaded, house.state_dir), "folders"):
        hint = f"{', '.join(map(str, unwritable))}: read-only to the daemon. {AGAIN}"
    if tunnel is not None and target is not None:
        passed = await in_thread(lambda: ignored(tunnel, target), "ssh_config")
        if passed:
            said += f"; without effect in {tunnel.ssh_config}: {', '.join(passed)}"
    return said, hint


async def try_disk(house: House) -> Words:
    """Whether the state folder and the output folder take files now, and the database answers."""
    try:
        rooms = [await _try(house.state_dir)]
    except OSError as error:
        detail = f"The state folder {house.state_dir} cannot be written: {error.strerror or error}."
        raise Broken(detail, "Make it writable and free some space: no job can be accepted.") from error
    try:
        rooms.append(await _try(house.output_dir))
    except OSError as error:
        found = trouble(error, house.output_dir)
        raise Broken(found.message, found.hint) from error
    jobs = sum((await house.store.counts()).values())
    return (
        f"{'; '.join(rooms)}; the database holds {jobs} job{'' if jobs == 1 else 's'}",
        house.store.notice or "",
    )


async def _try(folder: Path) -> str:
    try:
        async with asyncio.timeout(DISK_DEADLINE):
            return await in_thread(lambda: try_folder(folder), "disk")
    except TimeoutError:
        raise Broken(
            f"The disk of {folder} did not answer for {DISK_DEADLINE:.0f} s.", "A network disk that is away?"
        ) from None
