"""`[web]` in the whole daemon: switched by the config, kept by the service manager, and never in the way of the rest."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.app.test_restart import keeps, names, start
from tests.app.world import DEADLINE, World
from tests.fakes.manager import Manager
from tests.fakes.sshd import free_port


def write(world: World, port: int | None, **more: str) -> None:
    lines = [] if port is None else ["[web]", f'listen = "localhost:{port}"']
    world.write_config()
    world.config.write_text(
        "\n".join(
            [world.config.read_text(), *lines, *(f'{name} = "{value}"' for name, value in more.items()), ""]
        )
    )


async def ask(port: int, path: str = "/v1/status", method: str = "GET", **headers: str) -> tuple[int, Any]:
    """Status and JSON of one call of a program."""
    fields = {"Host": f"localhost:{port}", "Connection": "close", **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode())
        answer = await asyncio.wait_for(reader.read(), DEADLINE)
    finally:
        writer.close()
    head, _, body = answer.decode().partition("\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


@pytest.fixture
async def manager(world: World) -> AsyncIterator[Manager]:
    async with Manager(world.base) as made:
        yield made


async def test_the_config_switches_it_on_moves_it_and_switches_it_off(world: World) -> None:
    first, second = free_port(), free_port()
    await world.start(serving=False)
    assert (await world.ask(world.client.status)).web is None
    for port in (first, second):
        write(world, port)
        assert (await world.ask(world.client.reload))["sections"] == ["web"]
        seen = await world.until(
            world.client.status, lambda found: bool(found.web and len(found.web.listen) == 2)
        )
        assert seen.web is not None
        assert seen.web.listen == [f"127.0.0.1:{port}", f"[::1]:{port}"]
        assert (await ask(port))[0] == 200
    with pytest.raises(ConnectionRefusedError):
        await ask(first)
    write(world, second, token="sesame")
    await world.ask(world.client.reload)
    assert (await ask(second))[0] == 401
    assert (await ask(second, Authorization="Bearer sesame"))[0] == 200
    write(world, None)
    await world.ask(world.client.reload)
    assert (await world.ask(world.client.status)).web is None
    with pytest.raises(ConnectionRefusedError):
        await ask(second)


async def test_ui_says_where_the_page_is_and_opens_it_or_how_to_switch_it_on(world: World) -> None:
    """The system's browser gets the address that is printed; without a display nobody is asked to draw."""
    await world.start(serving=False)
    code, out, err = await world.run("ui")
    assert (code, out) == (2, "")
    assert str(world.config) in err
    assert 'listen = "localhost:8000"' in err
    port = free_port()
    write(world, port)
    await world.ask(world.client.reload)
    await world.until(world.client.status, lambda found: bool(found.web and len(found.web.listen) == 2))
    url = f"http://localhost:{port}/"
    shown = world.base / "shown"
    opener = world.base / "xdg-open"
    opener.write_text(f'#!/bin/sh\necho "$1" > {shown}.part && mv {shown}.part {shown}\n')
    opener.chmod(0o700)
    path = f"{world.base}:{os.environ['PATH']}"
    for display, opened in ((":7", True), ("", False)):
        process = await world.spawn("ui", "--json", PATH=path, DISPLAY=display, WAYLAND_DISPLAY="")
        told, _ = await asyncio.wait_for(process.communicate(), DEADLINE)
        assert json.loads(told) == {"url": url, "opened": opened}
    assert await world.until(lambda: shown.exists() and shown.read_text(), bool) == f"{url}\n"
    assert await world.run("ui", "--no-open") == (0, f"{url}\n", "")


async def test_ports_may_change_places_with_a_tunnel_in_one_reload(world: World) -> None:
    mine, world_port = free_port(), world.port
    write(world, mine)
    await world.start()
    world.port = mine
    write(world, world_port)
    await world.ask(world.client.reload)
    await world.ask(lambda: world.client.wait(timeout=DEADLINE))
    await world.until(world.client.status, lambda found: bool(found.web and len(found.web.listen) == 2))
    assert (await ask(world_port))[1]["web"]["listen"][0] == f"127.0.0.1:{world_port}"
    assert (await world.fetch())[0] == 200
    assert world.port == mine


async def test_a_port_of_somebody_else_is_said_in_the_status_and_stops_nothing(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        write(world, other.getsockname()[1])
        await world.start()
        seen = await world.until(world.client.status, lambda found: bool(found.web and found.web.cause))
        assert seen.web is not None
        assert seen.web.cause is not None
        assert seen.web.cause.code == "port_in_use"
        assert seen.cause is None
        _, out, _ = await world.run("status")
        assert seen.web.cause.message in out
    assert (await world.fetch())[0] == 200


async def test_kill_9_refuses_no_caller_of_the_api_either(world: World, manager: Manager) -> None:
    """Who comes while no daemon lives waits for the next one; a port that is not wanted any more is given back."""
    port = free_port()
    write(world, port)
    await start(world, manager)
    await keeps(manager, names(world.port, port))
    await world.kill()
    waiting = asyncio.create_task(ask(port))
    await start(world, manager)
    assert (await waiting)[0] == 200
    write(world, None)
    await world.ask(world.client.reload)
    await keeps(manager, names(world.port))
