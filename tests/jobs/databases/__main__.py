"""A database as this version of the program writes it, with a job in each stage, as SQL. Run before a migration is added:

    python -m tests.jobs.databases > tests/jobs/databases/vN.sql      # N: the number of migrations before it

Never made anew afterwards: what stands there was written by a program that did not know what came later.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from comfytunnel.jobs.model import NewJob, Output, Stage, Status, Wanted
from comfytunnel.jobs.store import Store

NOW = datetime(2026, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
MARKER = "comfytunnel-0123456789abcdef0123456789abcdef.txt"  # of a ComfyUI process that has gone long ago
IMAGE = {"width": 32, "height": 32, "batch_size": 1, "color": 255}


async def fill(store: Store) -> None:
    async def add(label: str) -> str:
        prefix = {"images": ["1", 0], "filename_prefix": label}
        graph = {
            "1": {"class_type": "EmptyImage", "inputs": IMAGE},
            "9": {"class_type": "SaveImage", "inputs": prefix},
        }
        return (await store.add(NewJob(workflow=graph, label=label), now=NOW)).id

    async def submit(label: str) -> str:
        job = await add(label)
        await store.move(
            job, expect=Stage.WAITING, stage=Stage.SUBMITTING, place="default", server=MARKER, attempts=1
        )
        return job

    async def arrive(label: str) -> str:
        job = await submit(label)
        await store.move(
            job,
            expect=Stage.SUBMITTING,
            stage=Stage.ON_SERVER,
            status=Status.RUNNING,
            submitted_at=NOW,
            started_at=NOW,
            executions=1,
        )
        return job

    async def fetch(label: str) -> str:
        job = await arrive(label)
        file = Wanted(node_id="9", kind="image", filename=f"{label}_00001_.png")
        await store.move(job, expect=Stage.ON_SERVER, stage=Stage.FETCHING, folder=label, wanted=(file,))
        return job

    done = await fetch("done")
    output = Output(
        asset_id="0" * 32,
        job_id=done,
        node_id="9",
        name="done_00001_.png",
        kind="image",
        content_type="image/png",
        size=91,
        blake3="b" * 64,
        sha256="a" * 64,
        path="/nonexistent/done/done_00001_.png",
    )
    await store.add_output(output)
    await store.move(
        done,
        expect=Stage.FETCHING,
        stage=Stage.ENDED,
        status=Status.SUCCEEDED,
        completed_at=NOW,
        wanted=(),
    )
    await fetch("fetching")
    await arrive("on_server")
    await submit("submitting")
    await add("waiting")


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "jobs.db"
        store = await Store.open(path)
        await fill(store)
        await store.close()
        db = sqlite3.connect(path)
        (version,) = db.execute("PRAGMA user_version").fetchone()
        sys.stdout.write("\n".join([*db.iterdump(), f"PRAGMA user_version={version};", ""]))
        db.close()


asyncio.run(main())
