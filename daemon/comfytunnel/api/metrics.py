"""GET /v1/metrics: the daemon's status as numbers, in Prometheus' text format 0.0.4, written by hand.

A pure view of wire.Status. Names begin with comfytunnel_, counters end in _total, the units are seconds and bytes. The values of labels
come from closed lists and from the config, never from the far side, so that their number is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from aiohttp import web

from comfytunnel import wire
from comfytunnel.api.context import context
from comfytunnel.api.tunnels import snapshot
from comfytunnel.words import ComfyState, Phase

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = dict[str, str]
Samples = Iterable[tuple[Labels, float | None]]


async def show(request: web.Request) -> web.Response:
    body = text(await snapshot(context(request)))
    return web.Response(body=body.encode(), headers={"Content-Type": CONTENT_TYPE})


def text(status: wire.Status) -> str:
    """Return the exposition. What is not known (a round trip that was never measured) is left out."""
    return "".join(_family(name, kind, about, samples) for name, kind, about, samples in _families(status))


def _families(status: wire.Status) -> Iterable[tuple[str, str, str, Samples]]:
    def each(value: Callable[[wire.Tunnel], float | None]) -> Samples:
        return [({"tunnel": name}, value(tunnel)) for name, tunnel in status.tunnels.items()]

    def one_of(label: str, values: Iterable[str], now: Callable[[wire.Tunnel], str]) -> Samples:
        return [
            ({"tunnel": name, label: value}, float(now(tunnel) == value))
            for name, tunnel in status.tunnels.items()
            for value in values
        ]

    yield "build_info", "gauge", "The version that runs.", [({"version": status.version}, 1)]
    started = status.started_at.timestamp()
    yield "start_time_seconds", "gauge", "When the daemon started, in Unix time.", [({}, started)]
    yield (
        "phase",
        "gauge",
        "1 for the phase that the tunnel is in.",
        one_of("phase", Phase, lambda t: t.phase),
    )
    yield (
        "comfyui_state",
        "gauge",
        "1 for the state that ComfyUI is in.",
        one_of("state", ComfyState, lambda t: t.comfyui.state),
    )
    yield "comfyui_queue", "gauge", "Prompts that run and wait in ComfyUI.", each(lambda t: t.comfyui.queue)
    yield (
        "rtt_seconds",
        "gauge",
        "Newest measured round trip over SSH.",
        each(lambda t: None if t.rtt_ms is None else t.rtt_ms / 1000),
    )
    yield "links_total", "counter", "Links that were begun.", each(lambda t: t.counters.links)
    yield (
        "reconnects_total",
        "counter",
        "Links that took the place of a lost one, by what ended that one.",
        [
            ({"tunnel": name, "cause": cause}, number)
            for name, tunnel in status.tunnels.items()
            for cause, number in tunnel.counters.reconnects.items()
        ],
    )
    yield (
        "down_seconds_total",
        "counter",
        "Seconds without a link that was wanted.",
        each(lambda t: t.counters.down_seconds),
    )
    yield "callers_total", "counter", "Connections to the forwarded port.", each(lambda t: t.counters.callers)
    yield "callers_lost_total", "counter", "Callers cut off by a dead link.", each(lambda t: t.counters.lost)
    yield (
        "callers_refused_total",
        "counter",
        "Callers turned away by the guard.",
        each(lambda t: t.counters.refused),
    )
    yield "open_callers", "gauge", "Callers that are connected to the port.", each(lambda t: t.counters.open)
    yield "held_callers", "gauge", "Callers that wait for a link.", each(lambda t: t.counters.held)
    yield "channels", "gauge", "SSH channels that callers use.", each(lambda t: t.counters.channels)
    yield "received_bytes_total", "counter", "Payload to callers.", each(lambda t: t.counters.bytes_in)
    yield "sent_bytes_total", "counter", "Payload from callers.", each(lambda t: t.counters.bytes_out)
    counts = [({"status": name}, getattr(status.jobs, name)) for name in wire.JobCounts.__struct_fields__]
    yield "jobs", "gauge", "Jobs that are kept, by status.", counts


def _family(name: str, kind: str, about: str, samples: Samples) -> str:
    lines = [
        f"comfytunnel_{name}{_labels(labels)} {float(value)!r}"
        for labels, value in samples
        if value is not None
    ]
    head = [f"# HELP comfytunnel_{name} {about}", f"# TYPE comfytunnel_{name} {kind}"]
    return "\n".join([*head, *lines, ""])


def _labels(labels: Labels) -> str:
    inside = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{inside}}}" if inside else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
