"""The machine, cell by cell and at random: what each event does in each phase, and what no walk may ever see."""

from __future__ import annotations

import types
from dataclasses import replace
from pathlib import Path

import pytest

from comfytunnel.tunnel import machine
from comfytunnel.tunnel.machine import Policy, step
from comfytunnel.tunnel.state import (
    MEANINGS,
    AboutToSleep,
    Answered,
    Ask,
    Cause,
    Code,
    ConfigChanged,
    Demand,
    DropLink,
    Elapsed,
    Lost,
    Opened,
    OpenLink,
    Phase,
    Reconnect,
    Route,
    RouteChanged,
    Timer,
    Tunnel,
    Verdict,
    Want,
    Woke,
)
from tests.tunnel import table
from tests.tunnel.table import EVENTS, HERE, NOW, NOWHERE, POLICY, RECORDS, cell
from tests.tunnel.walks import Machine, walk

WALKS, STEPS = 30, 1500

WORDS = {
    ".": "",  # nothing changes
    "n": "(noted)",  # only the record remembers
    "O": "connecting: open",
    "DO": "connecting: drop, open",
    "D": "down",
    "DD": "down: drop",
    "?": "doubtful: ask now",
    "U": "up: ask after 15 s",
    "W": "waiting: back-off",
    "DW": "waiting: drop, back-off",
    "S": "waiting: drop, 30 s",  # slowly
    "N": "offline: 30 s",
    "DN": "offline: drop, 30 s",
    "Z": "waiting: drop, 60 s",  # before sleep
    "H": "halted: drop",
}
# The columns are those of table.RECORDS: down, offline, connecting, up, doubtful, waiting, waiting slowly, halted.
GRID = {
    "Want(up)": "O O . . . O O O",
    "Want(down)": ". D DD DD DD D D D",
    "Reconnect": ". O DO DO DO O O O",  # down stays down: reconnecting is no way to want something
    "ConfigChanged": ". O DO DO DO O O O",  # the live link leads to the old endpoint
    "TrustChanged": ". O DO . . O O O",  # what is known of the live link has not changed; a try may have read the old file
    "RouteChanged, another": "n O DO ? ? O n n",  # a live link may outlive a new route: ask it
    "RouteChanged, as before": ". O . ? ? . . .",  # it was another one in between (for the record that was offline it is a route again)
    "RouteChanged, none": "n . DN ? ? N n n",  # the last link may still work: ask it
    "RouteChanged, orphaned": "n O DO DO DO O n n",  # its address is gone: dead, not doubted
    "Woke": ". O DO ? ? O . .",
    "Woke, after long": ". O DO ? ? O O .",  # the time slept counts as time waited
    "AboutToSleep, idle": ". . . Z Z . . .",
    "AboutToSleep, streaming": ". . . . . . . .",  # the caller's stream may survive a short sleep
    "Demand, begins": "n n n n n W n n",
    "Opened": ". . U . . . . .",
    "Lost, retry": ". . DW DO DO . . .",  # the first failure after a good link is retried at once
    "Lost, retry slowly": ". . S S S . . .",
    "Lost, halt": ". . H H H . . .",
    "Answered": ". . . U U . . .",
    "Unanswered": ". . . DO DO . . .",
    "Elapsed": ". O . . . O O .",
    "Opened, stale": ". . . . . . . .",
    "Lost, stale": ". . . . . . . .",
    "Answered, stale": ". . . . . . . .",
    "Unanswered, stale": ". . . . . . . .",
    "Elapsed, stale": ". . . . . . . .",
}


@pytest.mark.parametrize("event", EVENTS)
def test_each_event_does_in_each_phase_what_the_grid_says(event: str) -> None:
    expected = dict(zip(RECORDS, (WORDS[code] for code in GRID[event].split()), strict=True))
    assert {phase: cell(record, EVENTS[event]) for phase, record in RECORDS.items()} == expected


