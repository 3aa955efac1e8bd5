"""The store's SQL for webhooks: a row for each job that has one, from its submission on. What is sent when is outbox.py's to say.

A hook is due from the transaction on that ends its job: nothing tells of an end that is not on disk, and no end on disk goes untold.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from comfytunnel.decoding import decoder
from comfytunnel.feed import Feed
from comfytunnel.jobs.database import Database
from comfytunnel.jobs.model import Hook, Job, Webhook
from comfytunnel.jobs.webhooks import TTL, target

_hooks = decoder(Hook)


class HookStore(Database):
    armed: Feed[int]
    """Poked when a job with a webhook has ended."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.armed = Feed(0)
        self._armings = 0

    async def due_targets(self, now: datetime) -> tuple[list[str], datetime | None]:
        """Whom something should be sent to by now, and when the next is due after that."""

        def read() -> tuple[list[str], datetime | None]:
            seconds = now.timestamp()
            rows = self._db.execute("SELECT DISTINCT target FROM hooks WHERE due <= ?", (seconds,)).fetchall()
            later = self._one("SELECT min(due) FROM hooks WHERE due > ?", (seconds,))[0]
            return [row[0] for row in rows], None if later is None else datetime.fromtimestamp(later, UTC)

        return await self._run(read)

    async def next_hook(self, target: str, now: datetime) -> Hook | None:
        """Of what is due there, that which has been for the longest."""
        sql = "SELECT body FROM hooks WHERE target = ? AND due <= ? ORDER BY due, job_id LIMIT 1"
        return await self._run(lambda: _first(self._one(sql, (target, now.timestamp()))))

    async def put_hook(self, hook: Hook) -> None:
        """Write what became of an attempt. A job that is gone meanwhile has none."""
        await self._write(lambda: self._put_hook(hook))

    async def hooks_of(self, job_ids: Iterable[str]) -> dict[str, Hook]:
        asked = msgspec.json.encode(list(job_ids)).decode()
        sql = "SELECT body FROM hooks WHERE job_id IN (SELECT value FROM json_each(?))"

        def read() -> dict[str, Hook]:
            found = [_hooks.decode(row[0]) for row in self._db.execute(sql, (asked,))]
            return {hook.job_id: hook for hook in found}

        return await self._run(read)

    # What follows runs on the store's thread, within a transaction.

    def _add_hook(self, job_id: str, webhook: Webhook) -> None:
        body = msgspec.json.encode(Hook(job_id=job_id, webhook=webhook))
        given = (job_id, target(webhook.url), None, body)
        self._db.execute("INSERT INTO hooks (job_id, target, due, body) VALUES (?, ?, ?, ?)", given)

    def _arm(self, job: Job) -> None:
        """The job ends: its hook is due."""
        hook = _first(self._one("SELECT body FROM hooks WHERE job_id = ?", (job.id,)))
        if hook is not None and job.completed_at is not None:
            expires = job.completed_at + TTL
            self._put_hook(msgspec.structs.replace(hook, due=job.completed_at, expires_at=expires))
            self._armings += 1

    def _put_hook(self, hook: Hook) -> None:
        due = None if hook.due is None else hook.due.timestamp()
        given = (due, msgspec.json.encode(hook), hook.job_id)
        self._db.execute("UPDATE hooks SET due = ?, body = ? WHERE job_id = ?", given)

    # And this in the event loop, after it.

    def _poke(self, revision: int) -> None:
        super()._poke(revision)
        self.armed.set(self._armings)


def _first(row: sqlite3.Row | None) -> Hook | None:
    return None if row is None else _hooks.decode(row[0])
