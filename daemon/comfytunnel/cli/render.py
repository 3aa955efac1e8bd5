"""From what the daemon says to what a person reads. Pure: values in, text out; the time is handed in.

Everything that came over the wire is made safe first (`safe`), here and nowhere else: node names, banners and tracebacks come from a
machine that nobody trusts. JSON for programs is exact, with what a terminal could obey written as \\u escapes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from comfytunnel import wire
from comfytunnel.decoding import convert
from comfytunnel.printable import printable

T = TypeVar("T")

PHASES = {
    "up": "up",
    "down": "down, as you asked",
    "offline": "no way to the network",
    "connecting": "connecting",
    "doubtful": "up? asking whether the link still lives",
    "waiting": "waiting before the next try",
    "halted": "halted: it needs you",
}
COMFYUI = {
    "serving": "serving",
    "starting": "starting, does not listen yet",
    "down": "down",
    "wrong_port": "not on this port",
    "error": "answers with errors",
    "unknown": "not asked yet",
}
NEXT = {
    "connect": ("connects", "now"),
    "ask": ("asks whether the link lives", "now"),
    "bind": ("takes the port", "as soon as it is free"),
}
NOTICED = {
    "closed": "closed or reset, noticed after {}",
    "question": "silent, noticed by asking after {}",
    "wake": "silent, noticed by asking when the machine woke after {}",
    "route": "silent, noticed by asking when the network changed after {}",
    "address_gone": "its local address vanished, noticed after {}",
    "sleep": "closed before the sleep",
    "try": "could not connect, noticed after {}",
}
VALUE_SHOWN = 200  # characters of what a job was asked for
TIMES_SHOWN = 20  # nodes whose times `jobs show` prints
_LINES = frozenset({"traceback", "banner"})  # fields in which a line break means something
_OBEYED = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def safe(value: T) -> T:
    """Return the wire struct with every string in it made printable."""
    clean = _clean(msgspec.to_builtins(value, builtin_types=(datetime,)), "")
    return convert(clean, type(value))


def _clean(value: Any, key: str) -> Any:
    if isinstance(value, str):
        return printable(value, lines=key in _LINES)
    if isinstance(value, dict):
        return {printable(str(name)): _clean(item, str(name)) for name, item in value.items()}
    if isinstance(value, list):
        return [_clean(item, key) for item in value]
    return value


def json_text(value: Any, *, indent: int = 0) -> str:
    """Return `value` as JSON, on one line unless `indent` is given."""
    data = msgspec.json.encode(value)
    text = (msgspec.json.format(data, indent=indent) if indent else data).decode()
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def queue_text(queue: wire.Queue, now: datetime) -> str:
    """Return the queue in one line; one that does not go on by itself says how."""
    there = f"{queue.waiting} waiting, {queue.on_server} on the server"
    if queue.state == "open":
        return f"open: {there}"
    since = span(queue.since, now)
    return f"{printable(queue.state)} for {since}: {there}; go on: comfytunnel queue resume"


def waits_of(job: wire.Job) -> wire.WaitsFor | None:
    return job.comfytunnel.waits_for if job.comfytunnel else None


def next_text(following: wire.Next, now: datetime) -> str:
    """Return what the daemon does next by itself, and when."""
    what, soon = NEXT.get(following.action, (following.action, "soon"))
    return f"{what} {soon if following.at is None else when(following.at, now)}"


def tunnel_line(name: str, tunnel: wire.Tunnel) -> str:
    """Return the state of a tunnel on one line."""
    tunnel = safe(tunnel)
    why = (
        f" ({tunnel.cause.message})"
        if tunnel.cause is not None and tunnel.phase not in {"up", "down"}
        else ""
    )
    comfyui = f"; ComfyUI {comfyui_text(tunnel.comfyui)}" if tunnel.phase == "up" else ""
    return f"{printable(name)}: {PHASES.get(tunnel.phase, tunnel.phase)}{why}{comfyui}"


def comfyui_text(comfyui: wire.ComfyUI) -> str:
    words = COMFYUI.get(comfyui.state, comfyui.state)
    version = f" {comfyui.version}" if comfyui.version else ""
    queue = f", {comfyui.queue} in its queue" if comfyui.queue else ""
    detail = f": {comfyui.detail}" if comfyui.detail and comfyui.state != "serving" else ""
    return f"{words}{version}{queue}{detail}"


def road_text(tunnel: wire.Tunnel) -> str:
    user = f"{tunnel.ssh.user}@" if tunnel.ssh.user else ""
    port = f":{tunnel.ssh.port}" if tunnel.ssh.port else ""
    measured = tunnel.rtt_ms is not None and tunnel.phase in {"up", "doubtful"}  # else it is an old link's
    delay = f"  ({tunnel.rtt_ms:.0f} ms)" if measured else ""
    listen = ", ".join(tunnel.listen) or "not bound"
    return f"{listen} -> {user}{tunnel.ssh.host}{port} -> {tunnel.remote}{delay}"


def counts_text(counts: wire.JobCounts) -> str:
    found = [f"{number} {name}" for name, number in msgspec.structs.asdict(counts).items() if number]
    return ", ".join(found) or "none"


def job_line(job: wire.Job, now: datetime) -> str:
    job = safe(job)
    extra = job.comfytunnel
    label = f"  {extra.label}" if extra and extra.label else ""
    return f"{job.id}  {job.status:<9}  {span(job.created_at, now):>7} ago{label}{_state_of(job)}"


def _state_of(job: wire.Job) -> str:
    if job.error is not None:
        return f"  {job.error.message}"
    if job.status == "succeeded":
        return f"  {len(job.outputs)} file{'' if len(job.outputs) == 1 else 's'}"
    if job.status == "queued":
        return f"  {queued_text(job.queue_position, waits_of(job))}"
    if job.status in wire.TERMINAL:
        return ""
    waits = waits_of(job)
    parts = [progress_text(job.progress)] if job.progress else []
    parts += [f"waits: {waits.message}"] if waits else []
    return f"  {'; '.join(parts)}" if parts else ""


def removed_text(removed: wire.Removed, *, files: bool) -> str:
    """Return what has become of a job's files, one line each where they were to be deleted."""
    removed = safe(removed)
    if not files:
        stay = (
            f"; {some(len(removed.kept), 'file')} stay{'s' * (len(removed.kept) == 1)}"
            if removed.kept
            else ""
        )
        return f"{removed.id}  forgotten{stay}"
    lines = [f"{removed.id}  forgotten"]
    lines += [f"  deleted  {path}" for path in removed.deleted]
    return "\n".join(
        lines + [f"  stays    {path} (changed, gone, or another job's)" for path in removed.kept]
    )


