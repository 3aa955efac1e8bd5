"""`run` and `submit`: workflows are handed over, one job for each. What becomes of them is shown by watching.py.

What was accepted is told at once, so that it is known whatever comes after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from comfytunnel import wire
from comfytunnel.cli import exits
from comfytunnel.cli.render import json_text, safe
from comfytunnel.cli.watching import watch
from comfytunnel.client import Client
from comfytunnel.errors import Error
from comfytunnel.printable import printable
from comfytunnel.workflow.vary import Variant

SHOWN = 40  # characters of a value


def run(
    client: Client,
    variants: Iterable[Variant],
    *,
    folder: Path | None,
    opened: bool,
    as_json: bool,
    pictures: str | None = None,
    **asked: Any,
) -> int:
    """Submit all (`asked` as in `_submit`), follow them to their ends, tell the files. Returns the exit code."""

    def tell(job: wire.Job, chosen: Mapping[str, Any]) -> None:
        if not as_json:
            exits.say(f"job {job.id} {_told(chosen)}".rstrip())
            say_warnings(job)
        elif chosen:
            exits.tell(json_text({"event": "chosen", "job": job.id, "data": chosen}))

    jobs = _submit(client, variants, tell, **asked)
    return watch(client, jobs, folder=folder, opened=opened, as_json=as_json, pictures=pictures)


def hand_over(client: Client, variants: Iterable[Variant], *, as_json: bool, **asked: Any) -> None:
    """Submit all and tell their ids."""

    def tell(job: wire.Job, chosen: Mapping[str, Any]) -> None:
        if not as_json:
            exits.tell(safe(job).id)
            if chosen:
                exits.say(f"  {_told(chosen)}")
            say_warnings(job)

    jobs = _submit(client, variants, tell, **asked)
    if as_json:
        exits.tell(json_text(jobs[0] if len(jobs) == 1 else {"jobs": jobs}, indent=2))


def _submit(
    client: Client,
    variants: Iterable[Variant],
    tell: Callable[[wire.Job, Mapping[str, Any]], None],
    made_from: Callable[[Mapping[str, Any]], wire.GeneratedRequest] | None = None,
    **asked: Any,
) -> list[wire.Job]:
    """Hand them over, `asked` as in Client.submit; `made_from` as in reading.py; `tell` hears of each at once, with what is its own in it. What ends it midway leaves those that were accepted, and says how many."""
    jobs: list[wire.Job] = []
    try:
        for variant in variants:
            generated = made_from(variant.workflow) if made_from is not None else None
            job = client.submit(variant.workflow, generated=generated, **asked)
            jobs.append(job)
            tell(job, variant.chosen)
    except (Error, KeyboardInterrupt):
        if jobs:
            exits.say(f"{len(jobs)} before that were accepted and go on: comfytunnel jobs")
        raise
    return jobs


def _told(chosen: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={_short(value)}" for name, value in chosen.items())


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json_text(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def say_warnings(job: wire.Job) -> None:
    """On stderr: what may be wrong with a workflow that was accepted all the same."""
    for text in job.comfytunnel.warnings if job.comfytunnel is not None else ():
        exits.say(f"warning: {printable(text)}")
