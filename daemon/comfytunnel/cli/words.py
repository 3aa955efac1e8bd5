"""What a person types short or wrong: the nearest of the words that a command takes, the job whose id begins so, a time as one says it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TypeVar

from comfytunnel.client import Client
from comfytunnel.errors import NotFoundError, UsageError

Word = TypeVar("Word", bound=str)

ID_LENGTH = 36  # characters of a whole id, a UUID
PREFIX_LEAST = 4  # characters, as git takes
PICTURES = ("auto", "never", "kitty", "iterm", "sixel")
"""How pictures are shown in a terminal."""
UNITS = {"s": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}  # seconds
NAMED_MOST = 5  # jobs that an ambiguous beginning names


def choose(given: str, words: Sequence[Word], what: str) -> Word:
    """Return the one of `words` that was given; UsageError says that it is no `what`, and which is the nearest."""
    for word in words:
        if word == given:
            return word
    near = difflib.get_close_matches(given.lower(), words, 1)
    takes = f"It takes {', '.join(words)}."
    raise UsageError(f"`{given}` is no {what}.", hint=f"Did you mean `{near[0]}`? {takes}" if near else takes)


def offering(words: Sequence[str]) -> Callable[[str], list[str]]:
    """Return what completes one of `words` on TAB."""
    return lambda incomplete: [word for word in words if word.startswith(incomplete)]


def whole_id(client: Client, given: str) -> str:
    """Return the id of the one job that begins so. UsageError if that is too short, or fits several; NotFoundError."""
    given = given.strip().lower()
    if len(given) >= ID_LENGTH or not re.fullmatch("[0-9a-f-]+", given):
        return given  # whether there is such a job is the daemon's to say
    if len(given) < PREFIX_LEAST:
        raise UsageError(
            f"{given} is too short for a job's id.", hint=f"Give at least {PREFIX_LEAST} characters of it."
        )
    found = client.jobs_page(prefix=given, limit=NAMED_MOST + 1).jobs
    if not found:
        raise NotFoundError(
            f"There is no job {given}.", hint="`comfytunnel jobs list` shows those that are kept."
        )
    if len(found) > 1:
        names = [job.id for job in found[:NAMED_MOST]] + ["..."] * (len(found) > NAMED_MOST)
        raise UsageError(f"{given} fits several jobs: {', '.join(names)}.", hint="Give more of the id.")
    return found[0].id


def beginning(given: str) -> str:
    """Return how a job's id begins, as the daemon takes it. UsageError for what none begins with, or too little."""
    given = given.strip().lower()
    if not re.fullmatch(f"[0-9a-f-]{{{PREFIX_LEAST},{ID_LENGTH}}}", given):
        raise UsageError(
            f"`{given}` is not how a job's id begins.", hint=f"Give at least {PREFIX_LEAST} characters of it."
        )
    return given


def moment(given: str, now: datetime) -> datetime:
    """Return the time that `given` means: "30min", "2 h", "1d" before `now`, a date or a time of the local clock. UsageError."""
    given = given.strip()
    if found := re.fullmatch(r"(\d{1,6}) ?(s|min|m|h|d)", given):
        return now - timedelta(seconds=int(found[1]) * UNITS[found[2]])
    try:
        return datetime.fromisoformat(given).astimezone()
    except (ValueError, OverflowError):
        raise UsageError(
            f"`{given}` is no time.",
            hint="Say how long ago (30min, 2h, 1d), or when: 2026-01-31, 2026-01-31T18:00.",
        ) from None
