"""GET /v1/metrics as Prometheus reads it: parsed by its own library."""

from __future__ import annotations

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from comfytunnel import wire
from comfytunnel.api import metrics
from comfytunnel.api.tunnels import snapshot
from comfytunnel.words import ComfyState, Phase
from tests.api.conftest import Api, a_tunnel

COUNTERS = wire.Counters(
    links=7, callers=6, open=5, channels=4, held=3, lost=2, refused=1, bytes_in=10**12 + 1, bytes_out=20,
    reconnects={"connection_lost": 2, "sleep": 3}, down_seconds=1.25,
)  # fmt: skip


def samples(text: str) -> dict[tuple[str, tuple[str, ...]], float]:
    """Each sample by its name and the values of its labels. A sample that is there twice is an error."""
    found: dict[tuple[str, tuple[str, ...]], float] = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation, family.name
        assert family.type in ("gauge", "counter"), family.name
        for sample in family.samples:
            assert (family.type == "counter") is sample.name.endswith("_total"), sample.name
            key = (sample.name.removeprefix("comfytunnel_"), tuple(sample.labels.values()))
            assert key not in found
            found[key] = sample.value
    return found


async def test_every_number_of_a_tunnel_is_there_in_base_units(api: Api) -> None:
    api.tunnels.set("default", counters=COUNTERS, rtt_ms=12.5)
    async with api.http.get("http://localhost/v1/metrics") as response:
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        text = await response.text()
    assert all(line.startswith(("# ", "comfytunnel_")) for line in text.splitlines())
    found = samples(text)
    of_default = {name: value for (name, labels), value in found.items() if labels == ("default",)}
    assert of_default == {
        "comfyui_queue": 0,
        "rtt_seconds": 0.0125,
        "links_total": 7,
        "down_seconds_total": 1.25,
        "callers_total": 6,
        "callers_lost_total": 2,
        "callers_refused_total": 1,
        "open_callers": 5,
        "held_callers": 3,
        "channels": 4,
        "received_bytes_total": 10**12 + 1,
        "sent_bytes_total": 20,
    }
    assert found["reconnects_total", ("default", "connection_lost")] == 2
    assert found["reconnects_total", ("default", "sleep")] == 3


async def test_a_tunnel_is_in_one_phase_and_comfyui_in_one_state(api: Api) -> None:
    api.tunnels.set("default", phase="doubtful", comfyui=wire.ComfyUI("starting"))
    found = samples(metrics.text(await snapshot(api.context)))
    phases = {labels[1]: value for (name, labels), value in found.items() if name == "phase"}
    states = {labels[1]: value for (name, labels), value in found.items() if name == "comfyui_state"}
    assert phases == {phase: float(phase == "doubtful") for phase in Phase}
    assert states == {state: float(state == "starting") for state in ComfyState}


async def test_jobs_are_counted_by_status_and_the_absent_ones_are_zero(api: Api) -> None:
    await api.submit()
    await api.scheduler.cancel(await api.submit())
    found = samples(metrics.text(await snapshot(api.context)))
    jobs = {labels[0]: value for (name, labels), value in found.items() if name == "jobs"}
    assert jobs == {name: float(name in ("queued", "canceled")) for name in wire.JobCounts.__struct_fields__}


async def test_what_is_not_known_is_left_out_and_no_label_can_break_out(api: Api) -> None:
    evil = 'a"b\\c\nd'
    status = msgspec.structs.replace(
        await snapshot(api.context), tunnels={evil: a_tunnel(rtt_ms=None, comfyui=wire.ComfyUI("down"))}
    )
    found = samples(metrics.text(status))
    assert ("links_total", (evil,)) in found
    assert not {"rtt_seconds", "comfyui_queue"} & {name for name, _ in found}
