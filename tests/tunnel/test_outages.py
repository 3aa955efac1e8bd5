"""What counts as an outage, and what its record says: the real machine on hand-made sequences, its steps told to a ledger."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from comfytunnel.tunnel.machine import Policy, Step, step
from comfytunnel.tunnel.outages import Callers, Ledger, Moved, Outage, Sign
from comfytunnel.tunnel.state import (
    AboutToSleep,
    Answered,
    Cause,
    Code,
    ConfigChanged,
    Elapsed,
    Event,
    Lost,
    Opened,
    Phase,
    Reconnect,
    Route,
    RouteChanged,
    Tunnel,
    Unanswered,
    Want,
    Woke,
)
from tests.tunnel.walks import walk

START = datetime(2026, 1, 2, tzinfo=UTC)
RESET = Cause(Code.CONNECTION_LOST, "reset.")
REFUSED = Cause(Code.CONNECT_REFUSED)
HERE, ELSEWHERE, NOWHERE = (Route(address, True) for address in ("192.0.2.1", "198.51.100.1", None))


class Life:
    """A tunnel's life, told by hand. `heard` and `callers` are what the driver and the door would say."""

    def __init__(self, *events: Event, at: float = 0.0) -> None:
        self.tunnel = Tunnel()
        self.now = at
        self.heard: float | None = None
        self.callers = Callers()
        self.ledger = Ledger()
        self.ended: list[Outage] = []
        self.tell(*events)

    def tell(self, *events: Event, after: float = 0.0) -> None:
        """These happen `after` seconds from now, all at once; a try's number is filled in."""
        self.now += after
        for told in events:
            event = told
            if isinstance(event, Opened):
                event = Opened(self.tunnel.link, 0.01)
                self.heard = self.now
            elif isinstance(event, Lost):
                event = Lost(self.tunnel.link, event.cause)
            elif isinstance(event, Answered | Unanswered | Elapsed):
                event = type(event)(self.tunnel.ask)
            before = self.tunnel
            self.tunnel, _ = step(before, event, self.now, Policy())
            moved = Moved(before, event, self.tunnel, self.now, self.heard)
            ended = self.ledger.saw(moved, self.wall, self.callers)
            self.ended += [ended] if ended else []

    @property
    def present(self) -> Sign | None:
        return None if self.ledger.open is None else self.ledger.open.sign

    @property
    def wall(self) -> datetime:
        return START + timedelta(seconds=self.now)


def up(at: float = 0.0) -> Life:
    return Life(Want(True), Opened(0), at=at)


def times(outage: Outage) -> tuple[float, float, float | None]:
    """Seconds to detect, to recover, in all."""
    assert outage.until is not None
    return outage.known - outage.heard, outage.until - outage.known, outage.seconds(0)


def test_a_reset_is_known_at_once_and_over_with_the_next_link() -> None:
    life = up()
    life.heard = 40.0
    life.tell(Lost(0, RESET), after=40.0)
    life.tell(Opened(0), after=0.5)
    [outage] = life.ended
    assert (outage.sign, outage.cause, outage.recovered) == (Sign.CLOSED, RESET, True)
    assert times(outage) == (0.0, 0.5, 0.5)
    assert (outage.began, outage.ended) == (START + timedelta(seconds=40), START + timedelta(seconds=40.5))
    assert (outage.attempts, outage.last_failure) == (1, None)


def test_silence_is_counted_from_the_last_byte_and_known_by_a_question() -> None:
    life = up()
    life.heard = 4.0
    life.tell(Unanswered(0), after=20.0)
    life.tell(Opened(0), after=2.0)
    [outage] = life.ended
    assert outage.sign is Sign.QUESTION
    assert times(outage) == (16.0, 2.0, 18.0)
    assert outage.began == START + timedelta(seconds=4)
    assert outage.cause is not None
    assert "silent" in outage.cause.message


@pytest.mark.parametrize(("doubt", "sign"), [(Woke(600.0), Sign.WAKE), (RouteChanged(ELSEWHERE), Sign.ROUTE)])
def test_a_question_that_somebody_raised_is_named_after_it(doubt: Event, sign: Sign) -> None:
    life = up()
    life.tell(doubt)
    assert life.present is None, "doubt is no outage"
    life.tell(Unanswered(0), after=1.0)
    assert life.present is sign


def test_a_doubt_that_was_settled_does_not_name_the_next_silence() -> None:
    life = up()
    life.tell(Woke(600.0), Answered(0), Unanswered(0))
    assert life.present is Sign.QUESTION


