"""The jobs that wait, in the order in which they will be given out: higher priority first, then older. Pure, in memory.

The store is the truth; this is its index, because a position in the line is asked for far more often than it changes.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter

from comfytunnel.jobs.model import Job, Stage

Key = tuple[int, int, str, str | None]


class Line:
    def __init__(self) -> None:
        self._keys: list[Key] = []
        self._by_id: dict[str, Key] = {}
        self._by_tunnel: Counter[str | None] = Counter()

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, job_id: object) -> bool:
        return job_id in self._by_id

    def add(self, job: Job) -> None:
        """Let a waiting job stand in line; again is harmless, a job that is not waiting is ignored."""
        if job.stage is Stage.WAITING:
            self.put_back((-job.priority, job.seq, job.id, job.tunnel))

    def put_back(self, key: Key) -> None:
        """Let a job that was taken stand where it stood."""
        if key[2] not in self._by_id:
            self._by_id[key[2]] = key
            self._by_tunnel[key[3]] += 1
            insort(self._keys, key, key=lambda key: key[:3])

    def remove(self, job_id: str) -> Key | None:
        """Take a job out; None if it does not stand here."""
        key = self._by_id.pop(job_id, None)
        if key is not None:
            self._by_tunnel[key[3]] -= 1
            del self._keys[self._index(key)]
        return key

    def position(self, job_id: str) -> int | None:
        """How many stand before it."""
        key = self._by_id.get(job_id)
        return None if key is None else self._index(key)

    def first(self, tunnel: str) -> str | None:
        """The id of the first job that may go through this tunnel."""
        if not self.wanting(tunnel):
            return None
        return next(key[2] for key in self._keys if key[3] in (None, tunnel))

    def wanting(self, tunnel: str) -> int:
        """How many jobs may go through this tunnel."""
        return self._by_tunnel[None] + self._by_tunnel[tunnel]

    def _index(self, key: Key) -> int:
        return bisect_left(self._keys, key[:3], key=lambda key: key[:3])
