"""How long a caller is held, in seconds of a process that runs."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from comfytunnel.tunnel import hold
from comfytunnel.tunnel.hold import Hold
from comfytunnel.tunnel.state import Phase, Reconnect
from tests.tunnel.conftest import DEADLINE, Far, becomes, config_for, hello, near, service

BREAK = 0.8  # seconds in which the process stands still, and with it the loop


async def held(seconds: float) -> float:
    """Be held with nothing to come, and return for how long."""
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        async with Hold(seconds):
            await asyncio.get_running_loop().create_future()
    return time.monotonic() - began


@pytest.mark.parametrize("seconds", [0, 0.05, 0.3])
async def test_it_ends_in_time_and_never_early(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr(hold, "STEP", 0.1)
    async with asyncio.timeout(DEADLINE):
        assert await held(seconds) >= seconds


async def test_a_break_of_the_process_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hold, "STEP", 0.1)
    waiting = asyncio.create_task(held(0.3))
    await asyncio.sleep(0)
    time.sleep(BREAK)  # noqa: ASYNC251 - this is what a stopped process does
    async with asyncio.timeout(DEADLINE):
        assert await waiting >= BREAK + 0.2


async def test_what_ends_before_is_not_disturbed() -> None:
    async with Hold(30):
        done = await asyncio.sleep(0, "done")
    assert done == "done"
    with pytest.raises(KeyError):
        async with Hold(30):
            raise KeyError


async def test_who_is_held_while_the_process_stands_still_for_longer_than_the_hold_is_served(
    far: Far, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All timers are due at once then: the caller's must not come before the link's."""
    monkeypatch.setattr(hold, "STEP", 0.1)
    far.refuse_key()
    async with service(hello) as port, near(config_for(far, tmp_path, port, hold=BREAK)) as tunnel:
        await tunnel.phase(Phase.WAITING)
        call = asyncio.create_task(tunnel.call())
        await becomes(lambda: tunnel.door.held_callers == 1, "it is held")
        far.accept_key()
        time.sleep(BREAK)  # noqa: ASYNC251 - as above
        tunnel.tell(Reconnect())
        assert (await call).endswith(b"hello")