def test_of_two_doubts_the_newer_one_asks() -> None:
    life = up()
    life.tell(Woke(600.0), RouteChanged(ELSEWHERE), Unanswered(0))
    assert life.present is Sign.ROUTE


def test_an_address_that_is_gone_says_so() -> None:
    life = up()
    life.tell(RouteChanged(ELSEWHERE, orphaned=True), after=3.0)
    life.tell(Opened(0), after=1.0)
    [outage] = life.ended
    assert outage.sign is Sign.ADDRESS_GONE
    assert times(outage) == (3.0, 1.0, 4.0)


def test_a_sleep_is_recorded_as_such_and_is_nobodys_fault() -> None:
    life = up()
    life.tell(AboutToSleep(streaming=False), after=9.0)
    life.tell(Woke(3600.0), after=1.0)
    life.tell(Opened(0), after=1.0)
    [outage] = life.ended
    assert (outage.sign, outage.cause, outage.code) == (Sign.SLEEP, None, "sleep")
    assert times(outage) == (0.0, 2.0, 2.0)


def test_a_sleep_that_leaves_the_link_is_no_outage() -> None:
    life = up()
    life.tell(AboutToSleep(streaming=True), Woke(9.0), Answered(0))
    assert (life.ledger.open, life.ended) == (None, [])


@pytest.mark.parametrize("asked", [Reconnect(), ConfigChanged()])
def test_what_the_user_asked_for_is_no_outage_unless_the_new_link_cannot_be_had(asked: Event) -> None:
    life = up()
    life.tell(asked, after=5.0)
    life.tell(Opened(0), after=1.0)
    assert (life.ledger.open, life.ended) == (None, [])
    life.tell(asked, after=5.0)
    life.tell(Lost(0, REFUSED), after=0.25)
    life.tell(Opened(0), after=1.0)
    [outage] = life.ended
    assert (outage.sign, outage.cause) == (Sign.TRY, REFUSED)
    assert times(outage) == (0.25, 1.0, 1.25)


def test_down_is_no_outage_and_ends_one_unrecovered() -> None:
    life = up()
    life.tell(Want(False), Want(True), Opened(0))
    assert life.ended == []
    life.tell(Lost(0, RESET))
    life.tell(Want(False), after=7.0)
    [outage] = life.ended
    assert (outage.recovered, outage.seconds(0)) == (False, 7.0)
    assert outage.ended is not None
    assert life.ledger.reconnects == {}


def test_never_up_since_the_start_is_an_outage_with_the_last_failure_for_its_cause() -> None:
    life = Life(Want(True), at=100.0)
    life.tell(Lost(0, Cause(Code.DNS_FAILED)), after=2.0)
    life.tell(Lost(0, REFUSED), after=3.0)
    life.tell(Elapsed(0), after=1.0)
    life.tell(Opened(0), after=0.5)
    [outage] = life.ended
    assert (outage.sign, outage.cause, outage.attempts) == (Sign.TRY, REFUSED, 3)
    assert times(outage) == (2.0, 4.5, 6.5)
    assert outage.began == START + timedelta(seconds=100)


def test_a_first_try_that_works_is_no_outage() -> None:
    life = up(at=100.0)
    assert (life.ledger.open, life.ended) == (None, [])


def test_no_route_at_the_start_is_an_outage() -> None:
    life = Life(Want(True), RouteChanged(NOWHERE))
    assert life.tunnel.phase is Phase.OFFLINE
    assert life.ledger.open is not None
    assert life.ledger.open.code == "no_route"
    life.tell(RouteChanged(HERE), Opened(0), after=5.0)
    assert [outage.seconds(0) for outage in life.ended] == [5.0]


def test_what_ended_the_link_stays_the_cause_and_the_last_failure_is_kept_beside_it() -> None:
    life = up()
    life.tell(
        Lost(0, RESET), Lost(0, REFUSED), Elapsed(0), Lost(0, Cause(Code.AUTH_DENIED)), Elapsed(0), Opened(0)
    )
    [outage] = life.ended
    assert (outage.cause, outage.attempts) == (RESET, 3)
    assert outage.last_failure == Cause(Code.AUTH_DENIED)


def test_a_halt_is_an_outage_until_the_user_has_helped() -> None:
    life = up()
    life.tell(Lost(0, RESET), Lost(0, Cause(Code.HOST_KEY_CHANGED)))
    life.tell(Reconnect(), Opened(0), after=30.0)
    [outage] = life.ended
    assert (outage.seconds(0), outage.attempts) == (30.0, 2)


