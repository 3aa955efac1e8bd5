"""How long nodes took: from ComfyUI's frames, as old and new servers send them, and through a real run."""

from __future__ import annotations

from pathlib import Path

from comfytunnel.comfy.progress import Cached, Event, Finished, NodeDone, Nodes, NodeStarted, Started, Step
from comfytunnel.jobs import stopwatch
from comfytunnel.jobs.model import NodeTime, Status
from comfytunnel.jobs.stopwatch import Stopwatch
from comfytunnel.workflow.graph import parse_api_graph
from tests.jobs.bench import Bench, picture

P = "p"
GRAPH = parse_api_graph(
    {
        key: {"class_type": f"C{key}", "inputs": {}, "_meta": {"title": f"T{key}"}}
        for key in ("1", "2", "3", "4")
    }
)


def timed(
    *heard: tuple[float, Event] | tuple[float, Event, int], until: float = 100.0
) -> dict[str, NodeTime]:
    watch = Stopwatch(GRAPH)
    for at, event, *session in heard:
        watch.feed(event, at, *session)
    return {time.node_id: time for time in watch.times(until)}


def test_a_node_takes_until_the_next_one_begins() -> None:
    """As servers before 0.4 tell it; the sampler's steps are kept, and a cached node says that it did not run."""
    found = timed(
        (0.0, Started(P)),
        (0.0, Cached(P, ("1",))),
        (0.5, NodeStarted(P, "2")),
        (1.0, Step(P, "2", 1, 20)),
        (9.5, Step(P, "2", 20, 20)),
        (10.5, NodeStarted(P, "3")),
        (11.0, NodeDone(P, "3")),
        (12.0, Finished(P)),
    )
    assert found["1"] == NodeTime(node_id="1", class_type="C1", title="T1", seconds=0.0, cached=True)
    assert found["2"] == NodeTime(node_id="2", class_type="C2", title="T2", seconds=10.0, steps=20)
    assert found["3"].seconds == 0.5
    assert "4" not in found


def test_the_states_of_newer_servers_say_the_same() -> None:
    found = timed(
        (0.0, Started(P)),
        (1.0, Nodes(P, (), (("2", 0, 1),))),
        (1.0, NodeStarted(P, "2")),
        (3.0, Nodes(P, ("2",), ())),
        (4.0, Nodes(P, ("2",), (("3", 0, 8),))),
        (6.0, Finished(P)),
    )
    assert (found["2"].seconds, found["3"].seconds, found["3"].steps) == (2.0, 2.0, 8)
    assert all(time.whole for time in found.values())


def test_a_node_that_runs_twice_counts_twice() -> None:
    found = timed(
        (0.0, NodeStarted(P, "2")), (1.0, NodeStarted(P, "3")), (3.0, NodeStarted(P, "2")), (6.0, Finished(P))
    )
    assert (found["2"].seconds, found["3"].seconds) == (4.0, 2.0)


def test_what_was_not_heard_is_not_guessed() -> None:
    """The websocket broke within a node, and came back in another: ComfyUI says which one runs, not since when."""
    found = timed(
        (0.0, NodeStarted(P, "1"), 1),
        (1.0, NodeStarted(P, "2"), 1),
        (9.0, NodeStarted(None, "3"), 2),
        (10.0, NodeStarted(P, "4"), 2),
        until=12.0,
    )
    assert {key: time.whole for key, time in found.items()} == {"1": True, "2": False, "3": False, "4": False}
    assert found["4"].seconds == 2.0


def test_a_hostile_server_fills_no_memory() -> None:
    """Nodes that are not in the graph are nobody's; of a large graph the slowest are kept; texts are cut."""
    most = stopwatch.MOST
    large = parse_api_graph({str(n): {"class_type": "K" * 9999, "inputs": {}} for n in range(most + 50)})
    watch = Stopwatch(large)
    at = 0.0
    for number in range(most + 50):
        watch.feed(NodeStarted(P, f"x{number}"), at)
        watch.feed(NodeStarted(P, str(number)), at)
        at += number
    watch.feed(Finished(P), at)
    times = watch.times(at)
    assert len(times) == most
    assert times[-1].node_id == str(most + 49)
    assert min(time.seconds for time in times) == 50.0
    assert len(times[0].class_type) == stopwatch.TEXT_MOST


async def test_a_job_that_has_run_keeps_the_times_of_its_nodes(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.far.start()
    await bench.start()
    bench.link_up()
    try:
        await bench.ends(await bench.submit(picture()))  # the websocket is open from now on
        job = await bench.ends(await bench.submit(picture(1, seconds=0.6, steps=4)))
        assert job.status is Status.SUCCEEDED
        times = {time.node_id: time for time in await bench.store.node_times(job.id)}
        assert (times["2"].title, times["2"].steps, times["2"].whole) == ("Patience", 4, True)
        assert 0.4 <= times["2"].seconds < 10
        await bench.store.forget_jobs([job.id])
        assert await bench.store.node_times(job.id) == []
    finally:
        await bench.stop()
