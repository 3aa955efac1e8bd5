"""The store's SQL for Idempotency-Keys: what was made under one is not made again for a day.

A key is claimed in the transaction that makes the job or the asset, or not at all: whoever makes something calls `claim` within its own.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from comfytunnel.errors import UsageError
from comfytunnel.jobs.database import Database

CLAIM_AGE = timedelta(hours=24)
"""How long an Idempotency-Key is remembered (Comfy API v2)."""


class Claims(Database):
    async def claimed(self, claim: str, now: datetime) -> None:
        """Raises UsageError (`idempotency_key_reuse`, the id of what was made in details) if an Idempotency-Key was used in the last
        CLAIM_AGE; the answer to a submission may have been lost, and this is how the submitter learns what became of it."""
        await self._run(lambda: self._refuse_claimed(claim, now))

    # What follows runs on the store's thread.

    def claim(self, claim: str, made: str, now: datetime, kind: str = "job") -> None:
        """Within a transaction (`writing`): an Idempotency-Key is used from now on, for the job or the asset `made`. See `claimed`."""
        self._db.execute("DELETE FROM claims WHERE at <= ?", ((now - CLAIM_AGE).timestamp(),))
        self._refuse_claimed(claim, now)
        self._db.execute("INSERT INTO claims VALUES (?, ?, ?)", (claim, f"{kind} {made}", now.timestamp()))

    def _refuse_claimed(self, claim: str, now: datetime) -> None:
        row = self._one(
            "SELECT made FROM claims WHERE key = ? AND at > ?", (claim, (now - CLAIM_AGE).timestamp())
        )
        if row is not None:
            kind, _, made = row[0].rpartition(" ")
            raise UsageError(
                "This Idempotency-Key was used before: nothing is done a second time.",
                hint=f"It made the {kind or 'job'} {made}; for another submission send another key.",
                code="idempotency_key_reuse",
                details={f"{kind or 'job'}_id": made},
            )