def test_the_grid_has_every_kind_of_event_and_every_phase() -> None:
    assert set(GRID) == set(EVENTS)
    assert {type(event) for event in EVENTS.values()} == set(machine._RULES)
    assert {record.phase for record in RECORDS.values()} == set(Phase)


def test_the_document_holds_the_table_that_the_machine_computes() -> None:
    told = table.written(table.DOC.read_text(encoding="utf-8"))
    assert told == table.render(), (
        f"{table.DOC.name} is not what the machine does: run python -m tests.tunnel.table"
    )


# --- single rules ---------------------------------------------------------------------------------------------------


def up(**changes: object) -> Tunnel:
    return replace(RECORDS["up"], **changes)  # type: ignore[arg-type]  # any field of the record


def test_a_link_that_dies_young_does_not_reset_the_back_off() -> None:
    young, _ = step(up(opened_at=NOW - 59), Lost(3, Cause(Code.CONNECTION_LOST)), NOW, POLICY)
    old, _ = step(up(opened_at=NOW - 61), Lost(3, Cause(Code.CONNECTION_LOST)), NOW, POLICY)
    assert (young.failures, young.phase) == (4, Phase.WAITING)
    assert (old.failures, old.phase) == (1, Phase.CONNECTING)


def test_a_question_and_the_silence_before_it_while_somebody_waits_get_four_round_trips_and_at_least_a_second() -> (
    None
):
    _, quick = step(RECORDS["connecting"], Opened(3, 0.01), NOW, POLICY)
    _, slow = step(RECORDS["connecting"], Opened(3, 0.8), NOW, POLICY)
    assert quick == (Ask(8, 15.0, 1.0, 1.0),)
    assert slow == (Ask(8, 15.0, 3.2, 3.2),)


def test_an_indirect_answer_keeps_the_round_trip_that_is_known() -> None:
    after, _ = step(up(rtt=0.3), Answered(7, None), NOW, POLICY)
    assert after.rtt == 0.3


def test_the_back_off_doubles_up_to_its_cap_and_depends_on_who_waits() -> None:
    def longest(failures: int, waiting: bool) -> float:
        """Of two hundred draws of the jitter."""
        pauses = []
        for link in range(200):
            record = replace(RECORDS["connecting"], failures=failures, waiting=waiting, link=link)
            after, _ = step(record, Lost(link, Cause(Code.CONNECT_REFUSED)), NOW, POLICY)
            assert after.until is not None
            pauses.append(after.until - NOW)
            assert pauses[-1] >= 0.1 - 1e-9, "a refused connection must not become a busy loop"
        return max(pauses)

    assert 0.4 < longest(1, False) <= 0.5
    assert 0.9 < longest(2, False) <= 1.0
    assert 25 < longest(12, False) <= 30.0
    assert 1.8 < longest(12, True) <= 2.0
    assert longest(10**6, True) <= 2.0, "a tunnel that has failed for years"


def test_somebody_who_begins_to_wait_shortens_a_pause_but_never_prolongs_it() -> None:
    for left in (0.5, 20.0):
        after, effects = step(replace(RECORDS["waiting"], until=NOW + left), Demand(True), NOW, POLICY)
        assert after.until is not None
        assert after.until - NOW <= min(left, 2.0)
        (timer,) = effects
        assert isinstance(timer, Timer)
        assert NOW + timer.seconds == pytest.approx(after.until)


def test_a_new_route_and_a_wake_forget_old_failures() -> None:
    for event in (RouteChanged(table.ELSEWHERE), Woke(1.0), Want(True)):
        after, _ = step(RECORDS["waiting"], event, NOW, POLICY)
        assert after.failures == 0


def test_a_network_that_comes_and_goes_does_not_hurry_a_refused_key() -> None:
    record = RECORDS["waiting, slowly"]
    for number, route in enumerate((NOWHERE, HERE, NOWHERE, HERE)):
        record, effects = step(record, RouteChanged(route), NOW + number, POLICY)
        assert effects == ()
        assert record.until == NOW + 20
        assert record.cause == Cause(Code.AUTH_DENIED), "why it is slow stays shown"


