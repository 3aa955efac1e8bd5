"""Which service is meant, a person's or the machine's, where its files lie, and what `install` is to make of it. Writes and runs nothing."""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from comfytunnel import paths
from comfytunnel.errors import Error, UsageError

if TYPE_CHECKING:
    from comfytunnel.config import Config
    from comfytunnel.service.plan import Done, Plan, Service


class Site(NamedTuple):
    """Where the service's files lie. `record`: the folder that remembers what was installed."""

    config: Path
    state_dir: Path
    socket: Path
    record: Path
    system: bool


def site_of(system: bool) -> Site:
    if not system:
        state_dir = paths.state_dir()
        return Site(paths.config_path(), state_dir, paths.socket_path(), state_dir, False)
    if sys.platform == "darwin":
        raise UsageError("On a Mac the service is a person's own.", hint="Leave --system away.")
    from comfytunnel.service.machine import places

    config_path, state_dir, socket = places(paths.unit_name())
    return Site(config_path, state_dir, socket, config_path.parent, True)


def service_of(site: Site, commands: list[str] | None = None, user: str | None = None) -> Service:
    """The one of this system. With `commands` it changes nothing: what it would run is put in there."""
    from comfytunnel.service import plan as plans
    from comfytunnel.service.launchd import Launchd
    from comfytunnel.service.machine import Machine
    from comfytunnel.service.systemd import Systemd

    def note(words: Sequence[str]) -> Done:
        noted.append(shlex.join(words))
        return plans.DRY

    noted = commands if commands is not None else []
    run = plans.run if commands is None else note
    name = paths.unit_name()
    if site.system:
        return Machine(name, run, user)
    return Launchd(name, run) if sys.platform == "darwin" else Systemd(name, run)


def plan_of(site: Site, loaded: Config) -> Plan:
    from comfytunnel.folders import writable
    from comfytunnel.service import machine
    from comfytunnel.service import plan as plans
    from comfytunnel.service.program import Interpreter, program

    paths.check_socket_path(site.socket)
    words, folders = program(Interpreter.here()), writable(loaded, site.state_dir)
    plan = plans.Plan(paths.unit_name(), words, site.config, site.state_dir, site.socket)
    if site.system:
        machine.check_program(words)
        hidden = (*machine.HIDDEN, site.state_dir)
        folders = tuple(path for path in folders if not any(path.is_relative_to(each) for each in hidden))
        keys = machine.credentials(loaded, plan.name)
        return dataclasses.replace(plan, writable=folders, credentials=keys)
    environment = {"COMFYTUNNEL_CONFIG": str(site.config), "COMFYTUNNEL_STATE_DIR": str(site.state_dir)}
    if os.environ.get("COMFYTUNNEL_SOCKET"):
        environment["COMFYTUNNEL_SOCKET"] = str(site.socket)
    if plan.name != paths.APP:
        environment["COMFYTUNNEL_UNIT"] = plan.name
    return dataclasses.replace(plan, writable=folders, environment=environment)


def trouble() -> str:
    """Why this person's service could not be started again, or "": what its unit names has gone. Looks only where there is a unit."""
    from comfytunnel.service import program

    try:
        words = service_of(site_of(False)).program()
    except Error:  # no manager here, or none that answers: then there is no service to be wrong
        return ""
    why = program.trouble(words) if words else ""
    return f"The service could not be started again: {why}. Run: comfytunnel install" if why else ""