def job_text(job: wire.Job, now: datetime) -> str:
    """Return all there is to say of a job, over several lines."""
    job = safe(job)
    lines = [f"job        {job.id}", f"status     {job.status}{_state_of(job) if job.error is None else ''}"]
    waits = waits_of(job)
    lines += _hint(waits.hint, 11) if waits else []
    extra = job.comfytunnel
    for name, value in (
        ("workflow", extra and extra.generated and _asked(extra.generated)),
        ("label", extra and extra.label),
        ("tunnel", extra and extra.tunnel),
        ("note", extra and extra.note),
        ("webhook", extra and extra.webhook and _webhook(extra.webhook, now)),
    ):
        if value:
            lines.append(f"{name:<10} {value}")
    for name, moment in (
        ("submitted", job.created_at),
        ("started", job.started_at),
        ("ended", job.completed_at),
    ):
        if moment is not None:
            lines.append(f"{name:<10} {moment.astimezone():%Y-%m-%d %H:%M:%S} ({span(moment, now)} ago)")
    if extra is not None and extra.node_times:
        lines += time_lines(extra.node_times)
    lines += [
        f"output     {output.comfytunnel.path if output.comfytunnel else output.name}"
        for output in job.outputs
    ]
    if job.error is not None:
        lines += failure_lines(job.status, job.error)
    return "\n".join(lines)


def _asked(generated: wire.Generated) -> str:
    """Return the name of a workflow and its values, on one line."""
    values = "".join(f"  {name}={json_text(value)[:VALUE_SHOWN]}" for name, value in generated.params.items())
    changed = ", changed" if generated.changed else ""
    return f"{generated.workflow or 'one without a name'}{changed}{values}"


def time_lines(times: Sequence[wire.NodeTime]) -> list[str]:
    """Return how long the nodes took, in the order of their beginnings, of many the slowest only. `times` are safe."""
    ran = [time for time in times if not time.cached]
    least = (
        sorted((time.seconds for time in ran), reverse=True)[TIMES_SHOWN - 1]
        if len(ran) > TIMES_SHOWN
        else 0.0
    )
    shown = [time for time in ran if time.seconds >= least][:TIMES_SHOWN]
    width = max((len(_took(time.seconds)) for time in shown), default=0)
    lines = []
    for time in shown:
        name = time.title if time.title == time.class_type else f"{time.title} ({time.class_type})"
        pace = f", {time.steps} steps" if time.steps else ""
        pace += f" ({time.steps / time.seconds:.1f} a second)" if time.steps and time.seconds else ""
        heard = "" if time.whole else ", not all of it was heard"
        lines.append(f"{_took(time.seconds):>{width}}  {time.node_id:<4} {name}{pace}{heard}")
    if len(ran) > len(shown):
        lines.append(f"{some(len(ran) - len(shown), 'quicker node')} more (--json shows them)")
    if len(times) > len(ran):
        lines.append(f"{some(len(times) - len(ran), 'node')} from the cache")
    return [f"{'nodes' if not number else '':<10} {line}" for number, line in enumerate(lines)]


