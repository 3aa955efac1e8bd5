"""The store's SQL for what may be forgotten: the oldest ended jobs and their outputs. When and what is retention.py's to say."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from comfytunnel.decoding import decoder
from comfytunnel.jobs.database import Database
from comfytunnel.jobs.model import Output

_outputs = decoder(Output)


@dataclass(frozen=True, slots=True)
class Old:
    """Something of a job that ended at `ended_at`. `size` in bytes: of the file, or of the job's record; `output` None: the record."""

    job_id: str
    ended_at: datetime
    size: int
    output: Output | None = None


class Attic(Database):
    """What a webhook has yet to tell of is not old, whatever its age."""

    async def oldest_outputs(self, limit: int) -> tuple[list[Old], int]:
        """Outputs of ended jobs, those that ended first at the beginning, and the size of all that there are."""

        def read() -> tuple[list[Old], int]:
            rows = self._db.execute(
                "SELECT j.id, j.ended_at, o.size, o.body FROM jobs j JOIN outputs o ON o.job_id = j.id "
                "WHERE j.ended_at IS NOT NULL "
                "AND NOT EXISTS (SELECT 1 FROM hooks h WHERE h.job_id = j.id AND h.due IS NOT NULL) "
                "ORDER BY j.ended_at, j.seq, o.ord LIMIT ?",
                (limit,),
            )
            found = [Old(row[0], _time(row[1]), row[2], _outputs.decode(row[3])) for row in rows]
            return found, self._total("SELECT sum(size) FROM outputs")

        return await self._run(read)

    async def oldest_jobs(self, limit: int, *, without_outputs: bool) -> tuple[list[Old], int]:
        """Records of ended jobs in the same way; `without_outputs`: only of jobs whose files are all forgotten."""

        def read() -> tuple[list[Old], int]:
            rows = self._db.execute(
                "SELECT j.id, j.ended_at, length(j.body) + length(w.workflow) FROM jobs j "
                "JOIN workflows w ON w.job_id = j.id WHERE j.ended_at IS NOT NULL "
                "AND NOT EXISTS (SELECT 1 FROM hooks h WHERE h.job_id = j.id AND h.due IS NOT NULL) "
                "AND NOT (? AND EXISTS (SELECT 1 FROM outputs o WHERE o.job_id = j.id)) "
                "ORDER BY j.ended_at, j.seq LIMIT ?",
                (without_outputs, limit),
            )
            found = [Old(row[0], _time(row[1]), row[2]) for row in rows]
            bodies = self._total("SELECT sum(length(body)) FROM jobs")
            return found, bodies + self._total("SELECT sum(length(workflow)) FROM workflows")

        return await self._run(read)

    async def others_with(self, output: Output) -> bool:
        """Whether another job's output is the very same file: ComfyUI answered it from its cache."""
        sql = "SELECT 1 FROM outputs WHERE path = ? AND asset_id != ?"
        return await self._run(lambda: self._one(sql, (output.path, output.asset_id)) is not None)

    async def has_outputs(self, job_id: str) -> bool:
        """Whether any file of the job is still known."""
        return await self._run(
            lambda: self._one("SELECT 1 FROM outputs WHERE job_id = ?", (job_id,)) is not None
        )

    async def forget_output(self, asset_id: str) -> None:
        """Forget that there was a file. The job stays as it is."""
        await self._write(lambda: self._db.execute("DELETE FROM outputs WHERE asset_id = ?", (asset_id,)))

    async def forget_jobs(self, job_ids: Iterable[str]) -> None:
        """Forget ended jobs with all that hangs on them but for their files."""
        sql = "DELETE FROM jobs WHERE ended_at IS NOT NULL AND id = ?"
        given = [(job_id,) for job_id in job_ids]
        await self._write(lambda: self._db.executemany(sql, given))

    async def forgettable(self, job_id: str) -> bool:
        """Whether its webhook has nothing more to tell."""
        sql = "SELECT 1 FROM hooks WHERE job_id = ? AND due IS NOT NULL"
        return await self._run(lambda: self._one(sql, (job_id,)) is None)

    def _total(self, sql: str) -> int:
        row: Any = self._one(sql)
        return int(row[0] or 0)


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
