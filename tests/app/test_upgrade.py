"""An upgrade of the daemon's state; and one that this version cannot use: it says so, and does not begin anew over it."""

from __future__ import annotations

import json
import sqlite3

from comfytunnel.errors import NotRunningError
from comfytunnel.jobs import schema
from tests.app.world import World
from tests.fakes.manager import Manager
from tests.jobs.test_migration import LABELS, lay


def newer(world: World) -> None:
    (world.base / "state").mkdir(mode=0o700)
    db = sqlite3.connect(world.base / "state" / "jobs.db")
    db.execute(f"PRAGMA user_version={len(schema.MIGRATIONS) + 1}")
    db.close()


def tunnels(world: World) -> list[str]:
    """Who was let in and is slow to ask in the moment of the change is not answered, and asks again."""
    try:
        return list(world.client.status().tunnels)
    except NotRunningError:
        return []


async def test_a_daemon_after_an_upgrade_goes_on_with_the_jobs_of_before(world: World) -> None:
    """One in each stage, in a database of the version before; the ComfyUI that had them knows them no more."""
    (world.base / "state").mkdir(mode=0o700)
    lay(world.base / "state" / "jobs.db", len(schema.MIGRATIONS) - 1)
    await world.start()
    jobs = await world.ask(lambda: list(world.client.jobs()))
    assert [job.comfytunnel.label for job in reversed(jobs) if job.comfytunnel] == list(LABELS)
    ended = [await world.end_of(job) for job in jobs]
    assert {job.status for job in ended} == {"succeeded"}, ended
    assert len(list((world.base / "pictures").rglob("*.png"))) == len(LABELS) - 1, (
        "the done one is not run again"
    )


async def test_in_a_terminal_a_state_of_a_newer_version_is_refused_with_a_sentence(world: World) -> None:
    newer(world)
    code, out, err = await world.run("daemon")
    assert (code, out) == (1, "")
    assert "was written by a newer comfytunnel" in err
    assert "Upgrade comfytunnel" in err


async def test_a_service_stays_says_why_and_goes_on_when_it_is_mended(world: World) -> None:
    """One that ended would be started again without end, by the manager and by each caller."""
    newer(world)
    async with Manager(world.base) as manager:
        await world.start(serving=False, NOTIFY_SOCKET=manager.address)
        await world.until(  # it answers a moment before it tells the manager
            lambda: [line for line in manager.said if line.startswith("STATUS=")],
            lambda lines: any("newer comfytunnel" in line for line in lines),
        )
        assert "READY=1" in manager.said
        code, out, _ = await world.run("status")
        assert (code, "newer comfytunnel" in out) == (0, True)
        code, out, _ = await world.run("jobs", "--json")
        assert (code, json.loads(out)["error"]["code"]) == (1, "state_error")
        code, _, err = await world.run("wait")
        assert (code, "newer comfytunnel" in err) == (1, True)
        (world.base / "state" / "jobs.db").unlink()
        await world.until(lambda: tunnels(world), lambda found: "default" in found)
        await world.ask(lambda: world.client.wait(timeout=20))
        assert world.process is not None
        assert world.process.returncode is None
        await world.stop()
    assert world.process.returncode == 0


async def test_a_service_with_such_a_state_stops_when_it_is_told(world: World) -> None:
    newer(world)
    async with Manager(world.base) as manager:
        await world.start(serving=False, NOTIFY_SOCKET=manager.address)
        assert await world.stop() < 2
    assert world.process is not None
    assert world.process.returncode == 0
    assert not world.client.socket_path.exists()
