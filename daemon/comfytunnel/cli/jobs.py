"""`jobs list | show | wait | cancel | retry | move` and `queue`: what becomes of the jobs. Following one to its end is run.py's, the words are render.py's."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from comfytunnel import wire
from comfytunnel.cli import exits, render
from comfytunnel.cli.completing import job_ids
from comfytunnel.cli.daemons import connect
from comfytunnel.cli.words import choose, offering, whole_id
from comfytunnel.printable import printable

app = typer.Typer(
    help="Look at jobs and act on them.", epilog="Example: comfytunnel jobs", rich_markup_mode=None
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
JobId = Annotated[
    str, typer.Argument(metavar="ID", help="The job's id, or how it begins.", autocompletion=job_ids)
]
JobIds = Annotated[
    list[str],
    typer.Argument(metavar="ID...", help="The jobs' ids, or how they begin.", autocompletion=job_ids),
]
Folder = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="DIR", help="Copy the files here; nothing is overwritten."),
]
Timeout = Annotated[
    float | None, typer.Option("--timeout", metavar="SECONDS", min=0, help="Give up after so long (exit 4).")
]


def now() -> datetime:
    return datetime.now(UTC)


ByTunnel = Annotated[
    bool, typer.Option("--by-tunnel", help="Group them by the tunnel that they were given to, or ask for.")
]


@app.callback(invoke_without_command=True)
def jobs(context: typer.Context, by_tunnel: ByTunnel = False, as_json: AsJson = False) -> None:
    if context.invoked_subcommand is None:
        jobs_list(by_tunnel=by_tunnel, as_json=as_json)


@app.command("list", epilog="Example: comfytunnel jobs list --status failed")
def jobs_list(
    status: Annotated[
        str | None, typer.Option(metavar="STATUS", help="Only these: queued, running, failed, ...")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="At most so many.")] = 20,
    by_tunnel: ByTunnel = False,
    as_json: AsJson = False,
) -> None:
    """List jobs, the newest first."""
    client = connect()
    found: list[wire.Job] = []
    cursor: str | None = None
    while True:
        page = client.jobs_page(status=status, cursor=cursor, limit=min(100, limit - len(found)))
        found += page.jobs
        cursor = page.next_cursor
        if cursor is None or len(found) >= limit:
            break
    if by_tunnel:
        _tell_by_tunnel(client.tunnels(), found, as_json=as_json)
    elif as_json:
        exits.tell(render.json_text(wire.JobList(found, cursor), indent=2))
    else:
        for job in found:
            exits.tell(render.job_line(job, now()))
    if as_json:
        return
    if cursor is not None:
        exits.say(f"there are more: comfytunnel jobs list --limit {limit * 5}")


def _tell_by_tunnel(tunnels: dict[str, wire.Tunnel], found: list[wire.Job], *, as_json: bool) -> None:
    """Tunnels of the config first, then those that are gone from it, then the jobs that wait for any."""
    groups: dict[str, list[wire.Job]] = {name: [] for name in tunnels}
    free: list[wire.Job] = []
    for job in found:
        name = job.comfytunnel.tunnel if job.comfytunnel else None
        (free if name is None else groups.setdefault(name, [])).append(job)
    if as_json:
        exits.tell(render.json_text({"tunnels": groups, "any": free}, indent=2))
        return
    for name, its in groups.items():
        known = tunnels.get(name)
        gone = f"{printable(name)}: not in the config"
        exits.tell(gone if known is None else render.tunnel_line(name, known))
        _tell_group(its)
    if free:
        exits.tell("any tunnel")
        _tell_group(free)


def _tell_group(found: list[wire.Job]) -> None:
    for job in found:
        exits.tell(f"  {render.job_line(job, now())}")
    if not found:
        exits.tell("  no jobs")


@app.command("show", epilog="Example: comfytunnel jobs show 6af9aef3-12ac-41f6-bd7a-d70e954ea31f")
def jobs_show(job_id: JobId, as_json: AsJson = False) -> None:
    """Show all about one job."""
    client = connect()
    job = client.job(whole_id(client, job_id))
    exits.tell(render.json_text(job, indent=2) if as_json else render.job_text(job, now()))


@app.command("wait", epilog="Example: comfytunnel jobs wait 6af9aef3 -o .")
def jobs_wait(
    job_ids: JobIds, output: Folder = None, timeout: Timeout = None, as_json: AsJson = False
) -> None:
    """Follow jobs to their ends and print their files' paths."""
    from comfytunnel.cli.watching import watch

    client = connect()
    chosen = [client.job(job_id) for job_id in dict.fromkeys(whole_id(client, given) for given in job_ids)]
    raise typer.Exit(watch(client, chosen, folder=output, as_json=as_json, timeout=timeout))


@app.command("cancel", epilog="Example: comfytunnel jobs cancel 6af9aef3-12ac-41f6-bd7a-d70e954ea31f")
def jobs_cancel(
    job_ids: JobIds,
    as_json: AsJson = False,
) -> None:
    """Cancel jobs. One that runs stops between two of its steps."""
    client = connect()
    for job_id in [whole_id(client, given) for given in job_ids]:  # all are known before one is touched
        job = client.cancel(job_id)
        exits.tell(render.json_text(job) if as_json else render.job_line(job, now()))


@app.command("retry", epilog="Example: comfytunnel jobs retry 6af9aef3-12ac-41f6-bd7a-d70e954ea31f")
def jobs_retry(
    job_ids: JobIds,
    as_json: AsJson = False,
) -> None:
    """Submit ended jobs once more and print the new ids."""
    client = connect()
    for job_id in [whole_id(client, given) for given in job_ids]:
        job = client.retry(job_id)
        exits.tell(render.json_text(job) if as_json else render.safe(job).id)


@app.command("move", epilog="Example: comfytunnel jobs move 6af9aef3-12ac-41f6-bd7a-d70e954ea31f --to second")
def jobs_move(
    job_id: JobId,
    to: Annotated[str | None, typer.Option(metavar="NAME", help="The tunnel; otherwise any.")] = None,
    as_json: AsJson = False,
) -> None:
    """Let a job run on another tunnel's ComfyUI.

    One that was given to a ComfyUI already may have run there, and then runs a second time; what it has left there is cancelled when that one is back.
    """
    client = connect()
    before = client.job(whole_id(client, job_id))
    job = client.move_to(before.id, to)
    exits.tell(render.json_text(job, indent=2) if as_json else render.job_line(job, now()))
    extra = render.safe(job).comfytunnel
    if extra is not None and before.comfytunnel is not None and extra.moves > before.comfytunnel.moves:
        exits.say(f"note: {extra.note}")


ORDERS: tuple[Literal["pause", "resume", "drain"], ...] = ("pause", "resume", "drain")
Order = Annotated[
    str | None,
    typer.Argument(
        metavar="[pause|resume|drain]",
        help="What to do; nothing: show it.",
        show_default=False,
        autocompletion=offering(ORDERS),
    ),
]


def queue(order: Order = None, as_json: AsJson = False) -> None:
    """Pause, resume or drain the queue, or show it.

    pause: ComfyUI gets no further jobs; new ones are accepted and wait. drain: none are accepted either, and once what is on the server has come
    home the instance can be destroyed; what waits stays. Both outlive the daemon.
    """
    found = connect().queue(None if order is None else choose(order, ORDERS, "order for the queue"))
    exits.tell(render.json_text(found, indent=2) if as_json else render.queue_text(found, now()))
