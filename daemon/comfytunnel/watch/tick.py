"""A slow tick that notices sleep: on Linux a timerfd on CLOCK_BOOTTIME, which fires at once on resume.

asyncio's own timers stand still in sleep and go on where they stood, so elsewhere, and where the kernel refuses the timer, the tick
after a sleep comes up to one interval late. Nothing in this room polls faster than this tick.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
from collections.abc import Callable

import structlog

from comfytunnel.watch.sleep import BOOTTIME

log = structlog.get_logger(__name__)

TICK = 5.0  # seconds; wakes the processor 17,280 times a day, and finds a sleep soon enough where no other sign does
COUNT_BYTES = 8  # timerfd_create(2): a read gives the number of expirations as 64 bits


async def tick(on_tick: Callable[[], None], interval: float = TICK) -> None:
    """Call `on_tick` every `interval` seconds until cancelled; ticks that were missed are one."""
    try:
        timer = boottime_timer(interval)
    except OSError as error:
        if sys.platform == "linux":
            log.debug("no timer on CLOCK_BOOTTIME, so an ordinary one ticks", error=str(error))
        while True:
            await asyncio.sleep(interval)
            on_tick()
    loop = asyncio.get_running_loop()
    fired = asyncio.Event()
    try:
        loop.add_reader(timer, _drain, timer, fired)
        while True:
            await fired.wait()
            fired.clear()
            on_tick()
    finally:
        loop.remove_reader(timer)
        os.close(timer)


def _drain(timer: int, fired: asyncio.Event) -> None:
    try:
        os.read(timer, COUNT_BYTES)
    except BlockingIOError:  # read before: this wake-up was not the timer's
        return
    fired.set()


def boottime_timer(interval: float) -> int:
    """A non-blocking descriptor that becomes readable every `interval` seconds of CLOCK_BOOTTIME. The caller closes it.

    Raises OSError where the platform has none or refuses it.
    """
    if sys.platform != "linux":
        raise OSError("only Linux has timerfd")
    if sys.version_info >= (3, 13):
        timer = os.timerfd_create(BOOTTIME, flags=os.TFD_NONBLOCK | os.TFD_CLOEXEC)
        try:
            os.timerfd_settime(timer, initial=interval, interval=interval)
        except OSError:
            os.close(timer)
            raise
        return timer
    return _boottime_timer_by_libc(interval)


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("first", _Timespec))


def _boottime_timer_by_libc(interval: float) -> int:
    """The same before Python 3.13."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "timerfd_create"):
        raise OSError("the C library has no timerfd")
    # TFD_NONBLOCK and TFD_CLOEXEC are O_NONBLOCK and O_CLOEXEC by definition.
    timer: int = libc.timerfd_create(BOOTTIME, os.O_NONBLOCK | os.O_CLOEXEC)
    if timer < 0:
        raise _last_error()
    whole, fraction = divmod(interval, 1.0)
    span = _Timespec(int(whole), int(fraction * 1e9))
    if libc.timerfd_settime(timer, 0, ctypes.byref(_Itimerspec(span, span)), None) < 0:
        error = _last_error()
        os.close(timer)
        raise error
    return timer


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
