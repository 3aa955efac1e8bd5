"""What is announced of a tunnel: its records put into the words of the API and of a waiting job. Pure; nothing is decided here."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec

from comfytunnel import wire
from comfytunnel.comfy.health import Report
from comfytunnel.jobs.model import Waits
from comfytunnel.tunnel.bound import Doorway
from comfytunnel.tunnel.door import Door
from comfytunnel.tunnel.machine import ALIVE, PAUSED
from comfytunnel.tunnel.outages import Ledger
from comfytunnel.tunnel.state import Cause, Code, Phase, Tunnel
from comfytunnel.words import Action, ComfyState

COMFYUI = {
    ComfyState.UNKNOWN: "The tunnel is up; ComfyUI has not been asked yet.",
    ComfyState.STARTING: "The tunnel is up; ComfyUI is still starting. A new instance provisions for minutes.",
    ComfyState.DOWN: "The tunnel is up, but ComfyUI does not answer.",
    ComfyState.WRONG_PORT: "What answers on the remote port is not ComfyUI.",
    ComfyState.ERROR: "ComfyUI answers with errors.",
    ComfyState.SERVING: "ComfyUI serves.",
}


def cause(record: Tunnel, doorway: Doorway) -> Cause | None:
    """The link's cause while it is in trouble, else the door's."""
    if record.phase is Phase.DOWN:
        return None
    link = None if record.phase is Phase.UP else record.cause
    return link or doorway.cause


def waits(record: Tunnel, doorway: Doorway, report: Report) -> Waits:
    """What a job waits for while ComfyUI does not serve through this tunnel."""
    why = cause(record, doorway) or (Cause(Code.DOWN_ON_PURPOSE) if record.phase is Phase.DOWN else None)
    if why is not None:
        return Waits(why.code.value, why.message, why.hint)
    if record.phase not in ALIVE:
        return Waits("connecting", "The tunnel is connecting.")
    return Waits(f"comfyui_{report.state.value}", COMFYUI[report.state], report.detail or "")


def tunnel(
    record: Tunnel,
    door: Door,
    report: Report,
    ledger: Ledger,
    *,
    since: datetime,
    remote: str,
    ssh: wire.Ssh,
    now: float,
) -> wire.Tunnel:
    """The whole of it, for GET /v1/status. `now`: seconds of the clock of the record and the ledger."""
    why, tally = cause(record, door.state.value), door.tally
    return wire.Tunnel(
        phase=record.phase.value,
        since=since,
        cause=None if why is None else wire.Cause(why.code.value, why.message, why.hint),
        next=_next(record, why, now),
        comfyui=wire.ComfyUI(report.state.value, report.version, report.queue, report.since, report.detail),
        rtt_ms=None if record.rtt is None else round(record.rtt * 1000, 1),
        listen=list(door.state.value.listening),
        remote=remote,
        ssh=ssh,
        counters=wire.Counters(
            links=record.link,
            callers=tally.callers,
            open=door.open_callers,
            channels=door.open_channels,
            held=door.held_callers,
            lost=tally.lost,
            refused=tally.refused,
            bytes_in=tally.bytes_in,
            bytes_out=tally.bytes_out,
            reconnects=dict(ledger.reconnects),
            down_seconds=round(ledger.down_seconds(now), 3),
        ),
    )


def together(earlier: wire.Counters, present: wire.Counters) -> wire.Counters:
    """The counters of a tunnel that was built anew: what is counted goes on, what is now (`open`, `channels`, `held`) is of the present one."""
    codes = {*earlier.reconnects, *present.reconnects}
    return msgspec.structs.replace(
        present,
        **{name: getattr(earlier, name) + getattr(present, name) for name in _COUNTED},
        reconnects={
            code: earlier.reconnects.get(code, 0) + present.reconnects.get(code, 0) for code in codes
        },
        down_seconds=round(earlier.down_seconds + present.down_seconds, 3),
    )


_COUNTED = ("links", "callers", "lost", "refused", "bytes_in", "bytes_out")


def _next(record: Tunnel, why: Cause | None, now: float) -> wire.Next | None:
    if record.phase in PAUSED and record.until is not None:
        return wire.Next(Action.CONNECT, datetime.now(UTC) + timedelta(seconds=record.until - now))
    if record.phase is Phase.CONNECTING:
        return wire.Next(Action.CONNECT)
    if record.phase is Phase.DOUBTFUL:
        return wire.Next(Action.ASK)
    return wire.Next(Action.BIND) if why is not None and why.code is Code.PORT_IN_USE else None
