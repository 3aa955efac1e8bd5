"""A real service manager keeps the forwarded ports: over a restart, over a kill -9, and not a moment longer."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest

from tests.app.stream import Stream, to_path, to_port
from tests.app.world import World
from tests.fakes.sshd import free_port
from tests.system.conftest import Unit

BOTH_LOOPBACKS = "2"  # descriptors in the store for `listen = "localhost:PORT"`


@pytest.fixture(params=["tcp", "unix"])
def stream(request: pytest.FixtureRequest, world: World) -> Stream:
    if request.param == "tcp":
        return Stream(to_port(world.port))
    path = world.base / "door"
    world.write_config(listen=f"unix:{path}")
    return Stream(to_path(path))


async def start(unit: Unit) -> None:
    await unit.do("start")
    await unit.world.answers()


async def test_a_restart_loses_no_call(unit: Unit, stream: Stream) -> None:
    await start(unit)
    async with stream:
        for _ in range(2):
            before = await unit.property("MainPID")
            await stream.serves(5)
            await unit.do("restart")
            await stream.serves(5)
            assert await unit.property("MainPID") != before
    assert set(stream.count()) == {"served"}


async def test_a_kill_9_refuses_nobody(unit: Unit, world: World, stream: Stream) -> None:
    """The calls in flight die with the daemon, and only they."""
    await start(unit)
    async with stream:
        for times in range(1, 3):
            await stream.serves(5)
            os.kill(int(await unit.property("MainPID")), signal.SIGKILL)
            dead = stream.began
            await unit.has("NRestarts", str(times))
            await stream.serves(5)
            assert set(stream.count(dead)) <= {"served", "open"}
    assert stream.count()["refused"] == 0


async def test_a_stop_frees_the_port(unit: Unit, world: World) -> None:
    await start(unit)
    await unit.has("NFileDescriptorStore", BOTH_LOOPBACKS)
    await unit.do("stop")
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.create_server((host, world.port), family=family):
            pass


async def test_a_port_that_the_config_gives_up_leaves_the_store(unit: Unit, world: World) -> None:
    await start(unit)
    await unit.has("NFileDescriptorStore", BOTH_LOOPBACKS)
    world.write_config(listen=f"127.0.0.1:{free_port()}")
    await world.ask(world.client.reload)
    await unit.has("NFileDescriptorStore", "1")
    with socket.create_server(("127.0.0.1", world.port)):
        pass


async def test_a_stale_file_of_a_stopped_unit_is_in_nobodys_way(unit: Unit, world: World) -> None:
    path: Path = world.base / "door"
    world.write_config(listen=f"unix:{path}")
    for _ in range(2):
        await start(unit)
        async with Stream(to_path(path)) as stream:
            await stream.serves(1)
        await unit.do("stop")
