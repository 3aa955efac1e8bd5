"""Random walks over a machine: a world that follows its effects, does what worlds do, and checks what must always hold.

The machine is an argument, so that the same walks can be sent over broken ones. No asyncio and no real clock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from comfytunnel.tunnel.machine import Policy, Step
from comfytunnel.tunnel.state import (
    AboutToSleep,
    Answered,
    Ask,
    Cause,
    Code,
    ConfigChanged,
    Demand,
    DropLink,
    Effect,
    Elapsed,
    Event,
    Lost,
    Opened,
    OpenLink,
    Phase,
    Reconnect,
    Route,
    RouteChanged,
    Timer,
    TrustChanged,
    Tunnel,
    Unanswered,
    Verdict,
    Want,
    Woke,
)

Machine = Callable[[Tunnel, Event, float, Policy], Step]

PAUSED = (Phase.WAITING, Phase.OFFLINE)
ALIVE = (Phase.UP, Phase.DOUBTFUL)
BY_THE_USER = (Want, Reconnect, ConfigChanged, TrustChanged)
ROUTES = (Route(), Route("192.0.2.1", True), Route("192.0.2.2", True), Route(None, True))
CAUSES = tuple(
    Cause(code)
    for code in (
        Code.CONNECT_REFUSED,
        Code.CONNECT_TIMEOUT,
        Code.CONNECTION_LOST,
        Code.DNS_FAILED,
        Code.AUTH_DENIED,
        Code.KEY_UNREADABLE,
        Code.HOST_KEY_CHANGED,
    )
)


@dataclass
class World:
    """One tunnel with its driver and its surroundings, simulated."""

    machine: Machine
    random: Random
    policy: Policy = field(default_factory=Policy)
    now: float = 0.0
    tunnel: Tunnel = field(default_factory=Tunnel)
    link: int | None = None  # the slot of the link: its number, while it is being opened or alive
    alive: bool = False
    question: tuple[int, float] | None = None  # number, when it will have been silent for long enough
    timer: tuple[int, float] | None = None
    slow_until: float = 0.0  # a try has bothered somebody: only the user may hurry the next one
    asleep: bool = False  # the present pause is one before sleep, not one between tries

    def happen(self, event: Event) -> None:
        """The event reaches the machine; its effects are carried out, and all that must hold is checked."""
        before = self.tunnel
        if isinstance(event, Woke):
            self.slow_until -= event.slept
        if isinstance(event, BY_THE_USER):
            self.slow_until = 0.0
        if isinstance(event, Lost) and event.link == self.link:
            self.link, self.alive, self.question = None, False, None
        if isinstance(event, Opened) and event.link == self.link:
            self.alive = True
        if isinstance(event, Lost) and event.cause.verdict is Verdict.RETRY_SLOWLY:
            self.slow_until = self.now + self.policy.slow
        self.tunnel, effects = self.machine(before, event, self.now, self.policy)
        for effect in effects:
            self._carry_out(effect)
        self._check_step(before, event)
        self._check_record()

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case OpenLink(link):
                assert self.link is None, "a second link is wanted beside the first"
                assert self.now >= self.slow_until, "a slow try was hurried by something that is not the user"
                self.link, self.alive = link, False
            case DropLink():
                self.link, self.alive, self.question = None, False, None
            case Ask(ask, after, patience, deadline):
                assert self.alive, "a question without a link to ask"
                assert deadline >= self.policy.answer_floor
                assert patience <= after, "waiting callers are never asked for later"
                self.question = (ask, self.now + after + deadline)
            case Timer(ask, seconds):
                self.timer = (ask, self.now + seconds)

    def _check_step(self, before: Tunnel, event: Event) -> None:
        after = self.tunnel
        assert (after.since == before.since) or (
            after.phase is not before.phase and after.since == self.now
        ), "`since` moves with the phase and only with it"
        if after.phase is not before.phase:
            assert after.since == self.now
            self.asleep = isinstance(event, AboutToSleep)
        if before.phase is Phase.DOWN and after.phase is not Phase.DOWN:
            assert event == Want(True), "down stays down"
        if before.phase is Phase.HALTED and after.phase is not Phase.HALTED:
            assert isinstance(event, BY_THE_USER), "only the user leaves halted"
        if isinstance(event, Lost):
            halts = event.cause.verdict is Verdict.HALT
            assert (after.phase is Phase.HALTED) is halts, "halted for a reason that halts and for no other"
            assert after.cause == event.cause
        assert after.wanted is (event.up if isinstance(event, Want) else before.wanted)

    def _check_record(self) -> None:
        tunnel = self.tunnel
        assert tunnel.wanted is (tunnel.phase is not Phase.DOWN), "what is follows what is wanted"
        assert (tunnel.until is not None) is (tunnel.phase in PAUSED)
        if tunnel.phase is Phase.CONNECTING:
            assert (self.link, self.alive) == (tunnel.link, False), "connecting to nothing: stuck"
        elif tunnel.phase in ALIVE:
            assert (self.link, self.alive) == (tunnel.link, True), "up without a link"
            assert self.question is not None, "nothing will tell when this link dies: stuck"
            assert self.question[0] == tunnel.ask, "the answer would be taken for a late one: stuck"
            if tunnel.phase is Phase.DOUBTFUL:
                soon = self.now + self.policy.deadline(tunnel.rtt)
                assert self.question[1] <= soon + 1e-6, "doubt must be settled at once"
        else:
            assert self.link is None, "a link that nobody wants"
        if tunnel.until is not None:
            assert self.timer is not None, "nothing will end this pause: stuck"
            assert self.timer[0] == tunnel.ask, "the end of the pause would be taken for a late one: stuck"
            assert abs(self.timer[1] - tunnel.until) < 1e-6, "what is announced is not what will happen"
            self._check_pause(tunnel.until - self.now)

    def _check_pause(self, seconds: float) -> None:
        tunnel = self.tunnel
        limit = self.policy.asleep if self.asleep else 30.0
        if tunnel.phase is Phase.WAITING and tunnel.waiting and not self.asleep and not self.is_slow:
            limit = 2.0
        assert seconds <= limit + 1e-6, f"{seconds} s between tries"

    @property
    def is_slow(self) -> bool:
        cause = self.tunnel.cause
        return cause is not None and cause.verdict is Verdict.RETRY_SLOWLY

    # --- what may happen --------------------------------------------------------------------------------------------

    def wander(self) -> None:
        """One random thing happens."""
        if self.random.random() < 0.5:
            self._go_on()
            return
        self.now += self.random.choice((0.0, 0.01, 0.3, 1.0, 5.0))
        self._skip_to_what_is_due()
        kind = self.random.randrange(12)
        if kind == 0:
            self.happen(Want(self.random.random() < 0.7))
        elif kind == 1:
            self.happen(self.random.choice((Reconnect(), ConfigChanged(), TrustChanged())))
        elif kind in (2, 3, 4):
            orphaned = self.tunnel.phase in ALIVE and self.random.random() < 0.3
            self.happen(RouteChanged(self.random.choice(ROUTES), orphaned))
        elif kind == 5:
            self.happen(Woke(self.random.choice((1.0, 20.0, 3600.0))))
        elif kind == 6:
            self.happen(AboutToSleep(streaming=self.random.random() < 0.3))
        elif kind in (7, 8):
            self.happen(Demand(self.random.random() < 0.6))
        else:
            self.stale()

    def stale(self) -> None:
        """An answer of the past arrives late and must change nothing at all."""
        before, late = self.tunnel, self.random.randrange(1, 4)
        event = self.random.choice(
            (
                Opened(before.link - late, 0.1),
                Lost(before.link - late, self.random.choice(CAUSES)),
                Answered(before.ask - late, 0.1),
                Unanswered(before.ask - late),
                Elapsed(before.ask - late),
                # Numbers that are right in a phase that has dropped what they belong to.
                *((Opened(before.link), Lost(before.link, CAUSES[0])) if self.link is None else ()),
                *((Answered(before.ask), Unanswered(before.ask)) if self.question is None else ()),
                *((Elapsed(before.ask),) if before.until is None else ()),
            )
        )
        after, effects = self.machine(before, event, self.now, self.policy)
        assert (after, effects) == (before, ()), f"a late {event} changed something"

    def _go_on(self) -> None:
        """Whatever is outstanding brings its event, good or bad."""
        kind = self.random.random() < 0.5
        if self.tunnel.phase is Phase.CONNECTING:
            self.now += self.random.choice((0.05, 1.0, 10.0))
            rtt = self.random.choice((None, 0.02, 0.8))
            self.happen(
                Opened(self.tunnel.link, rtt) if kind else Lost(self.tunnel.link, self.random.choice(CAUSES))
            )
        elif self.tunnel.phase in ALIVE and self.random.random() < 0.4:
            self.now += self.random.choice((0.5, 100.0)) if self.tunnel.phase is Phase.UP else 0.1
            self.happen(Lost(self.tunnel.link, self.random.choice(CAUSES)))
        elif self.question is not None:
            ask, due = self.question
            self.now = max(self.now, due - 0.5 if kind else due)
            self.happen(Answered(ask, self.random.choice((None, 0.05))) if kind else Unanswered(ask))
        elif self.tunnel.until is not None:
            self._ring()

    def _skip_to_what_is_due(self) -> None:
        if self.tunnel.until is not None and self.now >= self.tunnel.until:
            self.now = self.tunnel.until
            self._ring()

    def _ring(self) -> None:
        assert self.timer is not None
        ask, due = self.timer
        self.now = max(self.now, due)
        self.timer = None
        self.happen(Elapsed(ask))

    def be_kind(self, patience: int) -> None:
        """The user wants the tunnel, the route is usable, and every answer is good: up, within so many events."""
        self.happen(Want(True))
        self.happen(RouteChanged(ROUTES[1]))
        for _ in range(patience):
            match self.tunnel.phase:
                case Phase.UP:
                    return
                case Phase.CONNECTING:
                    self.happen(Opened(self.tunnel.link, 0.1))
                case Phase.DOUBTFUL:
                    self.happen(Answered(self.tunnel.ask))
                case Phase.WAITING | Phase.OFFLINE:
                    self._ring()
                case other:
                    raise AssertionError(f"{other} in a kind world")
        assert self.tunnel.phase is Phase.UP, "a kind world does not lead to up"

    def be_unkind(self, times: int) -> None:
        """Nothing listens at the far end for so many tries; meanwhile somebody begins to wait."""
        self.happen(Want(True))
        self.happen(RouteChanged(ROUTES[2]))
        self.happen(Reconnect())
        self.happen(Demand(False))
        for number in range(times):
            if self.tunnel.until is not None:
                self._ring()
            self.happen(Lost(self.tunnel.link, CAUSES[0]))
            if number % 3 == 2:
                self.happen(Demand(True))
                self.happen(Demand(False))


def walk(machine: Machine, seed: int, steps: int) -> set[Phase]:
    """A walk of so many steps, with a kind interlude now and then; the phases that it saw. Raises AssertionError."""
    world = World(machine, Random(seed), Policy(seed=seed))
    seen = set()
    for number in range(steps):
        world.wander()
        seen.add(world.tunnel.phase)
        if number % 100 == 50:
            world.be_kind(patience=3)
        if number % 100 == 99:
            world.be_unkind(times=12)
    return seen
