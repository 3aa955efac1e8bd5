"""The policy of receive windows, on lines that are only arithmetic."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comfytunnel.tunnel.window import (
    BUDGET,
    CROWD,
    FIRST,
    GREETING_MOST,
    LEAST,
    MOST,
    NEAR,
    SLACK,
    TRIAL,
    Pace,
    answered,
    greeting,
    moved,
    rested,
    transfer,
)

MBIT = 125_000  # bytes per second

seconds = st.floats(0.0001, 100)
sizes = st.integers(0, 1 << 40)


@dataclass
class Line:
    """One endless transfer over a line of `speed` bytes and `rtt` seconds: a window that is larger than fits is a queue."""

    speed: float
    rtt: float
    late: float = 0.0  # seconds that answers take longer than bytes, on a busy machine
    pace: Pace = field(default_factory=Pace)
    seen: list[int] = field(default_factory=list)  # each window that it had

    @property
    def beside(self) -> float:
        return max(self.rtt, self.pace.window / self.speed)

    def run(self, duration: float) -> Line:
        clock, asked = 0.0, 0.0
        while clock < duration:
            took = self.beside
            self.pace = moved(self.pace, self.pace.window, self.pace.window, took)
            clock += took
            self.seen.append(self.pace.window)
            if clock - asked >= max(1.0, self.beside):
                asked = clock
                self.pace = answered(self.pace, self.beside + self.late)
                self.seen.append(self.pace.window)
        return self


def line(speed: float, rtt: float) -> Line:
    return Line(speed, rtt, pace=rested(Pace(), rtt))


# --- bounds ---------------------------------------------------------------------------------------------------------

steps = st.one_of(
    st.tuples(st.just("moved"), sizes, seconds),
    st.tuples(st.just("answered"), sizes, seconds),
    st.tuples(st.just("rested"), sizes, seconds),
)


@given(st.lists(steps, max_size=60))
def test_whatever_a_line_shows_the_window_stays_in_its_bounds(shown: list[tuple[str, int, float]]) -> None:
    pace = Pace()
    for what, size, time in shown:
        before = pace
        match what:
            case "moved":
                pace = moved(pace, pace.window, size, time)
            case "answered":
                pace = answered(pace, time)
            case _:
                pace = rested(pace, time)
        assert LEAST <= pace.window <= MOST
        first = what == "rested" and before.idle is None
        assert first or pace.window in (before.window, before.window * 2, before.window // 2)


@given(st.integers(-BUDGET, BUDGET), st.integers(LEAST, MOST))
def test_no_share_is_more_than_there_is_or_less_than_the_least(free: int, window: int) -> None:
    pace = Pace(window=window)
    for share in (greeting(pace, free), transfer(pace, free)):
        assert LEAST <= share <= MOST
        assert share == LEAST or free - share >= CROWD
    assert greeting(pace, free) <= GREETING_MOST


@pytest.mark.parametrize("transfers", [1, 2, 3, 10, 30])
def test_many_transfers_share_alike_and_leave_something_for_those_who_come_next(transfers: int) -> None:
    pace, windows = Pace(window=MOST), [LEAST] * transfers
    for _ in range(1000):
        for i, own in enumerate(windows):
            windows[i] = transfer(pace, BUDGET - sum(windows) + own)
    free = BUDGET - sum(windows)
    assert free >= CROWD
    assert max(windows) <= 1.2 * min(windows)
    if transfers == 1:
        assert windows == [MOST]
    assert greeting(Pace(), free) >= LEAST


# --- lines ----------------------------------------------------------------------------------------------------------


def test_a_long_fat_path_gets_the_largest_window_within_ten_round_trips() -> None:
    assert line(2000 * MBIT, 0.1).run(1.0).pace.window == MOST


def test_a_line_is_filled_however_fast_and_long_it_is() -> None:
    for mbit in (1, 10, 50, 100, 300, 1000):
        for rtt in (0.001, 0.01, 0.04, 0.1, 0.2):
            path = line(mbit * MBIT, rtt).run(30)
            assert path.pace.window >= min(MOST, 0.75 * path.speed * rtt), (mbit, rtt)


@settings(max_examples=40, deadline=None)
@given(st.floats(2, 1000), st.floats(0.005, 0.3))
def test_a_line_is_never_filled_for_long(mbit: float, rtt: float) -> None:
    """A few seconds after the start the queue is at most what two halvings short of perfect leave, or the least window."""
    path = line(mbit * MBIT, rtt).run(20)
    path.seen.clear()
    path.run(60)
    most = max(path.seen) / path.speed
    assert most <= max(3 * rtt, 2 * (SLACK + 0.01 + rtt), 2 * LEAST / path.speed)


@settings(max_examples=40, deadline=None)
@given(st.floats(2, 1000), st.floats(0.005, 0.3))
def test_a_settled_window_does_not_swing(mbit: float, rtt: float) -> None:
    path = line(mbit * MBIT, rtt).run(20)
    path.seen.clear()
    path.run(60)
    assert max(path.seen) <= 2 * min(path.seen)
    changes = sum(a != b for a, b in zip(path.seen, path.seen[1:], strict=False))
    assert changes <= 2 * 60 / 4


@pytest.mark.parametrize("mbit", [2, 0.5])
def test_a_line_that_becomes_thin_is_emptied_step_by_step(mbit: float) -> None:
    path = line(500 * MBIT, 0.05).run(10)
    assert path.pace.window >= 2 << 20
    path.speed = mbit * MBIT
    assert path.run(600).pace.window <= 2 * LEAST
    assert path.pace.idle == 0.05


def test_a_path_that_becomes_longer_is_understood_after_a_trial() -> None:
    """Its round trip looks like a queue, but a larger window does not lengthen it."""
    path = line(1000 * MBIT, 0.02).run(10)
    path.rtt = 0.2
    path.run(2 * TRIAL)
    assert path.pace.idle == 0.2
    assert path.run(10).pace.window >= 16 << 20


def test_answers_that_are_late_while_the_bytes_are_not_change_nothing() -> None:
    path = line(1000 * MBIT, 0.1).run(10)
    before = path.pace.window
    path.late = 0.5
    assert path.run(30).pace.window == before


def test_a_new_line_begins_with_little_unless_it_is_short() -> None:
    assert rested(Pace(), 0.1).window == FIRST
    assert rested(Pace(), 0.001).window == NEAR
    assert rested(rested(Pace(), 0.1), 0.001).window == FIRST


def test_the_idle_round_trip_follows_down_at_once_and_up_slowly() -> None:
    pace = rested(rested(Pace(), 0.1), 0.02)
    assert pace.idle == 0.02
    pace = rested(pace, 0.1)
    assert pace.idle is not None
    assert 0.02 < pace.idle < 0.05
    assert answered(pace, 0.01).idle == 0.01


def test_a_slow_sender_needs_no_larger_window() -> None:
    pace = rested(Pace(), 0.1)
    for _ in range(100):
        pace = moved(pace, pace.window, pace.window // 4, 0.1)
    assert pace.window == FIRST
