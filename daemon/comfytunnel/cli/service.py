"""`install`, `uninstall`, `restart`, `logs`: the daemon as a service. What a person is asked and told is here, what is written and run is
the room `service`.

Nothing is replaced that a person has edited, and nothing of theirs is removed, without their word; without a terminal nobody is asked.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from comfytunnel import __version__, wire
from comfytunnel.cli import exits, render
from comfytunnel.cli.asking import asker
from comfytunnel.cli.sites import plan_of, service_of, site_of
from comfytunnel.client import Client
from comfytunnel.errors import NotRunningError, RefusedError, StateError, UsageError
from comfytunnel.paths import make_private_folder
from comfytunnel.printable import printable

if TYPE_CHECKING:
    from comfytunnel.config import Config
    from comfytunnel.service.files import Found, Wanted
    from comfytunnel.service.plan import Service

ANSWER_PATIENCE = 15.0  # seconds from the start to the first answer; it takes half a second
ANSWER_LOOK = 0.05  # seconds between two looks
STOPPED = "Stopped; what was done so far stays. `comfytunnel uninstall` removes it."

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON; ask nothing.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show everything, change nothing.")]
System = Annotated[
    bool, typer.Option("--system", help="A service of the whole machine, for a box without a desktop (root).")
]
Yes = Annotated[bool, typer.Option("--yes", help="Agree to what is shown.")]


def install(
    no_start: Annotated[bool, typer.Option("--no-start", help="Start it with the next login.")] = False,
    system: System = False,
    user: Annotated[
        str | None,
        typer.Option(
            "--user", metavar="NAME", help="With --system: who runs it, instead of a user of its own."
        ),
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Make the daemon a service that starts with your login.

    It is started again whenever it fails, and by the first command that asks for it. Run `install` again after a change of paths or a move: it replaces what it wrote itself, and asks before it replaces what you have edited.
    """
    from comfytunnel import config
    from comfytunnel.service import plan as plans
    from comfytunnel.service.files import Found, Record

    if user is not None and not system:
        raise UsageError("--user is for --system.", hint="Without it the service is yours, and runs as you.")
    site = site_of(system)
    loaded = config.load(site.config)
    commands: list[str] = []
    service = service_of(site, commands if dry_run else None, user)
    service.check()
    plan = plan_of(site, loaded)
    _refuse_a_stranger(plans.holder(plan.state_dir), service.pid())
    record = Record(site.record)
    wanted = service.wanted(plan)
    found = {each.path: record.found(each) for each in wanted}
    told = {str(each.path): found[each.path].value for each in wanted}

    write = [each for each in wanted if found[each.path] in (Found.NOTHING, Found.OURS)]
    write += _agreed(wanted, found, yes=yes, quiet=as_json, dry=dry_run)
    stale = record.stale(wanted)
    changed = [*(each.path for each in write), *stale]
    for each in wanted:
        if found[each.path] is Found.EDITED:
            told[str(each.path)] = "replaced" if each in write else "kept, as you edited it"
    if dry_run:
        service.bring(plan, changed, start=not no_start)
        _tell_plan(wanted, write, stale, commands, as_json)
        return
    if not system:  # there systemd makes them
        for ours in (plan.state_dir, plan.socket.parent):
            make_private_folder(ours)  # as the daemon will, so that it is refused before anything is written
        for folder in plan.writable:
            _make(folder)
    record.write(write)
    record.remember(each for each in wanted if found[each.path] is Found.SAME)
    told |= dict.fromkeys(map(str, record.remove(stale)), "kept, as you edited it")
    service.bring(plan, changed, start=not no_start)
    health = None if no_start else _answer(plan.socket)
    steps = [*service.next_steps(), *_agent_note(loaded, service, system)]
    if as_json:
        answer = {"files": told, "health": health, "socket": str(plan.socket), "notes": steps}
        exits.tell(render.json_text(answer, indent=2))
        return
    for path, word in told.items():
        exits.tell(printable(f"{word:<10} {path}"))
    if health is None:
        exits.tell("It starts with your next login, or when the control socket is used after that.")
    else:
        exits.tell(
            printable(f"comfytunnel {health.version} runs as a service (pid {health.pid}) on {plan.socket}")
        )
        _warn_of_trouble(plan.socket)
    for step in steps:
        exits.tell(printable(step))
    exits.tell("\nNext:\n  comfytunnel status     how the tunnel is\n  comfytunnel logs -f    what it does")