def test_a_try_after_a_refused_key_runs_its_course_whatever_the_network_does() -> None:
    """An agent may be asking a person just now: each new try would ask again."""
    record, _ = step(RECORDS["waiting, slowly"], Elapsed(7), NOW + 20, POLICY)
    assert record.phase is Phase.CONNECTING
    for event in (RouteChanged(table.ELSEWHERE), RouteChanged(NOWHERE), RouteChanged(HERE), Woke(5.0)):
        after, effects = step(record, event, NOW + 22, POLICY)
        assert (after.phase, after.link, effects) == (Phase.CONNECTING, record.link, ())
    again, effects = step(record, Reconnect(), NOW + 22, POLICY)
    assert effects == (DropLink(), OpenLink(again.link)), "the user may hurry it"


def test_a_network_that_comes_back_is_used_at_once() -> None:
    gone, _ = step(RECORDS["waiting"], RouteChanged(NOWHERE), NOW, POLICY)
    assert gone.cause == Cause(Code.NO_ROUTE)
    back, effects = step(gone, RouteChanged(HERE), NOW + 1, POLICY)
    assert (back.phase, effects) == (Phase.CONNECTING, (OpenLink(4),))


def test_without_a_route_a_lost_link_is_not_retried_at_once() -> None:
    after, effects = step(up(route=NOWHERE), Lost(3, Cause(Code.CONNECTION_LOST)), NOW, POLICY)
    assert (after.phase, after.until) == (Phase.OFFLINE, NOW + 30)
    assert effects == (DropLink(), Timer(8, 30.0))


def test_a_route_that_cannot_be_told_counts_as_one() -> None:
    after, _ = step(up(), RouteChanged(Route(None, known=False)), NOW, POLICY)
    lost, _ = step(after, Lost(3, Cause(Code.CONNECTION_LOST)), NOW, POLICY)
    assert lost.phase is Phase.CONNECTING


def test_the_link_is_let_go_before_sleep_and_taken_up_after_it() -> None:
    asleep, effects = step(up(), AboutToSleep(streaming=False), NOW, POLICY)
    assert effects == (DropLink(), Timer(8, 60.0))
    assert asleep.cause is None
    awake, effects = step(asleep, Woke(7200.0), NOW + 1, POLICY)
    assert effects == (OpenLink(4),)
    never_slept, effects = step(asleep, Elapsed(8), NOW + 60, POLICY)
    assert effects == (OpenLink(4),)
    assert awake.phase is never_slept.phase is Phase.CONNECTING


def test_a_changed_config_makes_the_cause_of_before_void_and_reconnect_does_not() -> None:
    """It was another endpoint's: nobody may be told that the new one refuses us."""
    for name in ("waiting", "waiting, slowly", "halted"):
        after, _ = step(replace(RECORDS[name], route=NOWHERE), ConfigChanged(), NOW, POLICY)
        assert (after.phase, after.cause, after.route.usable) == (Phase.CONNECTING, None, True)
        again, _ = step(RECORDS[name], Reconnect(), NOW, POLICY)
        assert again.cause == RECORDS[name].cause


def test_the_last_cause_is_shown_until_the_link_is_up_and_forgotten_then() -> None:
    trying, _ = step(RECORDS["waiting"], Elapsed(7), NOW, POLICY)
    assert trying.cause == Cause(Code.CONNECT_REFUSED)
    there, _ = step(trying, Opened(4), NOW, POLICY)
    assert there.cause is None


def test_every_cause_has_a_meaning_for_people() -> None:
    assert set(MEANINGS) == set(Code)
    assert all(meaning.sentence.endswith(".") for meaning in MEANINGS.values())
    assert Cause(Code.DNS_FAILED, "Detail.", "Advice.").hint == "Advice."
    assert Cause(Code.HOST_KEY_CHANGED).verdict is Verdict.HALT


