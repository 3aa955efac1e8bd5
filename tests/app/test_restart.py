"""The forwarded ports outlive the daemon: a service manager keeps them, and nobody is refused."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from tests.app.stream import Stream, to_path, to_port
from tests.app.world import DEADLINE, World
from tests.fakes.manager import Manager, becoming
from tests.fakes.sshd import free_port


@pytest.fixture
async def manager(world: World) -> AsyncIterator[Manager]:
    async with Manager(world.base) as made:
        yield made


async def start(world: World, manager: Manager, *, serving: bool = True, **more: str) -> None:
    await world.start(
        serving=serving,
        through=becoming(manager.fds),
        pass_fds=manager.fds,
        **(manager.environment | more),
    )


def names(*ports: int) -> set[str]:
    return {f"door/{host}%3A{port}" for port in ports for host in ("127.0.0.1", "[%3A%3A1]")}


async def keeps(manager: Manager, wanted: set[str]) -> None:
    async with asyncio.timeout(DEADLINE):
        await manager.names.until(lambda kept: len(kept) == len(wanted) and set(kept) == wanted)


@pytest.fixture(params=["tcp", "unix"])
def stream(request: pytest.FixtureRequest, world: World) -> Stream:
    if request.param == "tcp":
        return Stream(to_port(world.port))
    path = world.base / "door"
    world.write_config(listen=f"unix:{path}")
    return Stream(to_path(path))


async def test_kill_9_refuses_nobody(world: World, manager: Manager, stream: Stream) -> None:
    """Who comes while no daemon lives is served by the next one."""
    await start(world, manager)
    async with stream:
        await stream.serves(5)
        await world.kill()
        dead = stream.began
        await stream.begins(10)
        await start(world, manager)
        await stream.serves(10)
    assert stream.count()["refused"] == 0
    assert set(stream.count(dead)) == {"served"}, "only calls in flight die with the daemon"


async def test_a_caller_of_a_kept_port_waits_until_a_broken_config_is_mended(
    world: World, manager: Manager
) -> None:
    await start(world, manager)
    await keeps(manager, names(world.port))
    await world.kill()
    world.config.write_text("nonsense = [\n")
    await start(world, manager, serving=False)
    waiting = asyncio.create_task(world.fetch())
    status = await world.until(world.client.status, lambda found: found.cause is not None)
    assert status.cause is not None
    assert status.cause.code == "config_error"
    assert not waiting.done()
    world.write_config()
    assert (await waiting)[0] == 200


async def test_sigterm_and_a_new_start_lose_no_call_at_all(
    world: World, manager: Manager, stream: Stream
) -> None:
    """Open calls end with the old daemon, new ones wait for the new daemon, none falls between."""
    await start(world, manager)
    async with stream:
        for _ in range(2):
            await stream.serves(5)
            await world.stop()
            await stream.begins(10)
            await start(world, manager)
        await stream.serves(5)
    assert set(stream.count()) == {"served"}
    assert len(manager.names.value) == len(set(manager.names.value)), "what is kept is not sent again"


async def test_without_a_manager_a_stopped_daemon_leaves_neither_port_nor_file(world: World) -> None:
    path = world.base / "door"
    world.write_config(listen=f"unix:{path}")
    await world.start()
    assert path.is_socket()
    await world.stop()
    assert not path.exists()


async def test_a_reload_that_builds_a_tunnel_anew_refuses_nobody(world: World) -> None:
    """The door is another, the port is the same."""
    await world.start()
    async with Stream(to_port(world.port)) as stream:
        await stream.serves(3)
        world.write_config(listen=f"127.0.0.1:{world.port}")
        assert (await world.ask(world.client.reload))["changed"] == ["default"]
        await stream.serves(3)
    assert stream.count()["refused"] == 0


async def test_a_port_that_a_reload_takes_away_is_closed_here_and_at_the_manager(
    world: World, manager: Manager
) -> None:
    await start(world, manager, serving=False)
    await keeps(manager, names(world.port))
    other = free_port()
    world.write_config(listen=f"localhost:{other}")
    await world.ask(world.client.reload)
    await keeps(manager, names(other))
    with pytest.raises(ConnectionRefusedError):
        await world.fetch()


async def test_a_port_that_the_config_no_longer_wants_at_the_start_is_closed(
    world: World, manager: Manager
) -> None:
    await start(world, manager, serving=False)
    await keeps(manager, names(world.port))
    await world.kill()
    manager.names.set(())
    other = free_port()
    world.write_config(listen=f"localhost:{other}")
    await start(world, manager, serving=False)
    await keeps(manager, names(other))
    with pytest.raises(ConnectionRefusedError):
        await world.fetch()


async def test_with_a_broken_config_callers_wait_until_it_is_mended(world: World, manager: Manager) -> None:
    """Which ports it wants is not known, so none is given up."""
    await start(world, manager)
    await world.kill()
    good = world.config.read_text()
    world.config.write_text("[tunnels")
    await start(world, manager, serving=False)
    async with Stream(to_port(world.port)) as stream:
        await stream.begins(5)
        world.config.write_text(good)
        await world.ask(world.client.reload)
        await stream.serves(3)
    assert set(stream.count()) == {"served"}


async def test_what_does_not_listen_where_its_name_says_is_not_used(world: World, manager: Manager) -> None:
    """And neither is anything else that may be passed; the start is as good as any."""
    elsewhere = socket.create_server(("127.0.0.1", 0))
    silent = socket.socket()
    silent.bind(("127.0.0.1", 0))
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with elsewhere, silent, datagrams:
        for sock in (elsewhere, silent, datagrams):
            for name in sorted(names(world.port)):
                manager.put(name, sock)
        manager.put("door/of an older version", elsewhere)
        manager.put("stored", datagrams)
        await start(world, manager)
        await keeps(manager, names(world.port))
        assert manager.addresses(f"door/127.0.0.1%3A{world.port}") == [("127.0.0.1", world.port)]
        assert (await world.fetch())[0] == 200


async def test_a_socket_that_does_not_listen_is_not_used(world: World, manager: Manager) -> None:
    """To listen on it may fail, when it is too late to say why."""
    with socket.socket() as silent, socket.socket() as other:
        for sock in (silent, other):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", world.port))
        other.listen()
        manager.put(f"door/127.0.0.1%3A{world.port}", silent)
        await start(world, manager, serving=False)
        tunnel = await world.until(
            lambda: world.client.tunnel("default"),
            lambda found: found.phase == "up" and bool(found.listen) and found.cause is not None,
        )
    assert tunnel.listen == [f"[::1]:{world.port}"]
    assert tunnel.cause is not None
    assert tunnel.cause.code == "port_in_use"


async def test_a_replaced_socket_file_is_bound_anew(world: World, manager: Manager) -> None:
    """The socket that is kept is reached by nobody any more."""
    path = world.base / "door"
    world.write_config(listen=f"unix:{path}")
    await start(world, manager)
    (before,) = manager.names.value
    await world.kill()
    path.unlink()
    await start(world, manager)
    async with Stream(to_path(path)) as stream:
        await stream.serves(1)
    (after,) = manager.names.value
    assert after != before


async def test_a_manager_that_tells_nonsense_and_has_gone_stops_neither_start_nor_end(
    world: World, manager: Manager
) -> None:
    nonsense = {"LISTEN_FDS": "9999", "LISTEN_FDNAMES": "a:b\n", "NOTIFY_SOCKET": "/nowhere/notify"}
    with socket.create_server(("127.0.0.1", 0)) as other:
        manager.put("door/x", other)
        await start(world, manager, serving=True, **nonsense)
    await world.stop()
    assert world.process is not None
    assert world.process.returncode == 0
    assert "Traceback" not in world.log.read_text()
