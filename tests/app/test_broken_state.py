"""A service whose own folder cannot be used: it stays, says why to whoever asks, and goes on by itself when it is mended. One that ended
would be started again without end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from comfytunnel.errors import NotRunningError
from comfytunnel.notify import Notifier
from comfytunnel.opening import patiently
from tests.app.world import DEADLINE, World
from tests.fakes.manager import Manager, becoming


@pytest.fixture
async def manager(world: World) -> AsyncIterator[Manager]:
    """It holds the control socket, as comfytunnel.socket does."""
    path = world.client.socket_path
    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        async with Manager(world.base) as made:
            made.put("control", sock)
            yield made


def open_to_others(state: Path) -> Callable[[], object]:
    state.chmod(0o775)
    return lambda: state.chmod(0o700)


def file_in_the_way(state: Path) -> Callable[[], object]:
    (state / "assets").touch()
    return (state / "assets").unlink


BREAKAGES = {
    "open to others": open_to_others,
    "uploads": file_in_the_way,
}
WORDS = {"open to others": "chmod go-w", "uploads": "assets"}


def tunnels(world: World) -> list[str]:
    """Who was let in and is slow to ask in the moment of the change is not answered, and asks again."""
    try:
        return list(world.client.status().tunnels)
    except NotRunningError:
        return []


@pytest.mark.parametrize("kind", BREAKAGES)
async def test_it_stays_says_why_and_goes_on_with_the_config_of_now(
    world: World, manager: Manager, kind: str
) -> None:
    (world.base / "state").mkdir(mode=0o700)
    mend = BREAKAGES[kind](world.base / "state")
    await world.start(
        serving=False, through=becoming(manager.fds), pass_fds=manager.fds, **manager.environment
    )
    await world.until(lambda: manager.said, lambda said: "READY=1" in said)  # it answers a moment before
    cause = (await world.ask(world.client.status)).cause
    assert cause is not None
    assert WORDS[kind] in f"{cause.message} {cause.hint}"
    world.config.write_text(world.config_text().replace("[tunnels.default]", "[tunnels.other]"))
    mend()
    assert await world.until(lambda: tunnels(world), bool) == ["other"]
    await world.stop()
    assert world.process is not None
    assert world.process.returncode == 0


async def test_it_waits_for_another_daemon_that_has_its_state_folder(world: World, manager: Manager) -> None:
    own = {"COMFYTUNNEL_SOCKET": str(world.base / "o" / "control.sock")}
    other = await world.spawn("daemon", **own)
    try:
        await world.until((world.base / "state" / "jobs.db").exists, bool)
        await world.start(
            serving=False, through=becoming(manager.fds), pass_fds=manager.fds, **manager.environment
        )
        cause = (await world.ask(world.client.status)).cause
        assert cause is not None
        assert (cause.code, str(other.pid) in cause.message) == ("already_running", True)
    finally:
        other.terminate()
        await other.wait()
    assert await world.until(lambda: tunnels(world), bool) == ["default"]


async def test_a_start_that_takes_long_asks_the_manager_for_more_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of a large database before an upgrade."""
    async with Manager(tmp_path) as manager:
        monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
        notifier = Notifier()

        async def copy() -> str:
            while manager.said.count("EXTEND_TIMEOUT_USEC=30000000") < 2:  # noqa: ASYNC110 - its messages ring nowhere
                await asyncio.sleep(0.01)
            return "copied"

        assert await patiently(copy, notifier, asyncio.Event(), every=0.02) == "copied"
        assert any("copied first" in line for line in manager.said if line.startswith("STATUS="))
        notifier.close()


async def test_a_start_that_takes_long_is_given_up_when_it_is_to_stop() -> None:
    notifier, stop, begun = Notifier(), asyncio.Event(), asyncio.Event()

    async def copy() -> str:
        begun.set()
        await asyncio.Event().wait()
        return "copied"

    starting = asyncio.create_task(patiently(copy, notifier, stop))
    async with asyncio.timeout(DEADLINE):
        await begun.wait()
        stop.set()
        assert await starting is None
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
