"""`jobs list | show | wait | cancel | retry` and `queue`: what becomes of the jobs. Following one to its end is run.py's, the words are render.py's."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from comfytunnel import wire
from comfytunnel.cli import exits, render
from comfytunnel.cli.daemons import connect

app = typer.Typer(help="Look at jobs and act on them.", rich_markup_mode=None)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
JobId = Annotated[str, typer.Argument(metavar="ID", help="The job's id.")]
Folder = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="DIR", help="Copy the files here; nothing is overwritten."),
]
Timeout = Annotated[
    float | None, typer.Option("--timeout", metavar="SECONDS", min=0, help="Give up after so long (exit 4).")
]


def now() -> datetime:
    return datetime.now(UTC)


@app.callback(invoke_without_command=True)
def jobs(context: typer.Context, as_json: AsJson = False) -> None:
    if context.invoked_subcommand is None:
        jobs_list(as_json=as_json)


@app.command("list")
def jobs_list(
    status: Annotated[
        str | None, typer.Option(metavar="STATUS", help="Only these: queued, running, failed, ...")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="At most so many.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List jobs, the newest first."""
    client = connect()
    found: list[wire.Job] = []
    cursor: str | None = None
    while True:
        page = client.jobs(status=status, cursor=cursor, limit=min(100, limit - len(found)))
        found += page.jobs
        cursor = page.next_cursor
        if cursor is None or len(found) >= limit:
            break
    if as_json:
        exits.tell(render.json_text(wire.JobList(found, cursor), indent=2))
        return
    for job in found:
        exits.tell(render.job_line(job, now()))
    if cursor is not None:
        exits.say(f"there are more: --limit {limit * 5}")


@app.command("show")
def jobs_show(job_id: JobId, as_json: AsJson = False) -> None:
    """Show all about one job."""
    job = connect().job(job_id)
    exits.tell(render.json_text(job, indent=2) if as_json else render.job_text(job, now()))


@app.command("wait")
def jobs_wait(job_id: JobId, output: Folder = None, timeout: Timeout = None, as_json: AsJson = False) -> None:
    """Follow a job to its end and print the paths of its files."""
    from comfytunnel.cli.run import wait_for

    raise typer.Exit(wait_for(connect(), job_id, folder=output, as_json=as_json, timeout=timeout))


@app.command("cancel")
def jobs_cancel(
    job_ids: Annotated[list[str], typer.Argument(metavar="ID...")], as_json: AsJson = False
) -> None:
    """Cancel jobs. One that runs stops between two of its steps."""
    client = connect()
    for job_id in job_ids:
        job = client.cancel(job_id)
        exits.tell(render.json_text(job) if as_json else render.job_line(job, now()))


@app.command("retry")
def jobs_retry(
    job_ids: Annotated[list[str], typer.Argument(metavar="ID...")], as_json: AsJson = False
) -> None:
    """Submit ended jobs once more, and print the ids of the new ones."""
    client = connect()
    for job_id in job_ids:
        job = client.retry(job_id)
        exits.tell(render.json_text(job) if as_json else render.safe(job).id)


Order = Annotated[
    Literal["pause", "resume", "drain"] | None,
    typer.Argument(help="Nothing: show it.", show_default=False),
]


def queue(order: Order = None, as_json: AsJson = False) -> None:
    """Pause, resume or drain the queue, or show it.

    pause: ComfyUI gets no further jobs; new ones are accepted and wait. drain: none are accepted either, and once what is on the server has come
    home the instance can be destroyed; what waits stays. Both outlive the daemon.
    """
    found = connect().queue(order)
    exits.tell(render.json_text(found, indent=2) if as_json else render.queue_text(found, now()))