def test_late_news_of_an_older_link_is_nothing() -> None:
    life = up()
    life.tell(Reconnect())
    before = life.tunnel
    stale = Lost(before.link - 1, RESET)
    life.tunnel, _ = step(before, stale, life.now, Policy())
    assert life.ledger.saw(Moved(before, stale, life.tunnel, life.now), life.wall, Callers()) is None
    assert life.ledger.open is None


def test_callers_that_a_dying_link_took_with_it_are_counted_though_they_went_a_moment_earlier() -> None:
    life = up()
    life.callers = Callers(held=2, lost=5)  # lost by the link before this one
    life.tell(Reconnect(), Opened(0))
    life.callers = Callers(held=2, lost=8)
    life.tell(Answered(0))  # an answer that was under way when the link died
    life.tell(Lost(0, RESET))
    life.callers = Callers(held=6, lost=8)
    life.tell(Opened(0))
    assert [(outage.held, outage.lost) for outage in life.ended] == [(4, 3)]


def test_callers_held_in_a_doubt_belong_to_the_outage_that_it_was() -> None:
    life = up()
    life.tell(Woke(9.0))
    life.callers = Callers(held=1)
    life.tell(Unanswered(0), Opened(0))
    assert [outage.held for outage in life.ended] == [1]
    life.tell(Lost(0, RESET), Elapsed(0), Opened(0))
    assert life.ended[1].held == 0, "they are counted once"


def test_the_present_outage_is_counted_up_to_now() -> None:
    life = up()
    life.tell(Lost(0, RESET), Lost(0, REFUSED), after=5.0)
    current = life.ledger.current(Callers(held=3), life.tunnel.link)
    assert current is not None
    assert (current.held, current.attempts, current.ended) == (3, 1, None)
    assert life.ledger.open is not None
    assert life.ledger.open.held == 0


def test_sums_are_by_cause_and_hold_the_present_outage_too() -> None:
    life = up()
    for cause in (RESET, RESET, Cause(Code.PROTOCOL_ERROR)):
        life.tell(Lost(0, cause), after=100.0)
        life.tell(Elapsed(0), Opened(0), after=2.0)
    life.tell(AboutToSleep(False))
    life.tell(Elapsed(0), Opened(0), after=60.0)
    assert life.ledger.reconnects == {"connection_lost": 2, "protocol_error": 1, "sleep": 1}
    before = life.ledger.down_seconds(life.now)
    life.heard = life.now + 99
    life.tell(Lost(0, RESET), after=99.0)
    assert life.ledger.down_seconds(life.now + 5) == before + 5


def test_an_outage_that_goes_on_when_the_daemon_stops_ends_unrecovered() -> None:
    life = up()
    life.tell(Lost(0, RESET))
    ended = life.ledger.close(life.now + 3, life.wall, Callers(held=1), life.tunnel.link)
    assert ended is not None
    assert (ended.recovered, ended.held, ended.seconds(0)) == (False, 1, 3.0)
    assert life.ledger.close(life.now + 4, life.wall, Callers(), life.tunnel.link) is None


@pytest.mark.parametrize("seed", range(10))
def test_on_no_walk_is_a_link_missed_without_an_outage_or_an_outage_open_beside_a_link(seed: int) -> None:
    ledger, ended = Ledger(), list[Outage]()
    down = 0.0

    def watched(tunnel: Tunnel, event: Event, now: float, policy: Policy) -> Step:
        nonlocal down
        after, effects = step(tunnel, event, now, policy)
        wall = START + timedelta(seconds=now)
        outage = ledger.saw(Moved(tunnel, event, after, now, now - 1.0), wall, Callers())
        ended.extend([outage] if outage else [])
        if after.phase in (Phase.UP, Phase.DOUBTFUL, Phase.DOWN):
            assert ledger.open is None
        elif after.phase is not Phase.CONNECTING:
            assert ledger.open is not None, "we wait, and nobody knows for what"
        assert ledger.down_seconds(now) >= down, "a counter never falls"
        down = ledger.down_seconds(now)
        return after, effects

    walk(watched, seed, 500)
    assert ended
    for outage in ended:
        assert outage.ended is not None
        assert outage.until is not None
        assert outage.heard <= outage.known <= outage.until
        assert outage.began <= outage.ended
        assert outage.attempts >= outage.recovered
    assert ledger.reconnects.total() == sum(outage.recovered for outage in ended)
