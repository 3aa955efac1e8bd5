"""`jobs list | show | wait | cancel | retry | rm | move` and `queue`: what becomes of the jobs. Following one to its end is run.py's, the words are render.py's."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from comfytunnel import wire
from comfytunnel.cli import exits, render
from comfytunnel.cli.completing import job_ids, tunnel_names
from comfytunnel.cli.daemons import connect
from comfytunnel.cli.words import PICTURES, beginning, choose, moment, offering, whole_id
from comfytunnel.client.calls import Filters
from comfytunnel.printable import printable
from comfytunnel.words import Status

STATUSES = tuple(Status)
SHOWN = 20  # jobs that are listed unless more are asked for

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
Pictures = Annotated[
    str | None,
    typer.Option(
        "--pictures",
        metavar="auto|never|kitty|iterm|sixel",
        help="Show pictures in the terminal; default: $COMFYTUNNEL_PICTURES, else auto.",
        autocompletion=offering(PICTURES),
    ),
]
Timeout = Annotated[
    float | None, typer.Option("--timeout", metavar="SECONDS", min=0, help="Give up after so long (exit 4).")
]


def now() -> datetime:
    return datetime.now(UTC)


ByTunnel = Annotated[
    bool, typer.Option("--by-tunnel", help="Group them by the tunnel that they were given to, or ask for.")
]


OfStatus = Annotated[
    str | None,
    typer.Option(
        "--status",
        metavar="STATUS",
        help="Only these: queued, running, failed, ...",
        autocompletion=offering(STATUSES),
    ),
]
Labelled = Annotated[
    str | None, typer.Option("--label", metavar="TEXT", help="Only those with TEXT in their label.")
]
OnTunnel = Annotated[
    str | None,
    typer.Option(
        "--tunnel",
        metavar="NAME",
        help="Only those that were given to it, or ask for it.",
        autocompletion=tunnel_names,
    ),
]
Since = Annotated[
    str | None,
    typer.Option("--since", metavar="TIME", help="Only those submitted since: 30min, 2h, 1d, 2026-01-31."),
]
Prefix = Annotated[str | None, typer.Option("--prefix", metavar="ID", help="Only ids that begin so.")]
Limit = Annotated[int, typer.Option("--limit", min=1, metavar="N", help="At most so many.")]


@app.callback(invoke_without_command=True)
def jobs(
    context: typer.Context,
    status: OfStatus = None,
    label: Labelled = None,
    tunnel: OnTunnel = None,
    since: Since = None,
    prefix: Prefix = None,
    limit: Limit = SHOWN,
    by_tunnel: ByTunnel = False,
    as_json: AsJson = False,
) -> None:
    if context.invoked_subcommand is None:
        jobs_list(status, label, tunnel, since, prefix, limit, by_tunnel, as_json)


@app.command("list", epilog="Example: comfytunnel jobs list --status failed --since 1d")
def jobs_list(
    status: OfStatus = None,
    label: Labelled = None,
    tunnel: OnTunnel = None,
    since: Since = None,
    prefix: Prefix = None,
    limit: Limit = SHOWN,
    by_tunnel: ByTunnel = False,
    as_json: AsJson = False,
) -> None:
    """List jobs, the newest first."""
    client = connect()
    found: list[wire.Job] = []
    cursor: str | None = None
    asked: Filters = {
        "status": None if status is None else choose(status, STATUSES, "status of a job"),
        "label": label,
        "tunnel": tunnel,
        "since": None if since is None else moment(since, now()).isoformat(),
        "prefix": None if prefix is None else beginning(prefix),
    }
    while True:
        page = client.jobs_page(**asked, cursor=cursor, limit=min(100, limit - len(found)))
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
        exits.say(
            f"there are more: comfytunnel jobs list{_again({**asked, 'since': since})} --limit {limit * 5}"
        )
    elif not found and not by_tunnel and any(asked.values()):
        exits.say("no such job")


def _again(asked: Filters) -> str:
    """The filters as they can be typed once more."""
    return "".join(
        f" --{name} {shlex.quote(str(value))}" for name, value in asked.items() if value is not None
    )


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


@app.command("show", epilog="Example: comfytunnel jobs show 6af9aef3")
def jobs_show(job_ids: JobIds, pictures: Pictures = None, as_json: AsJson = False) -> None:
    """Show all about jobs."""
    from comfytunnel.cli.watching import paths, show_pictures

    client = connect()
    found = [client.job(job_id) for job_id in [whole_id(client, given) for given in job_ids]]
    for number, job in enumerate(found):
        text = render.json_text(job, indent=2) if as_json else render.job_text(job, now())
        exits.tell(text if as_json or not number else f"\n{text}")
        if not as_json:
            show_pictures(job, paths(job), pictures)


@app.command("wait", epilog="Example: comfytunnel jobs wait 6af9aef3 -o .")
def jobs_wait(
    job_ids: JobIds,
    output: Folder = None,
    timeout: Timeout = None,
    pictures: Pictures = None,
    as_json: AsJson = False,
) -> None:
    """Follow jobs to their ends and print their files' paths."""
    from comfytunnel.cli.watching import watch

    client = connect()
    chosen = [client.job(job_id) for job_id in dict.fromkeys(whole_id(client, given) for given in job_ids)]
    raise typer.Exit(
        watch(client, chosen, folder=output, as_json=as_json, timeout=timeout, pictures=pictures)
    )


@app.command("cancel", epilog="Example: comfytunnel jobs cancel 6af9aef3")
def jobs_cancel(
    job_ids: JobIds,
    as_json: AsJson = False,
) -> None:
    """Cancel jobs. One that runs stops between two of its steps."""
    client = connect()
    for job_id in [whole_id(client, given) for given in job_ids]:  # all are known before one is touched
        job = client.cancel(job_id)
        exits.tell(render.json_text(job) if as_json else render.job_line(job, now()))


@app.command("retry", epilog="Example: comfytunnel jobs retry 6af9aef3")
def jobs_retry(
    job_ids: JobIds,
    as_json: AsJson = False,
) -> None:
    """Submit ended jobs once more and print the new ids."""
    client = connect()
    for job_id in [whole_id(client, given) for given in job_ids]:
        job = client.retry(job_id)
        exits.tell(render.json_text(job) if as_json else render.safe(job).id)


@app.command("rm", epilog="Example: comfytunnel jobs rm 6af9aef3 --files")
def jobs_rm(
    job_ids: JobIds,
    files: Annotated[
        bool, typer.Option("--files", help="Delete their files too, as far as they are unchanged.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Delete the files without asking.")] = False,
    as_json: AsJson = False,
) -> None:
    """Forget jobs that have ended. Their files stay where they are.

    With --files those go, too: but for one that was changed since, and one that another job made as well. You are asked first; without a terminal, and with
    --json, it wants --yes.
    """
    client = connect()
    chosen = [client.job(job_id) for job_id in dict.fromkeys(whole_id(client, given) for given in job_ids)]
    many = sum(len(job.outputs) for job in chosen) if files else 0
    if many:
        from comfytunnel.cli.asking import agree

        what = f"{render.some(many, 'file')} of {render.some(len(chosen), 'job')}"
        agree(f"Delete {what}?", yes=yes, stopped="Nothing was deleted.", quiet=as_json)
    for job_id in [job.id for job in chosen]:
        gone = client.remove(job_id, files=files)
        exits.tell(render.json_text(gone) if as_json else render.removed_text(gone, files=files))


@app.command("move", epilog="Example: comfytunnel jobs move 6af9aef3 --to second")
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
