"""The store's SQL for the outputs of jobs that have come home. How they do is outputs.py's to say; attic.py forgets them.

An output that comes is a change of its job: both are one transaction, under the job's next revision.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from comfytunnel.decoding import decoder
from comfytunnel.jobs.model import Output, Stage
from comfytunnel.jobs.strays import Strays
from comfytunnel.jobs.transitions import apply

_outputs = decoder(Output)


class OutputStore(Strays):
    async def add_output(self, output: Output) -> None:
        """Say that a file has come home: the job takes the next revision. The same `ord` again replaces the record."""

        def insert() -> None:
            job = self._get(output.job_id)
            if job is None or job.stage in (Stage.WAITING, Stage.ENDED):
                return  # it was canceled, or moved away
            self._db.execute(
                "INSERT OR REPLACE INTO outputs (asset_id, job_id, ord, body, path, size) VALUES (?, ?, ?, ?, ?, ?)",
                (
                    output.asset_id,
                    output.job_id,
                    output.ord,
                    msgspec.json.encode(output),
                    output.path,
                    output.size,
                ),
            )
            self._put(apply(job, {}, self._next()))

        await self._write(insert)

    async def outputs(self, job_id: str) -> list[Output]:
        """In the order in which ComfyUI named them."""

        def read() -> list[Output]:
            rows = self._db.execute("SELECT body FROM outputs WHERE job_id = ? ORDER BY ord", (job_id,))
            return [_outputs.decode(row[0]) for row in rows]

        return await self._run(read)

    async def outputs_of(self, job_ids: Iterable[str]) -> dict[str, list[Output]]:
        """The outputs of many jobs at once; a job without any is absent."""
        asked = list(job_ids)
        return await self._run(lambda: self._outputs_of(asked))

    async def asset(self, asset_id: str) -> Output | None:
        def read() -> Output | None:
            row = self._db.execute("SELECT body FROM outputs WHERE asset_id = ?", (asset_id,)).fetchone()
            return None if row is None else _outputs.decode(row[0])

        return await self._run(read)

    # What follows runs on the store's thread.

    def _outputs_of(self, job_ids: list[str]) -> dict[str, list[Output]]:
        found: dict[str, list[Output]] = {}
        asked = msgspec.json.encode(job_ids).decode()
        sql = "SELECT job_id, body FROM outputs WHERE job_id IN (SELECT value FROM json_each(?)) ORDER BY job_id, ord"
        for job_id, body in self._db.execute(sql, (asked,)):
            found.setdefault(job_id, []).append(_outputs.decode(body))
        return found
