"""The log where it is a file (launchd): which lines of it are meant, since a file cannot be asked like a journal. Lines begin with their
local time, as log.py writes them where no terminal reads; a line without one belongs to the line before."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

from comfytunnel.errors import NotFoundError, UsageError

LINES = 200  # shown if nothing else is said
STAMP = "%Y-%m-%d %H:%M:%S"
_STAMP_LENGTH = len("2026-01-31 12:00:00")
_AGO = re.compile(r"(\d+)\s*(s|sec|m|min|h|hours?|d|days?)(?:\s+ago)?")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def show(path: Path, since: str | None, *, follow: bool, tell: Callable[[str], None]) -> list[str] | None:
    """Tell the lines since then. Returns the command that shows the rest; None: there is none."""
    if not path.is_file():
        raise NotFoundError(f"There is no log at {path}.", hint="Make a service first: comfytunnel install")
    if since is None:
        return ["tail", "-n", str(LINES), *(["-F"] if follow else []), str(path)]
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in newer(lines, moment(since, datetime.now())):  # noqa: DTZ005 - the stamps are local, too
            tell(line.rstrip("\n"))
    return ["tail", "-n", "0", "-F", str(path)] if follow else None


def newer(lines: Iterable[str], since: datetime) -> Iterator[str]:
    """From the first line that is not older on."""
    wanted, shown = since.strftime(STAMP), False
    for line in lines:
        stamp = line[:_STAMP_LENGTH]
        if re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", stamp):
            shown = shown or stamp >= wanted
        if shown:
            yield line


def moment(text: str, now: datetime) -> datetime:
    """Read "10 min ago", "today", "yesterday", "12:00", "2026-01-31 12:00" as journalctl does. UsageError for anything else."""
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    words = text.strip().lower()
    if words in ("today", "yesterday"):
        return midnight - timedelta(days=words == "yesterday")
    if ago := _AGO.fullmatch(words):
        return now - timedelta(seconds=int(ago[1]) * _SECONDS[ago[2][0]])
    try:
        if re.fullmatch(r"\d\d:\d\d(:\d\d)?", words):
            words = f"{now:%Y-%m-%d} {words}"
        return datetime.fromisoformat(words).replace(tzinfo=None)
    except ValueError:
        raise UsageError(
            f"{text!r} is no time.", hint='For example "10 min ago", "today", "2026-01-31 12:00".'
        ) from None
