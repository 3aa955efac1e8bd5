"""The stream of everything, over a daemon that dies: ids are the store's, so whoever comes back misses nothing."""

from __future__ import annotations

from comfytunnel import wire
from tests.app.world import World, workflow


async def test_last_event_id_resumes_over_a_kill_and_a_new_start(world: World) -> None:
    await world.start()
    first = await world.end_of(await world.submit(workflow(1)))

    def seen() -> str:
        """Read until the first job's end, and return the id of the last event."""
        for event in world.client.events(last_event_id="0"):
            if isinstance(event, wire.Job) and event.status == "succeeded":
                return world.client.last_event_id
        raise AssertionError("the stream ended")

    last = await world.ask(seen)
    second = await world.end_of(await world.submit(workflow(2)))
    await world.kill()
    await world.start()
    third = await world.submit(workflow(3))

    def missed() -> list[tuple[str, str]]:
        """What comes from there on, until the third job has ended."""
        jobs: list[tuple[str, str]] = []
        for event in world.client.events(last_event_id=last):
            if isinstance(event, wire.Job):
                jobs.append((event.id, event.status))
                if jobs[-1] == (third.id, "succeeded"):
                    break
        return jobs

    told = await world.ask(missed)
    assert (second.id, "succeeded") in told
    assert first.id not in dict(told)
