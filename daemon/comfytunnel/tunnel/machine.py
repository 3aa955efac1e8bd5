"""Every decision about a link, and nothing else: step(tunnel, event, now, policy) -> (tunnel, effects).

No I/O, no clock, no asyncio, no randomness: the time is an argument and the jitter is drawn from the policy's seed, so
every cell of (phase x event) can be tested and walked at random. What is not in this file does not decide.

The rules: down means unwanted. A link is opened only in Connecting, and there is never more than one. Every link and every
question has a number, and a late answer changes nothing. Doubt is settled by a question through the live link, not by a
guess. The world (a route, a wake, the user, the config) resets the back-off; a link that dies young does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

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

Step = tuple[Tunnel, tuple[Effect, ...]]


@dataclass(frozen=True, slots=True)
class Policy:
    """All times in seconds. Each default says why."""

    keepalive: float = 15.0  # silence after which we ask, as the ServerAliveInterval=15 that we replace
    answer_floor: float = 1.0  # a question is never given less: a busy far side schedules in bursts
    answer_rtts: float = 4.0  # and never less than four round trips: loss and retransmission take three
    backoff_base: float = 0.5  # cap of the second retry; it doubles from there
    backoff_waiting: float = 2.0  # with somebody waiting, the next try is never further away
    backoff_idle: float = 30.0  # nobody waits: do not wake the radio more often
    backoff_floor: float = 0.1  # full jitter may draw zero; a refused connection must not become a busy loop
    slow: float = (
        30.0  # at most two tries a minute where each one bothers a person or is counted by the server
    )
    offline: float = 30.0  # tried even without a route, so that a lost bell costs seconds and not the day
    asleep: float = 60.0  # if the announced sleep does not come
    young: float = 60.0  # a link that lived less proves nothing
    seed: int = 0

    def deadline(self, rtt: float | None) -> float:
        """How long a question may stay unanswered; and how long the link may be silent while somebody waits, before we ask."""
        return max(self.answer_floor, self.answer_rtts * (rtt or 0.0))


def step(tunnel: Tunnel, event: Event, now: float, policy: Policy) -> Step:
    """The next record and what the driver must do, in order. Never raises, whatever the event."""
    rule = _RULES[type(event)]
    return rule(tunnel, event, now, policy)


HAS_LINK = frozenset({Phase.CONNECTING, Phase.UP, Phase.DOUBTFUL})
ALIVE = frozenset({Phase.UP, Phase.DOUBTFUL})
PAUSED = frozenset({Phase.WAITING, Phase.OFFLINE})

# --- moves: each enters one phase -----------------------------------------------------------------------------------


def _enter(tunnel: Tunnel, phase: Phase, now: float, until: float | None = None) -> Tunnel:
    since = tunnel.since if phase is tunnel.phase else now
    return replace(tunnel, phase=phase, since=since, until=until)


def _drop(tunnel: Tunnel) -> tuple[Effect, ...]:
    return (DropLink(),) if tunnel.phase in HAS_LINK else ()


def _connect(tunnel: Tunnel, now: float, *, fresh: bool = False) -> Step:
    """A new link, now. `fresh`: the world has changed, so the failures before say nothing any more."""
    nxt = replace(
        _enter(tunnel, Phase.CONNECTING, now),
        link=tunnel.link + 1,
        failures=0 if fresh else tunnel.failures,
        ask=tunnel.ask + 1,
    )
    return nxt, (*_drop(tunnel), OpenLink(nxt.link))


def _pause(tunnel: Tunnel, phase: Phase, now: float, seconds: float) -> Step:
    nxt = replace(_enter(tunnel, phase, now, now + seconds), ask=tunnel.ask + 1)
    return nxt, (*_drop(tunnel), Timer(nxt.ask, seconds))


def _ask(tunnel: Tunnel, phase: Phase, now: float, policy: Policy, after: float) -> Step:
    nxt = replace(_enter(tunnel, phase, now), ask=tunnel.ask + 1)
    soon = policy.deadline(tunnel.rtt)
    return nxt, (Ask(nxt.ask, after, min(after, soon), soon),)


def _fail(tunnel: Tunnel, cause: Cause, now: float, policy: Policy) -> Step:
    """The link is gone, never came up, or is given up: what follows from the cause and from how long it lived."""
    old = tunnel.phase in ALIVE and now - tunnel.opened_at >= policy.young
    tunnel = replace(tunnel, cause=cause, failures=1 if old else tunnel.failures + 1)
    if cause.verdict is Verdict.HALT:
        return replace(_enter(tunnel, Phase.HALTED, now), ask=tunnel.ask + 1), _drop(tunnel)
    if cause.verdict is Verdict.RETRY_SLOWLY:
        return _pause(tunnel, Phase.WAITING, now, policy.slow)
    if not tunnel.route.usable:
        return _pause(tunnel, Phase.OFFLINE, now, policy.offline)
    if tunnel.failures == 1:
        return _connect(tunnel, now)
    return _pause(tunnel, Phase.WAITING, now, _backoff(tunnel, policy))


def _backoff(tunnel: Tunnel, policy: Policy) -> float:
    """Full jitter: evenly between nothing and a cap that doubles with each failure."""
    cap = policy.backoff_waiting if tunnel.waiting else policy.backoff_idle
    exponent = min(tunnel.failures - 2, 16)
    ceiling = min(cap, policy.backoff_base * 2.0**exponent)
    draw = Random(f"{policy.seed}/{tunnel.link}").random()  # noqa: S311 - jitter, not a secret
    return max(policy.backoff_floor, draw * ceiling)


# --- rules: one function an event -----------------------------------------------------------------------------------


def _want(tunnel: Tunnel, event: Want, now: float, policy: Policy) -> Step:
    tunnel = replace(tunnel, wanted=event.up)
    if not event.up:
        if tunnel.phase is Phase.DOWN:
            return tunnel, ()
        down = replace(_enter(tunnel, Phase.DOWN, now), cause=None, failures=0, ask=tunnel.ask + 1)
        return down, _drop(tunnel)
    if tunnel.phase in HAS_LINK:
        return tunnel, ()
    return _connect(tunnel, now, fresh=True)


def _reconnect(tunnel: Tunnel, event: Reconnect | ConfigChanged, now: float, policy: Policy) -> Step:
    if tunnel.phase is Phase.DOWN:
        return tunnel, ()
    if isinstance(event, ConfigChanged):
        tunnel = replace(tunnel, cause=None, route=Route())  # the old endpoint's are nothing to the new one
    return _connect(replace(tunnel, rtt=None), now, fresh=True)


def _trust_changed(tunnel: Tunnel, event: TrustChanged, now: float, policy: Policy) -> Step:
    """A try that is under way may have read the old file; a live link has not been asked to trust anybody else."""
    if tunnel.phase in PAUSED or tunnel.phase in (Phase.CONNECTING, Phase.HALTED):
        return _connect(tunnel, now, fresh=True)
    return tunnel, ()


def _route_changed(tunnel: Tunnel, event: RouteChanged, now: float, policy: Policy) -> Step:
    same = event.route == tunnel.route
    tunnel = replace(tunnel, route=event.route)
    if tunnel.phase in (Phase.DOWN, Phase.HALTED):
        return tunnel, ()
    if tunnel.phase in ALIVE and event.orphaned:
        tunnel = replace(
            tunnel, cause=Cause(Code.CONNECTION_LOST, "the local address of the connection is gone.")
        )
    elif tunnel.phase in ALIVE:  # the same route too: it may have been another one in between
        return _ask(tunnel, Phase.DOUBTFUL, now, policy, after=0.0)
    elif same:
        return tunnel, ()
    if _must_be_slow(tunnel, now):
        return tunnel, ()
    if not event.route.usable:
        return _pause(replace(tunnel, cause=Cause(Code.NO_ROUTE)), Phase.OFFLINE, now, policy.offline)
    return _connect(tunnel, now, fresh=True)


def _woke(tunnel: Tunnel, event: Woke, now: float, policy: Policy) -> Step:
    if tunnel.phase in (Phase.DOWN, Phase.HALTED):
        return tunnel, ()
    if tunnel.phase in ALIVE:
        return _ask(tunnel, Phase.DOUBTFUL, now, policy, after=0.0)
    if _must_be_slow(tunnel, now + event.slept):
        return tunnel, ()
    return _connect(tunnel, now, fresh=True)


def _must_be_slow(tunnel: Tunnel, now: float) -> bool:
    """A try that bothers somebody waits for its time and runs its course whatever the world does; only the user can hurry it."""
    slow = tunnel.cause is not None and tunnel.cause.verdict is Verdict.RETRY_SLOWLY
    early = tunnel.phase is Phase.WAITING and tunnel.until is not None and now < tunnel.until
    return slow and (early or tunnel.phase is Phase.CONNECTING)


def _about_to_sleep(tunnel: Tunnel, event: AboutToSleep, now: float, policy: Policy) -> Step:
    if tunnel.phase not in ALIVE or event.streaming:
        return tunnel, ()
    return _pause(replace(tunnel, cause=None), Phase.WAITING, now, policy.asleep)


def _demand(tunnel: Tunnel, event: Demand, now: float, policy: Policy) -> Step:
    begins = event.waiting and not tunnel.waiting
    tunnel = replace(tunnel, waiting=event.waiting)
    if not begins or tunnel.phase is not Phase.WAITING or tunnel.until is None or _must_be_slow(tunnel, now):
        return tunnel, ()
    seconds = min(tunnel.until - now, _backoff(tunnel, policy))
    return _pause(tunnel, Phase.WAITING, now, max(policy.backoff_floor, seconds))


def _opened(tunnel: Tunnel, event: Opened, now: float, policy: Policy) -> Step:
    if tunnel.phase is not Phase.CONNECTING or event.link != tunnel.link:
        return tunnel, ()
    tunnel = replace(tunnel, opened_at=now, rtt=event.rtt, cause=None)
    return _ask(tunnel, Phase.UP, now, policy, after=policy.keepalive)


def _lost(tunnel: Tunnel, event: Lost, now: float, policy: Policy) -> Step:
    if tunnel.phase not in HAS_LINK or event.link != tunnel.link:
        return tunnel, ()
    return _fail(tunnel, event.cause, now, policy)


def _answered(tunnel: Tunnel, event: Answered, now: float, policy: Policy) -> Step:
    if tunnel.phase not in ALIVE or event.ask != tunnel.ask:
        return tunnel, ()
    rtt = tunnel.rtt if event.rtt is None else event.rtt
    return _ask(replace(tunnel, rtt=rtt), Phase.UP, now, policy, after=policy.keepalive)


def _unanswered(tunnel: Tunnel, event: Unanswered, now: float, policy: Policy) -> Step:
    if tunnel.phase not in ALIVE or event.ask != tunnel.ask:
        return tunnel, ()
    return _fail(tunnel, Cause(Code.CONNECTION_LOST, "the other side went silent."), now, policy)


def _elapsed(tunnel: Tunnel, event: Elapsed, now: float, policy: Policy) -> Step:
    if tunnel.phase not in PAUSED or event.ask != tunnel.ask:
        return tunnel, ()
    return _connect(tunnel, now)


_RULES: dict[type[Event], Callable[..., Step]] = {
    Want: _want,
    Reconnect: _reconnect,
    ConfigChanged: _reconnect,
    TrustChanged: _trust_changed,
    RouteChanged: _route_changed,
    Woke: _woke,
    AboutToSleep: _about_to_sleep,
    Demand: _demand,
    Opened: _opened,
    Lost: _lost,
    Answered: _answered,
    Unanswered: _unanswered,
    Elapsed: _elapsed,
}
