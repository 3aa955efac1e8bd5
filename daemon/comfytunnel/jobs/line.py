"""The jobs that wait, in the order in which they will be given out: higher priority first, then by rank, which is by age unless
somebody has moved a job. Pure, in memory.

The store is the truth; this is its index, because a position in the line is asked for far more often than it changes.
A rank is a fraction in hexadecimal digits, so between two of them there is always room for one more.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from typing import NamedTuple

from comfytunnel.jobs.model import Job, Stage

DIGITS = 16
"""Digits of the rank that a job has by its age (its `seq`)."""


class Key(NamedTuple):
    """Where a job stands: keys are in the order of the line."""

    before: int  # the priority, negated
    rank: str
    job_id: str
    tunnel: str | None
    hasty: bool = False  # it fails where it would have to wait for more than the jobs before it


class Line:
    def __init__(self) -> None:
        self._keys: list[Key] = []
        self._by_id: dict[str, Key] = {}
        self._by_tunnel: Counter[str | None] = Counter()
        self.hasty: dict[str | None, set[str]] = {}
        """The ids of those that fail fast, by the tunnel that they want."""

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, job_id: object) -> bool:
        return job_id in self._by_id

    def add(self, job: Job) -> None:
        """Let a waiting job stand in line; again is harmless, a job that is not waiting is ignored."""
        if job.stage is Stage.WAITING:
            self.put_back(key_of(job))

    def put_back(self, key: Key) -> None:
        """Let a job that was taken stand where it stood."""
        if key.job_id not in self._by_id:
            self._by_id[key.job_id] = key
            self._by_tunnel[key.tunnel] += 1
            if key.hasty:
                self.hasty.setdefault(key.tunnel, set()).add(key.job_id)
            insort(self._keys, key, key=_order)

    def remove(self, job_id: str) -> Key | None:
        """Take a job out; None if it does not stand here."""
        key = self._by_id.pop(job_id, None)
        if key is not None:
            self._by_tunnel[key.tunnel] -= 1
            if key.hasty:
                self.hasty[key.tunnel].discard(job_id)
            del self._keys[self._index(key)]
        return key

    def ahead(self, job_id: str) -> int | None:
        """How many of those before it could take its turn: those that ask for other tunnels can't."""
        key = self._by_id.get(job_id)
        if key is None:
            return None
        at = self._index(key)
        if key.tunnel is None or self.wanting(key.tunnel) == len(self._keys):
            return at
        return sum(1 for other in self._keys[:at] if other.tunnel in (None, key.tunnel))

    def first(self, tunnel: str, *, named: bool = False) -> str | None:
        """The id of the first job that may go through this tunnel; `named`: that asks for it."""
        if not (self._by_tunnel[tunnel] if named else self.wanting(tunnel)):
            return None
        fitting = (tunnel,) if named else (None, tunnel)
        return next(key.job_id for key in self._keys if key.tunnel in fitting)

    def is_free(self, job_id: str) -> bool:
        """Whether a job stands here that may go through any tunnel."""
        return job_id in self._by_id and self._by_id[job_id].tunnel is None

    def asking_for(self, tunnel: str) -> list[str]:
        """The ids of the jobs that ask for this tunnel."""
        return [key.job_id for key in self._keys if key.tunnel == tunnel] if self._by_tunnel[tunnel] else []

    def wanting(self, tunnel: str) -> int:
        """How many jobs may go through this tunnel."""
        return self._by_tunnel[None] + self._by_tunnel[tunnel]

    def slot(self, job_id: str, before: str | None) -> tuple[int, str] | None:
        """The priority and rank with which `job_id` would stand right before `before`, or last of all (None). None if that one does not
        stand here."""
        others = [key for key in self._keys if key.job_id != job_id]
        if before is None:
            last = others[-1] if others else None
            if last is None:
                alone = self._by_id[job_id]
                return -alone.before, alone.rank
            return -last.before, between(last.rank, "")
        at = next((n for n, key in enumerate(others) if key.job_id == before), None)
        if at is None:
            return None
        here = others[at]
        ahead = others[at - 1].rank if at and others[at - 1].before == here.before else ""
        return -here.before, between(ahead, here.rank)

    def ends(self) -> tuple[str, str] | None:
        """The first and the last job in line, None if there is none."""
        return (self._keys[0].job_id, self._keys[-1].job_id) if self._keys else None

    def _index(self, key: Key) -> int:
        return bisect_left(self._keys, _order(key), key=_order)


def key_of(job: Job) -> Key:
    return Key(-job.priority, job.rank or f"{job.seq:0{DIGITS}x}", job.id, job.tunnel, job.fail_fast)


def between(low: str, high: str) -> str:
    """A rank between two, of which `low` is the smaller; "" is below all as `low`, and as `high` the rank of the next job by age."""
    high = high or f"{int(low[:DIGITS].ljust(DIGITS, '0'), 16) + 1:0{DIGITS}x}"
    digits = max(len(low), len(high))
    while True:
        under, over = (int(rank.ljust(digits, "0"), 16) for rank in (low, high))
        if over - under > 1:
            return f"{(under + over) // 2:0{digits}x}"
        digits += 1


def _order(key: Key) -> tuple[int, str, str]:
    return key[:3]
