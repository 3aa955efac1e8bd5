"""Outages of a real daemon: real cuts, what is recorded of them, and what a crash or a bad disk does to the record."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from comfytunnel import wire
from comfytunnel.client import Client
from tests.app.world import DEADLINE, World, workflow
from tests.watch.logind import FakeLogind, bus_at

LARGE = 300_000  # bytes that nobody else sends here


def file_of(world: World) -> Path:
    return world.base / "state" / "outages.jsonl"


async def written(world: World, count: int = 1) -> list[Any]:
    """The lines of the file, once there are so many."""

    def look() -> list[bytes]:
        return file_of(world).read_bytes().splitlines(keepends=True) if file_of(world).exists() else []

    found = await world.until(look, lambda lines: len(lines) == count and lines[-1].endswith(b"\n"))
    return [json.loads(line) for line in found]


async def ended(world: World, count: int = 1) -> list[wire.Outage]:
    """The outages, newest first, once so many have ended and none goes on."""
    return await world.until(
        world.client.outages, lambda found: len(found) == count and all(one.ended for one in found)
    )


async def cut_and_back(world: World, count: int) -> wire.Outage:
    """Reset the link; the outage that it was, the `count`th."""
    world.remote.cut()
    return (await ended(world, count))[0]


async def stuck_caller(world: World) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A caller with a request under way that will not be answered, and may not be sent twice."""
    world.comfyui.faults.slow_answers = 60.0
    before = (await world.ask(lambda: world.client.tunnel("default"))).counters.bytes_out
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    writer.write(b"POST /queue HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % LARGE)
    writer.write(bytes(LARGE))
    await world.until(
        lambda: world.client.tunnel("default"), lambda found: found.counters.bytes_out >= before + LARGE
    )
    return reader, writer


async def test_a_reset_is_recorded_with_its_cause_times_and_callers(world: World) -> None:
    world.write_config(hold=20)
    await world.start()
    reader, writer = await stuck_caller(world)
    world.remote.refuse_connections = True
    world.remote.cut()
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    world.comfyui.faults.slow_answers = 0.0
    held = asyncio.create_task(world.fetch())
    tunnel = await world.until(lambda: world.client.tunnel("default"), lambda found: found.counters.held > 0)
    assert tunnel.counters.down_seconds > 0
    [going_on] = await world.until(
        world.client.outages, lambda found: [one.last_failure is not None for one in found] == [True]
    )
    assert (going_on.ended, going_on.recover_seconds) == (None, None)
    world.remote.refuse_connections = False
    assert (await held)[0] == 200
    [outage] = await ended(world)
    assert (outage.tunnel, outage.cause.code, outage.detected_by) == ("default", "connection_lost", "closed")
    assert outage.detect_seconds < 0.5
    assert outage.recover_seconds is not None
    assert outage.recover_seconds > 0
    assert outage.seconds == pytest.approx(outage.detect_seconds + outage.recover_seconds, abs=0.01)
    assert outage.held >= 1
    assert outage.lost >= 1
    assert outage.attempts >= 2
    assert outage.last_failure is not None
    assert outage.began == going_on.began
    [line] = await written(world)
    assert line["cause"]["code"] == "connection_lost"
    assert file_of(world).stat().st_mode & 0o777 == 0o600


async def test_a_silent_death_is_known_by_a_question_after_the_silence(world: World) -> None:
    world.write_config(keepalive_interval=1)
    await world.start()
    world.remote.freeze()
    [outage] = await ended(world)
    assert (outage.detected_by, outage.cause.code) == ("question", "connection_lost")
    assert 1.5 < outage.detect_seconds < 6.0


async def test_a_sleep_is_recorded_as_one(world: World) -> None:
    async with bus_at(world.base / "bus") as address, FakeLogind(address) as logind:
        await world.start(DBUS_SYSTEM_BUS_ADDRESS=address)
        async with asyncio.timeout(DEADLINE):
            await logind.asked.get()
            await logind.prepare_for_sleep(True)
        await world.until(lambda: logind.held[0], lambda held: not held)
        await logind.prepare_for_sleep(False)
        [outage] = await ended(world)
    assert (outage.detected_by, outage.cause.code, outage.detect_seconds) == ("sleep", "sleep", 0.0)


async def test_a_start_without_a_way_is_an_outage_and_what_the_user_asks_for_is_none(world: World) -> None:
    await world.remote.unbind()
    await world.start(serving=False)
    await world.until(lambda: world.client.tunnel("default"), lambda found: found.phase == "waiting")
    await world.remote.rebind()
    await world.ask(lambda: world.client.reconnect("default"))
    [outage] = await ended(world)
    assert (outage.detected_by, outage.cause.code) == ("try", "connect_refused")
    links = (await world.ask(lambda: world.client.tunnel("default"))).counters.links
    await world.ask(lambda: world.client.reconnect("default"))
    await world.until(
        lambda: world.client.tunnel("default"),
        lambda found: found.phase == "up" and found.counters.links > links,
    )
    await world.ask(lambda: world.client.down("default"))
    await world.ask(lambda: world.client.up("default"))
    await world.ask(lambda: world.client.wait(timeout=DEADLINE))
    assert len(await world.ask(world.client.outages)) == 1


async def test_the_record_survives_a_kill_and_half_a_line(world: World) -> None:
    await world.start()
    first = await cut_and_back(world, 1)
    await written(world)
    await world.kill()
    with file_of(world).open("ab") as file:
        file.write(b'{"tunnel":"default","beg')
    await world.start()
    assert await ended(world) == [first]
    second = await cut_and_back(world, 2)
    await world.stop()
    await world.start()
    assert await ended(world, 2) == [second, first]
    assert "1 lines of" in world.log.read_text()


async def test_an_outage_that_goes_on_at_the_stop_is_recorded_as_not_recovered(world: World) -> None:
    await world.start()
    await world.remote.unbind()
    world.remote.cut()
    await world.until(
        world.client.outages, lambda found: len(found) == 1 and found[0].last_failure is not None
    )
    await world.stop()
    line = json.loads(file_of(world).read_text())
    assert line["recover_seconds"] is None
    assert line["ended"]
    assert line["last_failure"]["code"] == "connect_refused"


@pytest.mark.parametrize("trouble", ["full", "folder"])
async def test_a_record_that_cannot_be_written_stops_nothing_and_is_said_once(
    world: World, trouble: str
) -> None:
    file_of(world).parent.mkdir(mode=0o700)
    if trouble == "full":
        file_of(world).symlink_to("/dev/full")
    else:
        file_of(world).mkdir()
    await world.start()
    await cut_and_back(world, 1)
    await world.until(world.log.read_text, lambda text: "cannot be written" in text)
    await cut_and_back(world, 2)
    assert world.log.read_text().count("cannot be written") == 1
    file_of(world).unlink() if trouble == "full" else file_of(world).rmdir()
    await cut_and_back(world, 3)
    await written(world, 3)


async def test_metrics_and_events_tell_of_the_outage(world: World) -> None:
    await world.start()
    told: list[wire.Outage] = []

    def listen() -> None:
        for event in Client(world.client.socket_path).events(timeout=DEADLINE):
            if isinstance(event, wire.Status):
                loop.call_soon_threadsafe(listening.set)
            if isinstance(event, wire.Outage):
                told.append(event)
                return

    loop, listening = asyncio.get_running_loop(), asyncio.Event()
    stream = asyncio.create_task(asyncio.to_thread(listen))
    await asyncio.wait_for(listening.wait(), DEADLINE)
    outage = await cut_and_back(world, 1)
    await asyncio.wait_for(stream, DEADLINE)
    assert told == [outage]
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n")
    assert b" 403 " in await reader.readline()
    writer.close()
    families = text_string_to_metric_families(await world.ask(world.client.metrics))
    found = {sample.name: sample for family in families for sample in family.samples}
    assert found["comfytunnel_reconnects_total"].labels == {"tunnel": "default", "cause": "connection_lost"}
    assert found["comfytunnel_reconnects_total"].value == 1
    assert found["comfytunnel_down_seconds_total"].value == pytest.approx(outage.seconds, abs=0.01)
    assert found["comfytunnel_rtt_seconds"].value > 0
    assert found["comfytunnel_callers_refused_total"].value == 1
    assert (await world.run("status", "--history"))[1].count("The connection was lost") == 1


async def test_comfyuis_state_is_an_event_of_its_own_while_the_tunnel_is_up(world: World) -> None:
    """Starting while nothing listens there, serving when it does, then what a login page in its place makes of it."""
    await world.comfyui.stop()
    seen: list[tuple[str, str]] = []

    def follow() -> None:
        seen.extend(
            (event.tunnel.phase, event.tunnel.comfyui.state)
            for event in Client(world.client.socket_path).events(timeout=25)
            if isinstance(event, wire.TunnelEvent)
        )

    await world.start(serving=False)
    following = asyncio.create_task(asyncio.to_thread(follow))
    await world.submit(workflow())  # somebody waits, so it is asked every 2 s
    await world.until(lambda: seen, lambda found: ("up", "starting") in found)
    await world.comfyui.start(port=world.remote.targets["localhost", 18188])
    await world.until(lambda: seen, lambda found: ("up", "serving") in found)
    world.comfyui.faults.html_login = "html"
    await world.submit(workflow(2))
    await world.until(lambda: seen, lambda found: ("up", "wrong_port") in found)
    assert len({phase for phase, state in seen if state != "unknown"}) == 1, (
        "the link has nothing to do with it"
    )
    await world.stop()
    await following
