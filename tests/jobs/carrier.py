"""A process that does nothing but carry jobs, for tests that kill it: `python -m tests.jobs.carrier FOLDER URL JOBS`.

It says `ready` and waits for a line (or the end of its input), so that a test need not wait until Python has started. Then it accepts jobs until there are JOBS of them, carries them,
and says `done` once all have ended.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from comfytunnel.comfy.client import Client
from comfytunnel.feed import Feed
from comfytunnel.jobs.model import NewJob
from comfytunnel.jobs.scheduler import Gate, JobsSettings, Place, Scheduler
from comfytunnel.jobs.store import Store
from tests.jobs.bench import picture


async def main(folder: Path, url: str, number: int) -> None:
    store = await Store.open(folder / "jobs.db")
    settings = JobsSettings(output_dir=folder / "pictures", settle=0.3, poll_min=0.05, poll_max=0.2)
    client = Client(url)
    scheduler = Scheduler(store, {"default": Place("default", client, Feed(Gate(1, True)))}, settings)
    running = asyncio.create_task(scheduler.run())
    for n in range(len(await store.since(0)), number):
        await scheduler.submit(NewJob(workflow=picture(n, prefix=f"p{n}", seconds=0.3)))
    async for _ in store.revision.changes():
        if running.done():
            running.result()
        if all(job.ended for job in await store.since(0)):
            break
    running.cancel()
    await asyncio.wait([running])
    await client.close()
    await store.close()
    print("done", flush=True)


if __name__ == "__main__":
    print("ready", flush=True)
    sys.stdin.readline()
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