def uninstall(
    purge: Annotated[
        bool, typer.Option("--purge", help="Remove config, state and pictures, too, after asking.")
    ] = False,
    system: System = False,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Stop the service and remove what `install` wrote. Config, jobs and pictures stay."""
    from comfytunnel.service.files import Record
    from comfytunnel.service.purge import belongings

    commands: list[str] = []
    site = site_of(system)
    service = service_of(site, commands if dry_run else None)
    service.check()
    record = Record(site.record)
    files = record.paths()
    to_purge = belongings(site.config, site.state_dir, system=system) if purge else []
    if dry_run:
        service.drop()
        for line in [
            *commands,
            *(f"remove {path}" for path in files),
            *(f"remove {each}" for each in to_purge),
        ]:
            exits.tell(printable(line))
        return
    if not files and not purge:
        exits.tell("Nothing of `comfytunnel install` is here.")
        return
    service.drop()
    ask = asker(STOPPED)
    edited = record.remove(files)
    agreed = [
        path for path in edited if yes or (ask is not None and ask(f"You have edited {path}. Remove it?"))
    ]
    record.remove(agreed, edited_too=True)
    service.dropped()
    for path in files:
        exits.tell(
            printable(
                f"{'removed' if path in agreed or path not in edited else 'kept, as you edited it:'} {path}"
            )
        )
    for each in to_purge:
        if each.refusal:
            exits.tell(printable(f"kept {each}: {each.refusal}"))
        elif yes or (ask is not None and ask(f"Remove {each}?")):
            each.remove()
            exits.tell(printable(f"removed {each}"))
        else:
            exits.tell(printable(f"kept {each}{'' if ask else ': nobody is there to agree (--yes)'}"))
    if not purge:
        exits.tell(printable(f"Config, jobs and pictures stay: {site.config}, {site.state_dir}"))


def restart(system: System = False, as_json: AsJson = False) -> None:
    """Restart the service, for instance after an upgrade.

    No caller is refused meanwhile, and no job is lost.
    """
    site = site_of(system)
    service = service_of(site)
    if not service.program():
        raise NotRunningError("There is no service to restart.", hint="Make one: comfytunnel install")
    service.restart()
    health = _answer(site.socket)
    if as_json:
        exits.tell(render.json_text(health, indent=2))
        return
    exits.tell(printable(f"comfytunnel {health.version} runs (pid {health.pid})"))
    _warn_of_trouble(site.socket)
    if health.version != __version__:
        exits.tell(
            printable(
                f"This command is {__version__}: the service runs another installation, {shlex.join(service.program())}"
            )
        )


def logs(
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what is written from now on.")
    ] = False,
    since: Annotated[
        str | None, typer.Option("--since", metavar="WHEN", help='"10 min ago", "today", "2026-01-31 12:00".')
    ] = None,
    system: System = False,
) -> None:
    """Show the service's log.

    The last 200 lines, if nothing else is said.
    """
    found = service_of(site_of(system)).log(follow=follow, since=since)
    command: list[str] | None
    if isinstance(found, Path):
        from comfytunnel.service import logfile

        command = logfile.show(found, since, follow=follow, tell=lambda line: exits.tell(printable(line)))
    else:
        command = found
    if command is None:
        return
    try:
        os.execvp(command[0], command)  # noqa: S606 - its output and its keys are the person's; nothing of ours is left to do
    except FileNotFoundError as error:
        raise StateError(
            f"{command[0]} is not on this machine.",
            hint="A daemon in the foreground writes its log to its own terminal.",
        ) from error


def _agent_note(loaded: Config, service: Service, system: bool) -> list[str]:
    """What to say where this shell has an SSH agent, and the service will look for one and see another or none."""
    ours = os.environ.get("SSH_AUTH_SOCK")
    if (
        not ours
        or system
        or all(tunnel.agent for tunnel in loaded.tunnels.values())
        or service.agent() == ours
    ):
        return []
    note = (
        f"This shell has an SSH agent at {ours}, which the service does not see. If your key is in it, name the socket: "
        f'agent = "{ours}" in the config, or IdentityAgent in ssh_config.'
    )
    return [note]


def _refuse_a_stranger(running: int | None, ours: int | None) -> None:
    if running is not None and running != ours:
        raise RefusedError(
            f"A daemon runs already{f', with the pid {running}' if running else ''}, and not as this service.",
            hint="Stop it first (Ctrl-C where it runs), then install again: two cannot hold one port.",
            code="already_running",
        )


def _agreed(
    wanted: Sequence[Wanted], found: dict[Path, Found], *, yes: bool, quiet: bool, dry: bool
) -> list[Wanted]:
    """Of the files that a person has edited, those that may be replaced: each is shown first."""
    from comfytunnel.service.files import Found

    agreed = []
    ask = None if quiet or dry else asker(STOPPED)
    for each in wanted:
        if found[each.path] is not Found.EDITED:
            continue
        if not quiet:
            exits.tell(printable(f"{each.path} is not as `install` would write it:", lines=True))
            exits.tell(printable(each.diff(), lines=True))
        if yes or (ask is not None and ask("Replace it?")):
            agreed.append(each)
    return agreed


def _tell_plan(
    wanted: Sequence[Wanted],
    write: Sequence[Wanted],
    stale: Sequence[Path],
    commands: list[str],
    as_json: bool,
) -> None:
    if as_json:
        files = {str(each.path): each.text for each in wanted}
        writes = [str(each.path) for each in write]
        answer = {"files": files, "write": writes, "remove": [*map(str, stale)], "run": commands}
        exits.tell(render.json_text(answer, indent=2))
        return
    for each in write:
        exits.tell(printable(f"write {each.path}\n{each.diff()}\n", lines=True))
    for line in [*(f"remove {path}" for path in stale), *(f"run {command}" for command in commands)]:
        exits.tell(printable(line))
    exits.tell("Nothing was changed.")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StateError(
            f"The folder {folder} cannot be made: {error.strerror}.", hint="The daemon is to write there."
        ) from error


def _warn_of_trouble(socket: Path) -> None:
    """A daemon that answers may still have no use of its config or its state."""
    cause = Client(socket).status().cause
    if cause is not None:
        exits.say(f"warning: {cause.message}")
        exits.say(f"  {cause.hint}")


def _answer(socket: Path) -> wire.Health:
    """Wait for the daemon's first word. NotRunningError after ANSWER_PATIENCE."""
    client = Client(socket, timeout=ANSWER_PATIENCE)
    deadline = time.monotonic() + ANSWER_PATIENCE
    while True:
        try:
            return client.health()
        except NotRunningError as error:
            if time.monotonic() > deadline:
                raise NotRunningError(
                    f"The service was started and does not answer on {socket}: {error.message}",
                    hint="Its log: comfytunnel logs",
                ) from error
        time.sleep(ANSWER_LOOK)
