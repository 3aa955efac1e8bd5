"""How large receive windows are: pure policy, which knows no asyncssh and has no clock.

A window that is too small wastes a long fat path, one that is too large is a queue in front of everything else on a thin one. `Pace`
is what a link has learned of its line; the shares keep one channel from taking what all must live on. Carried out in flow.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

LEAST = 64 << 10  # bytes, of each channel at any time; 256 KiB are a queue of 1 s at 2 Mbit/s, measured
MOST = 32 << 20  # bytes of one channel; 107-129 MB/s at 100 ms round trip, measured
BUDGET = 64 << 20  # bytes over all channels of a link: what a hostile far side can make us keep
CROWD = 24 << 20  # bytes of it that no transfer gets: 384 callers with the least
FIRST = 256 << 10  # bytes; to begin with, on a line that has not been used yet: 1 s at 2 Mbit/s
NEAR = (
    2 << 20
)  # bytes; the same where the first answer took less than 2 x SHORT: as OpenSSH; 16 MiB are slower there
GREETING_MOST = 1 << 20  # bytes; most answers are smaller, and whoever is idle keeps what it was given

SHORT = 0.005  # seconds; a shorter round trip counts as this. Twice that gave loopback 16 MiB, and TCP stalls of 200 ms, measured
SLACK = 0.05  # seconds; a round trip that a transfer makes longer by less is nobody's concern
FULL = 0.75  # of the window, moved in one idle round trip: the window is what limits the transfer
CALM = 4.0  # seconds of transfer after a halving before the window may grow again
TRIAL = 15.0  # the same before a larger window is tried although the line seems filled
UNMOVED = 1.5  # times the round trip before a trial; up to there the larger window has not made it longer


@dataclass(frozen=True, slots=True)
class Pace:
    """What is known of a line. Seconds and bytes."""

    window: int = FIRST  # what one transfer needs
    idle: float | None = None  # round trip when nothing else is under way
    loaded: float | None = None  # the newest round trip beside a transfer
    speed: float = 0.0  # bytes per second of the newest transfer that had `window`
    calm: float = TRIAL  # of transfer since the last halving
    trial: float | None = None  # the round trip before the trial that is under way

    @property
    def round_trip(self) -> float:
        """The idle one, as far as it matters."""
        return max(SHORT, self.idle or 0.0)

    @property
    def limit(self) -> float:
        """A round trip beside a transfer that is longer shows a queue: twice the idle one, and SLACK at least."""
        return self.round_trip + max(SLACK, self.round_trip)


def rested(pace: Pace, rtt: float) -> Pace:
    """A round trip of `rtt` seconds while nothing else was under way. Shorter ones count at once, longer ones bit by bit."""
    if pace.idle is None:
        return replace(pace, idle=rtt, window=NEAR if rtt < 2 * SHORT else pace.window)
    return replace(pace, idle=min(rtt, pace.idle + (rtt - pace.idle) / 8))


def moved(pace: Pace, window: int, received: int, seconds: float) -> Pace:
    """A transfer with `window` has received so much in so many seconds, about one round trip: is it limited by its window?"""
    pace = replace(pace, calm=min(TRIAL, pace.calm + seconds))
    if window < pace.window:
        return pace
    speed = received / seconds
    pace = replace(pace, speed=speed)
    if pace.window >= MOST or pace.trial is not None or pace.calm < CALM:
        return pace
    if speed * pace.round_trip >= FULL * window:
        return replace(pace, window=min(MOST, 2 * pace.window))
    # Bytes take as long as answers, too long both. A queue, or a longer path than we know: a larger window will show it.
    beside = pace.loaded or 0.0
    waits_as_long = FULL * window <= speed * beside <= 2 * window
    if pace.calm >= TRIAL and beside > pace.limit and waits_as_long:
        return replace(pace, window=min(MOST, 2 * pace.window), trial=beside)
    return pace


def answered(pace: Pace, rtt: float) -> Pace:
    """A question beside a transfer was answered after `rtt` seconds. Halves the window if it is what fills the line."""
    before = pace.trial
    pace = replace(pace, loaded=rtt, trial=None, idle=rtt if pace.idle is None else min(pace.idle, rtt))
    if rtt <= pace.limit or pace.window <= max(LEAST, pace.speed * pace.limit):
        return pace
    if before is not None and rtt <= UNMOVED * before:
        return replace(pace, idle=rtt)
    return replace(pace, window=max(LEAST, pace.window // 2), calm=0.0, loaded=None)


def greeting(pace: Pace, free: int) -> int:
    """Bytes for a channel that a caller has just got, of `free` that nobody has: little in a crowd."""
    return max(LEAST, min(pace.window, GREETING_MOST, (free - CROWD) // 32))


def transfer(pace: Pace, free: int) -> int:
    """Bytes for a channel that moves bulk; `free` counts what it has itself. One alone gets MOST, n get 32/(n + 1/4) MiB
    each, and there is always something left for those who come next (Choudhury and Hahne's dynamic thresholds)."""
    return max(LEAST, min(pace.window, MOST, (free - CROWD) * 4 // 5))


def step(window: int) -> int:
    """Bytes that are passed on before as many are granted again. Few where every byte of the window counts; each grant is two
    packets, and on a fast line their cost does."""
    return window >> (3 if window <= FIRST else 2)
