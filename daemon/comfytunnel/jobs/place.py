"""A ComfyUI that jobs can be given to, as the scheduler sees it: a client, a gate, settings. Nouns only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from comfytunnel.comfy.client import Client
from comfytunnel.feed import Feed
from comfytunnel.jobs.model import Waits


@dataclass(frozen=True, slots=True)
class Gate:
    """May this place be used? `link`: the number of the live link, None without one (a new number for each connection).
    `serving`: ComfyUI answers through it. `why`: the reason when either is missing."""

    link: int | None
    serving: bool
    why: Waits | None = None

    @property
    def open(self) -> bool:
        return self.link is not None and self.serving


def _nothing() -> None:
    return None


def _nowhere() -> str:
    return ""


@dataclass(frozen=True, slots=True)
class Place:
    """`name` is the tunnel's. `doubted` is called when a request failed: whoever watches ComfyUI should look at once. `address`: which
    ComfyUI it leads to now, in any words; another one is another ComfyUI."""

    name: str
    client: Client
    gate: Feed[Gate]
    doubted: Callable[[], None] = _nothing
    address: Callable[[], str] = _nowhere


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """How long what has ended is kept; None: for ever. Of jobs, their records (the workflow is most of that); of outputs, the files on
    the user's disk. Age in seconds since the job's end, size in bytes of all together."""

    jobs_age: float | None = None
    jobs_size: int | None = None
    outputs_age: float | None = None
    outputs_size: int | None = None

    def job_until(self, ended: datetime | None, with_outputs: bool) -> datetime | None:
        """When a job that ended then is forgotten by its age: not before its files, where those have a limit. None: never, or when
        room is wanted."""
        ages = [self.jobs_age]
        if with_outputs and (self.outputs_age is not None or self.outputs_size is not None):
            ages.append(self.outputs_age)
        return _after(ended, ages)

    def outputs_until(self, ended: datetime | None) -> datetime | None:
        """The same for the files of a job. Without a limit of their own they stay, and what is known of them goes with the job."""
        own = self.outputs_age is not None or self.outputs_size is not None
        return _after(ended, [self.outputs_age if own else self.jobs_age])


def _after(ended: datetime | None, ages: list[float | None]) -> datetime | None:
    known = [age for age in ages if age is not None]
    if ended is None or len(known) < len(ages):
        return None
    return ended + timedelta(seconds=max(known))


@dataclass(frozen=True, slots=True, kw_only=True)
class JobsSettings:
    """`max_ahead`: jobs kept on the server behind the running one. `max_waiting`: jobs that may wait at most. `time_to_*`: what a job gets
    that names no limit of its own. 0: no limit. `move_after`: how long a place may be away before its jobs are let go (moving.py); 0: for ever. Times in seconds, sizes in bytes.

    `settle`: what the far SSH server may still hold of a dead link is delivered within this time. `poll_*`: how often a job on
    the server is looked up when the websocket says nothing. `retry_max`: the longest pause after trouble with the road or our disk.
    `max_files` and `max_file_size` keep a hostile or broken server from filling the disk; no known workflow comes near.
    """

    output_dir: Path
    max_ahead: int = 1
    max_waiting: int = 0
    time_to_start: float = 0.0
    time_to_run: float = 0.0
    move_after: float = 0.0
    forward_partner_key: bool = False
    keep: Keep = Keep()
    settle: float = 5.0
    poll_min: float = 0.25
    poll_max: float = 2.0
    retry_max: float = 5.0
    max_files: int = 1000
    max_file_size: int = 16 * 1024**3
