"""The ledger of windows: nothing is granted twice, nothing is lost, and the sum stays within the budget."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from comfytunnel.tunnel import flow as flows
from comfytunnel.tunnel.flow import Flow, Meter
from comfytunnel.tunnel.window import BUDGET, FIRST, LEAST, MOST, Pace
from tests.tunnel.conftest import DEADLINE, becomes


async def never() -> None:
    await asyncio.Event().wait()


def nothing() -> None: ...


def spawn(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    return asyncio.create_task(work)


steps = st.lists(
    st.tuples(
        st.sampled_from(["open", "greet", "pass", "pass all", "pass all", "close"]), st.integers(0, 1 << 30)
    ),
    min_size=40,
    max_size=200,
)


@given(steps, st.sampled_from([LEAST, FIRST, MOST]))
def test_whatever_the_callers_do_the_sum_of_all_windows_stays_within_the_budget(
    walk: list[tuple[str, int]], window: int
) -> None:
    async def walked() -> None:
        flow = Flow(never, spawn, nothing)
        flow.pace = Pace(window=window)
        meters: list[Meter] = []
        granted: dict[Meter, int] = {}
        passed: dict[Meter, int] = {}
        for what, number in walk:
            if what == "open" and flow.has_room:
                meter = flow.meter()
                granted[meter], passed[meter] = LEAST, 0

                def grant(size: int, meter: Meter = meter) -> None:
                    assert size > 0
                    granted[meter] += size

                meter.grant = grant
                meters.append(meter)
            elif meters:
                meter = meters[number % len(meters)]
                if what == "greet":
                    flow.greet(meter)
                elif what.startswith("pass"):
                    size = granted[meter] - passed[meter]
                    size = size if what == "pass all" else number % (size + 1)
                    passed[meter] += size
                    flow.passed_on(meter, size)
                elif what == "close":
                    flow.release(meter)
                    meters.remove(meter)
            outside = [granted[meter] - passed[meter] for meter in meters]
            assert [meter.outstanding for meter in meters] == outside
            assert sum(max(LEAST, size) for size in outside) == BUDGET - flow.free
            assert flow.free >= 0

    asyncio.run(walked())


async def test_a_channel_is_never_left_without_anything_to_send() -> None:
    """Not even where others hold all that there is."""
    flow = Flow(never, spawn, nothing)
    flow.pace = Pace(window=MOST)
    meter = flow.meter()
    greedy = [flow.meter() for _ in range(flow.free // LEAST - 1)]
    for _ in range(1000):
        flow.passed_on(meter, meter.outstanding)
        assert meter.outstanding >= LEAST
    assert flow.free >= 0
    for other in greedy:
        flow.release(other)
    flow.release(meter)
    assert flow.free == BUDGET


async def test_what_comes_free_is_told() -> None:
    told: list[bool] = []
    flow = Flow(never, spawn, lambda: told.append(flow.has_room))
    meters = [flow.meter() for _ in range(flow.free // LEAST)]
    assert not flow.has_room
    for meter in meters[:3]:
        flow.release(meter)
    assert told[-1]


async def test_beside_a_transfer_the_link_is_asked_one_question_at_a_time_and_then_left_alone() -> None:
    asked: list[asyncio.Future[None]] = []

    async def ask() -> None:
        asked.append(asyncio.get_running_loop().create_future())
        await asked[-1]

    tasks: list[asyncio.Task[None]] = []

    def keep(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        tasks.append(asyncio.create_task(work))
        return tasks[-1]

    flow = Flow(ask, keep, nothing)
    flow.pace = Pace(window=MOST, idle=0.001)
    meter = flow.meter()
    flow.greet(meter)
    assert not asked, "a call is no transfer"
    for _ in range(10):
        flow.passed_on(meter, LEAST)
        await asyncio.sleep(0)
    await becomes(lambda: len(asked) == 1, "it is asked")
    assert len(tasks) == 1
    asked[0].set_result(None)
    async with asyncio.timeout(DEADLINE):
        await asyncio.wait(tasks)
    assert len(asked) == 1, "the transfer is over"
    assert flow.pace.loaded is not None


async def test_a_far_side_that_does_not_answer_is_asked_no_more(monkeypatch: Any) -> None:
    monkeypatch.setattr(flows, "ANSWER_DEADLINE", 0.01)
    asked = 0

    async def ask() -> None:
        nonlocal asked
        asked += 1
        await never()

    tasks: list[asyncio.Task[None]] = []

    def keep(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        tasks.append(asyncio.create_task(work))
        return tasks[-1]

    flow = Flow(ask, keep, nothing)
    meter = flow.meter()
    flow.greet(meter)

    def transfer() -> None:
        for _ in range(10):
            flow.passed_on(meter, LEAST)

    transfer()
    with contextlib.suppress(TimeoutError):
        await tasks[0]
    transfer()
    assert (asked, len(tasks)) == (1, 1)