def test_the_jitter_is_drawn_from_the_seed() -> None:
    lost = Lost(3, Cause(Code.CONNECT_REFUSED))
    one, again, other = (
        step(RECORDS["connecting"], lost, NOW, Policy(seed=seed))[0].until for seed in (1, 1, 2)
    )
    assert one == again != other


# --- walks ----------------------------------------------------------------------------------------------------------


def walk_often(broken_or_not: Machine) -> set[Phase]:
    return set().union(*(walk(broken_or_not, seed, STEPS) for seed in range(WALKS)))


def test_no_random_walk_breaks_an_invariant_and_together_they_see_every_phase() -> None:
    assert walk_often(step) == set(Phase)


BREAKS = {
    "opens a second link beside the first": ("return nxt, (*_drop(tunnel), OpenLink(nxt.link))", "return nxt, (OpenLink(nxt.link),)"),
    "forgets to open": ("return nxt, (*_drop(tunnel), OpenLink(nxt.link))", "return nxt, _drop(tunnel)"),
    "keeps a link that it gave up": ("return nxt, (*_drop(tunnel), Timer(nxt.ask, seconds))", "return nxt, (Timer(nxt.ask, seconds),)"),
    "forgets the timer": ("(*_drop(tunnel), Timer(nxt.ask, seconds))", "_drop(tunnel)"),
    "forgets to ask": ("return nxt, (Ask(nxt.ask, after, min(after, soon), soon),)", "return nxt, ()"),
    "asks under an old number": ("(Ask(nxt.ask,", "(Ask(tunnel.ask,"),
    "hears a link that is gone": ("tunnel.phase not in HAS_LINK or event.link != tunnel.link", "False"),
    "takes a late answer": ("ALIVE or event.ask != tunnel.ask:\n        return tunnel, ()\n    rtt", "ALIVE:\n        return tunnel, ()\n    rtt"),
    "takes a late timer": ("PAUSED or event.ask != tunnel.ask", "PAUSED"),
    "takes a late confirmation": ("is not Phase.CONNECTING or event.link != tunnel.link", "is not Phase.CONNECTING"),
    "wakes what is down": ("(Phase.DOWN, Phase.HALTED):\n        return tunnel, ()\n    if tunnel.phase in ALIVE:", "():\n        return tunnel, ()\n    if tunnel.phase in ALIVE:"),
    "reconnects what is down": ("    if tunnel.phase is Phase.DOWN:\n        return tunnel, ()\n    if isinstance(event, ConfigChanged)", "    if isinstance(event, ConfigChanged)"),
    "retries a changed host key": ("cause.verdict is Verdict.HALT", "False"),
    "hurries a refused key": ("return slow and (", "return False and ("),
    "retries a refused key as any other": ("cause.verdict is Verdict.RETRY_SLOWLY:\n        return _pause", "False:\n        return _pause"),
    "lets callers wait as long as nobody": ("policy.backoff_waiting if tunnel.waiting else policy.backoff_idle", "policy.backoff_idle"),
    "does not hurry for somebody who begins to wait": ("begins = event.waiting and not tunnel.waiting", "begins = False"),
    "moves `since` without the phase": ("tunnel.since if phase is tunnel.phase else now", "now"),
    "announces no time": ("_enter(tunnel, phase, now, now + seconds)", "_enter(tunnel, phase, now)"),
    "doubts without asking at once": ("_ask(tunnel, Phase.DOUBTFUL, now, policy, after=0.0)", "_ask(tunnel, Phase.DOUBTFUL, now, policy, after=15.0)"),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKS)
def test_a_walk_notices_a_machine_that(name: str) -> None:
    """The same walks over a machine that is broken on purpose fail: they are not blind."""
    sound, broken = BREAKS[name]
    source = Path(machine.__file__).read_text(encoding="utf-8")
    assert sound in source, "the machine has been rewritten: break it in its new words"
    module = types.ModuleType("broken")
    module.__dict__["__name__"] = machine.__name__  # dataclasses look their module up
    exec(compile(source.replace(sound, broken), "<broken>", "exec"), module.__dict__)
    with pytest.raises(AssertionError):
        walk_often(module.step)
