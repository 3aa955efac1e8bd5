"""The control socket in a service manager's hands: the daemon serves it and leaves it where it is."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.app.world import World
from tests.fakes.manager import Manager, becoming


@pytest.fixture
async def manager(world: World) -> AsyncIterator[Manager]:
    async with Manager(world.base) as made:
        yield made


@pytest.fixture
def control(world: World) -> Iterator[socket.socket]:
    """What comfytunnel.socket has bound, at the place where the commands look."""
    path = world.client.socket_path
    path.parent.mkdir(mode=0o700, parents=True)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        yield sock


async def start(world: World, manager: Manager) -> None:
    await world.start(
        serving=False, through=becoming(manager.fds), pass_fds=manager.fds, **manager.environment
    )


async def test_it_serves_the_managers_socket_and_leaves_it_there(
    world: World, manager: Manager, control: socket.socket
) -> None:
    manager.put("control", control)
    inode = world.client.socket_path.stat().st_ino
    await start(world, manager)
    assert (await world.ask(world.client.health)).pid
    await world.stop()
    assert world.client.socket_path.stat().st_ino == inode
    await start(world, manager)  # and the next one


async def test_it_says_ready_reloading_alive_and_stopping(
    world: World, manager: Manager, control: socket.socket
) -> None:
    manager.put("control", control)
    environment = manager.environment | {"WATCHDOG_USEC": "300000"}
    await world.start(serving=False, through=becoming(manager.fds), pass_fds=manager.fds, **environment)
    await world.ask(world.client.reload)
    await world.until(lambda: manager.said.count("WATCHDOG=1"), lambda found: found > 3)
    await world.stop()
    words = [
        word.partition("=")[0] for word in manager.said if word.startswith(("READY", "RELOADING", "STOPPING"))
    ]
    assert words == ["READY", "RELOADING", "READY", "STOPPING"]


async def test_with_a_broken_config_a_manager_that_does_not_listen_keeps_it_too(
    world: World, manager: Manager, control: socket.socket
) -> None:
    """launchd: whoever ends in failure is started again, for ever."""
    manager.put("control", control)
    world.config.write_text("nonsense")
    environment = {name: value for name, value in manager.environment.items() if name != "NOTIFY_SOCKET"}
    await world.start(serving=False, through=becoming(manager.fds), pass_fds=manager.fds, **environment)
    cause = (await world.ask(world.client.status)).cause
    assert cause is not None
    assert cause.code == "config_error"


async def test_a_daemon_in_the_foreground_does_not_take_a_socket_that_a_manager_holds(
    world: World, control: socket.socket
) -> None:
    """Nobody holds the lock, and somebody listens."""
    code, _, err = await world.run("daemon")
    assert code == 5
    assert "A service manager holds" in err
    assert world.client.socket_path.is_socket()
    control.close()
    await world.start(serving=False)  # what is stale is replaced, as ever


async def test_what_is_no_listening_socket_is_not_taken_for_ours(world: World, manager: Manager) -> None:
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(world.base / "silent"))
        for sock in (tcp, silent):
            manager.put("control", sock)
        await start(world, manager)
    assert (await world.ask(world.client.health)).pid
