"""How the daemon logs: one line for one thing, to stderr, in the dress that its reader wants.

Colours for a person at a terminal; `<N>` in front and no time stamp for the journal, which adds its own; JSON when asked for. What
libraries log comes out the same way, from warning up. Nothing here decides what is worth a line.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from comfytunnel.printable import printable

Format = Literal["auto", "console", "journal", "json"]

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
PRIORITIES = {
    "critical": 2,
    "error": 3,
    "warning": 4,
    "info": 6,
    "debug": 7,
}  # syslog(3), as sd-daemon(3) prefixes them
AGAIN = 600.0  # seconds for which an equal fault of our own disk is worth no second warning
FAULTS_KEPT = 64  # different ones that are remembered
QUIET = ("asyncssh", "aiohttp", "asyncio")


def setup(
    level: str = "info",
    style: Format = "auto",
    *,
    stream: TextIO | None = None,
    environ: Mapping[str, str] = os.environ,
) -> None:
    """Set up structlog and the standard library's logging; calling it again replaces the former set-up.

    `level`: debug, info, warning, error. `style` auto: journal under a service manager, colours on a terminal, else plain lines.
    """
    out = stream or sys.stderr
    chosen = _for_reader(out, environ) if style == "auto" else style
    before: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        _safe,
    ]
    ours: list[Processor] = [_Repeats(drop=level != "debug")]
    if chosen != "journal":
        before.append(structlog.processors.TimeStamper(fmt=_stamp(chosen, out), utc=chosen == "json"))
    structlog.configure(
        processors=[*before, *ours, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(chosen, out)],
            foreign_pre_chain=before,
        )
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(LEVELS[level])
    for name in QUIET:
        logging.getLogger(name).setLevel(max(LEVELS[level], logging.WARNING))


def _for_reader(out: TextIO, environ: Mapping[str, str]) -> Format:
    """Return journal only if `out` itself is the journal's socket: the variable is inherited by whatever the unit starts."""
    named = environ.get("JOURNAL_STREAM", "")
    try:
        found = os.fstat(out.fileno())
    except (OSError, ValueError):  # no file behind it
        return "console"
    return "journal" if named == f"{found.st_dev}:{found.st_ino}" else "console"


def _stamp(style: Format, out: TextIO) -> str:
    """A person who looks on needs the hour; a file is read days later, and by `logs --since` (service/logfile.py)."""
    if style == "json":
        return "iso"
    return "%H:%M:%S" if out.isatty() else "%Y-%m-%d %H:%M:%S"


def _renderers(style: Format, out: TextIO) -> list[Processor]:
    trace: list[Processor] = [
        structlog.processors.format_exc_info,
        _safe,
    ]  # an error's text is the far side's, too
    if style == "json":
        return [*trace, structlog.processors.JSONRenderer()]
    if style == "journal":
        return [*trace, _journal_line]
    colours = out.isatty() and "NO_COLOR" not in os.environ
    return [
        *trace,
        structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=structlog.dev.plain_traceback),
    ]


class _Repeats:
    """A full disk fails whoever tries, every few seconds: the first says it at warning, those after it at debug, and one in ten minutes
    again. Only what our own files do is treated so (event "state"): a link that is lost again is news each time."""

    def __init__(self, *, drop: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._drop = drop
        self._clock = clock
        self._told: dict[str, float] = {}  # by its reason, oldest first

    def __call__(self, _logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
        if event.get("event") != "state" or event.get("level") != "warning":
            return event
        why, now = str(event.get("why")), self._clock()
        if now - self._told.get(why, -AGAIN) < AGAIN:
            if self._drop:
                raise structlog.DropEvent
            return {**event, "level": "debug"}
        self._told.pop(why, None)
        self._told[why] = now
        if len(self._told) > FAULTS_KEPT:
            del self._told[next(iter(self._told))]
        return event


def _safe(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Without what has no value: a reader learns nothing from it."""
    return {
        key: printable(value, lines=True) if isinstance(value, str) else value
        for key, value in event.items()
        if value is not None
    }


def _journal_line(_logger: WrappedLogger, _name: str, event: EventDict) -> str:
    """Return the record with its priority before each of its lines: the journal makes a record of every line."""
    prefix = f"<{PRIORITIES.get(str(event.pop('level', 'info')), 6)}>"
    text = str(event.pop("event", ""))
    trace = event.pop("exception", None)
    words = [text, *(f"{key}={_value(value)}" for key, value in event.items())]
    lines = [" ".join(words).replace("\n", " "), *(str(trace).splitlines() if trace else [])]
    return "\n".join(prefix + line for line in lines)


def _value(value: Any) -> str:
    text = str(value)
    return repr(text) if not text or any(char.isspace() or char in "\"'=" for char in text) else text
