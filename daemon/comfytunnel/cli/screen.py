"""The screen of `status`: what a person reads in a second, on a terminal of any width. Pure: values, the time and the width in, text out.

Of each tunnel its state, why, what happens next, ComfyUI and the road; then the jobs, the last outages, the web page. Each reason stands there once. All
that came over the wire is made safe first (render.safe).
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from comfytunnel import wire
from comfytunnel.cli import render

LEAST_WIDTH = 24  # cells; on anything narrower lines are longer than the terminal
COLUMN = 11  # cells before a text
RUNNING_SHOWN = 4  # running jobs with their progress; there is one for each tunnel
OUTAGES_SHOWN = 3

_TONES = {"good": "32", "warn": "33", "bad": "31", "dim": "2", "head": "1"}  # SGR parameters
_PHASE_TONES = {"up": "good", "down": "dim", "halted": "bad", "waiting": "bad", "offline": "bad"}
_MARKS = {"good": "●", "warn": "◐", "bad": "✖", "dim": "○"}


@dataclass(frozen=True, slots=True)
class Seen:
    """What the daemon has said: `running` jobs, and outages that are over, the newest first."""

    status: wire.Status
    running: Sequence[wire.Job] = ()
    outages: Sequence[wire.Outage] = ()


@dataclass(frozen=True, slots=True)
class Look:
    """How it is laid out. `width`: cells, None: not a terminal, so each text stays on its line; `colour`: whether there is any."""

    width: int | None = None
    colour: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A text behind its label. `tone`: good, warn, bad, dim, head, or ""."""

    label: str
    text: str
    tone: str = ""


def screen(seen: Seen, now: datetime, look: Look = Look()) -> str:
    """Return the screen, without a newline at its end."""
    status = render.safe(seen.status)
    since = render.span(status.started_at, now)
    rows = [Row("", f"comfytunnel {status.version}, pid {status.pid}, running for {since}", "head")]
    if status.cause is not None:
        rows += [Row("", ""), Row("", status.cause.message, "bad"), *_hint(status.cause.hint)]
    if not status.tunnels and status.cause is None:
        rows += [Row("", ""), Row("", "No tunnel is configured. Run: comfytunnel setup 'ssh -p ...'", "warn")]
    for name, tunnel in status.tunnels.items():
        rows += [Row("", ""), *_tunnel(name, tunnel, now, marked=look.width is not None)]
    rows += [Row("", ""), *_jobs(status, [render.safe(job) for job in seen.running], now)]
    rows += _outages(seen.outages, now)
    rows += _page(status.web)
    return "\n".join(line for row in rows for line in _lines(row, look))


def _tunnel(name: str, tunnel: wire.Tunnel, now: datetime, *, marked: bool) -> list[Row]:
    tone = _PHASE_TONES.get(tunnel.phase, "warn")
    if tunnel.phase == "up" and tunnel.comfyui.state != "serving":
        tone = "warn"  # there is a way, and nobody at its end
    mark = f"{_MARKS[tone]} " if marked else ""
    state = f"{render.PHASES.get(tunnel.phase, tunnel.phase)}, for {render.span(tunnel.since, now)}"
    rows = [Row(f"{mark}{name}", state, tone)]
    if tunnel.cause is not None and tunnel.phase != "down":
        rows += [Row("  why", tunnel.cause.message), *_hint(tunnel.cause.hint)]
    if tunnel.next is not None:
        rows.append(Row("  next", render.next_text(tunnel.next, now)))
    comfyui = tunnel.comfyui
    since = f", for {render.span(comfyui.since, now)}" if comfyui.since and comfyui.state != "unknown" else ""
    rows.append(Row("  ComfyUI", f"{render.comfyui_text(comfyui)}{since}"))
    rows.append(Row("  road", render.road_text(tunnel), "dim"))
    return rows


def _jobs(status: wire.Status, running: Sequence[wire.Job], now: datetime) -> list[Row]:
    rows = [Row("jobs", render.counts_text(status.jobs))]
    going = [job for job in running if job.progress is not None and render.waits_of(job) is None]
    for job in going[:RUNNING_SHOWN]:
        assert job.progress is not None
        rows.append(Row("  runs", f"{_called(job)}  {render.progress_text(job.progress)}"))
    told = {tunnel.cause.message for tunnel in status.tunnels.values() if tunnel.cause is not None}
    rows += _stuck(running, told)
    if status.queue is not None and status.queue.state != "open":
        rows.append(Row("queue", render.queue_text(status.queue, now), "warn"))
    return rows


def _called(job: wire.Job) -> str:
    label = job.comfytunnel.label if job.comfytunnel else None
    return f"{job.id[:8]} {label}" if label else job.id[:8]


def _stuck(running: Sequence[wire.Job], told: set[str]) -> list[Row]:
    """What running jobs wait for, each reason once, and none that a tunnel has told."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for job in running:
        waits = render.waits_of(job)
        if waits is not None and waits.message not in told:
            reasons.setdefault((waits.message, waits.hint), []).append(job.id)
    rows = []
    for (message, hint), ids in reasons.items():
        who = ids[0] if len(ids) == 1 else f"{len(ids)} jobs"
        rows += [Row("  waits", f"{who}: {message}", "warn"), *_hint(hint)]
    return rows


def _outages(outages: Sequence[wire.Outage], now: datetime) -> list[Row]:
    over = [outage for outage in outages if outage.ended is not None][:OUTAGES_SHOWN]
    return [
        Row(
            "outages" if not number else "",
            f"{render.span(outage.began, now)} ago  {render.outage_line(outage)}",
        )
        for number, outage in enumerate(over)
    ]


def _page(web: wire.Web | None) -> list[Row]:
    if web is None:
        return []
    ports = {listen.rpartition(":")[2] for listen in web.listen}
    where = f"http://localhost:{ports.pop()}/" if len(ports) == 1 else ", ".join(web.listen)
    rows = [Row("page", where or "not there yet")]
    if web.cause is not None:
        rows += [Row("  why", web.cause.message, "warn"), *_hint(web.cause.hint)]
    return rows


def _hint(hint: str) -> list[Row]:
    return [Row("  ", hint, "warn")] if hint else []


def _lines(row: Row, look: Look) -> list[str]:
    """The lines of a row: behind its label, and below that where it is too long for one."""
    if not row.text and not row.label:
        return [""]
    head = f"{row.label:<{COLUMN - 1}} " if row.label else ""
    if look.width is None:
        parts = [row.text]
    else:
        room = max(look.width, LEAST_WIDTH) - max(len(head), 2 if row.label else 0)
        parts = textwrap.wrap(row.text, max(room, 12), break_on_hyphens=False) or [""]
    below = " " * len(head)
    coloured = [_coloured(part, row.tone if look.colour else "") for part in parts]
    if row.tone in _MARKS and head[:1] in _MARKS.values() and look.colour:
        head = f"{_coloured(head[:1], row.tone)}{head[1:]}"
    return [f"{below if number else head}{part}" for number, part in enumerate(coloured)]


def _coloured(text: str, tone: str) -> str:
    return f"\x1b[{_TONES[tone]}m{text}\x1b[0m" if tone else text