def _webhook(hook: wire.Webhook, now: datetime) -> str:
    """Return what has become of a webhook, on one line."""
    if hook.state == "delivered" or not hook.last_error:
        return f"{hook.target}: {hook.state}"
    again = f"; tries again {when(hook.next_at, now)}" if hook.next_at else ""
    return f"{hook.target}: {hook.state} after {some(hook.attempts, 'attempt')}, {hook.last_error}{again}"


def failure_lines(status: str, error: wire.JobError, trace_lines: int = 12) -> list[str]:
    """Return how it ended (failed, canceled, expired), in which node and why, with the last lines of its traceback."""
    error = safe(error)
    node = f" in node {error.node_id}" if error.node_id else ""
    kind = f" ({error.class_type})" if error.class_type else ""
    lines = [f"{status}{node}{kind}: {error.message}"]
    trace = (error.traceback or "").rstrip().splitlines()
    if len(trace) == 1 and trace[0] in error.message:
        trace = []  # ComfyUI's own words once more
    if len(trace) > trace_lines:
        lines.append(f"    ... {len(trace) - trace_lines} lines more (--json shows them)")
    return lines + [f"    {line}" for line in trace[-trace_lines:]]


def queued_text(position: int | None, waits: wire.WaitsFor | None) -> str:
    ahead = f"{position} ahead" if position else ""
    why = printable(waits.message) if waits and not (ahead and waits.code == "queue") else ""
    return ", ".join(part for part in (ahead, why) if part) or "next"


def progress_text(progress: wire.Progress) -> str:
    progress = safe(progress)
    node = node_text(progress)
    return f"{progress.value:.0%}, node {progress.nodes_done}/{progress.nodes_total}{f', {node}' if node else ''}"


def node_text(progress: wire.Progress) -> str:
    """Return what is being done now: the node by its title, else its class, with its step; "" when nothing is."""
    progress = safe(progress)
    if progress.message:
        return progress.message  # the daemon's own words: title and step, or which output is being fetched
    step = f" {progress.step}/{progress.steps}" if progress.step is not None and progress.steps else ""
    return f"{progress.current_node_class or progress.current_node or ''}{step}"


def event_text(event: wire.Status | wire.TunnelEvent | wire.Job | wire.Outage) -> str:
    """Return what happened, on one line."""
    if isinstance(event, wire.Status):
        tunnels = (
            "; ".join(tunnel_line(name, tunnel) for name, tunnel in event.tunnels.items()) or "no tunnels"
        )
        return f"daemon {printable(event.version)}: {tunnels}; jobs: {counts_text(event.jobs)}"
    if isinstance(event, wire.TunnelEvent):
        return tunnel_line(event.name, event.tunnel)
    if isinstance(event, wire.Outage):
        return f"outage {outage_line(event)}"
    return f"job {printable(event.id)}: {printable(event.status)}{_state_of(safe(event))}"


def history_text(outages: Sequence[wire.Outage]) -> str:
    """Return a block of two or three lines for each outage."""
    blocks = []
    for outage in map(safe, outages):
        lines = [f"{outage.began.astimezone():%Y-%m-%d %H:%M:%S}  {outage_line(outage)}"]
        how = NOTICED.get(outage.detected_by, "noticed after {}").format(_took(outage.detect_seconds))
        back = "" if outage.recover_seconds is None else f", back {_took(outage.recover_seconds)} later"
        lines.append(f"  {how}{back}; {some(outage.held, 'caller')} held, {outage.lost} lost")
        if outage.last_failure is not None and outage.last_failure != outage.cause:
            lines.append(
                f"  {some(outage.attempts, 'try', 'tries')}; the last that failed: {outage.last_failure.message}"
            )
        blocks.append("\n".join(lines))
    return "\n".join(blocks) or "No outage is on record."


def outage_line(outage: wire.Outage) -> str:
    """Return which tunnel was out, for how long, and why, on one line."""
    outage = safe(outage)
    so_far = " so far" if outage.ended is None else ""
    given_up = ", not recovered" if outage.ended is not None and outage.recover_seconds is None else ""
    return f"{outage.tunnel}: {_took(outage.seconds)}{so_far}{given_up}. {outage.cause.message}"


def _took(seconds: float) -> str:
    """Return a length of time as one reads it: "26 ms", "12.5 s", "10 min"."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def some(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def span(start: datetime, end: datetime) -> str:
    """Return a length of time in one unit: "12 s", "3 min", "5 h", "2 d"."""
    seconds = max(0, int((end - start).total_seconds()))
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def when(moment: datetime, now: datetime) -> str:
    return f"in {span(now, moment)}" if moment > now else "now"


def _hint(hint: str, indent: int) -> list[str]:
    return [f"{' ' * indent}{hint}"] if hint else []
