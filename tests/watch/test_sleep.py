"""Sleep seen by two clocks: injected ones, and the kernel's own in a time namespace that jumps."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from comfytunnel.watch.sleep import (
    LATE_LEAST,
    PAIRS,
    SLEPT_LEAST,
    Clocks,
    Look,
    Sleep,
    late,
    platform_clocks,
    sign,
)
from tests.watch.conftest import DEADLINE, need, ours


@dataclass
class Pair:
    """Two clocks that move when told."""

    through: float = 1000.0
    running: float = 50.0

    def pass_(self, *, awake: float = 0.0, asleep: float = 0.0) -> None:
        self.through += awake + asleep
        self.running += awake

    def sleep(self) -> Sleep:
        return Sleep(Clocks(lambda: self.through, lambda: self.running))


def test_time_awake_is_no_sleep() -> None:
    pair = Pair()
    sleep = pair.sleep()
    pair.pass_(awake=3600)
    assert sleep.look() == Look(slept=0.0, ran=3600.0)


def test_a_sleep_is_told_once_and_by_its_length() -> None:
    pair = Pair()
    sleep = pair.sleep()
    pair.pass_(awake=2, asleep=600)
    assert sleep.slept() == 600
    assert sleep.slept() == 0


def test_two_clocks_that_are_read_a_moment_apart_do_not_look_like_sleep() -> None:
    pair = Pair()
    sleep = pair.sleep()
    pair.pass_(asleep=SLEPT_LEAST * 0.9)
    assert sleep.slept() == 0


@pytest.mark.parametrize(
    ("ran", "seconds"), [(5.0, 0.0), (5.0 + LATE_LEAST * 0.9, 0.0), (5.0 + LATE_LEAST, LATE_LEAST), (605.0, 600.0), (0.0, 0.0)]
)  # fmt: skip
def test_a_tick_is_late_only_far_beyond_what_a_busy_machine_does(ran: float, seconds: float) -> None:
    assert late(ran, 5.0) == seconds


@pytest.mark.parametrize(
    ("look", "told"),
    [
        (Look(slept=0.0, ran=5.0), None),
        (Look(slept=600.0, ran=5.0), (600.0, "the clocks")),
        (Look(slept=0.0, ran=605.0), (600.0, "a late tick")),
        (Look(slept=600.0, ran=605.0), (600.0, "the clocks")),
    ],
)
def test_either_sign_suffices_and_the_clocks_come_first(look: Look, told: tuple[float, str] | None) -> None:
    assert sign(look, 5.0) == told


def test_the_real_clocks_run_and_show_no_sleep_while_a_test_runs() -> None:
    sleep = Sleep()
    assert sleep.slept() == 0
    assert sleep.now() > 0


def test_a_platform_without_a_pair_never_sees_a_sleep() -> None:
    clocks = platform_clocks("sunos5")
    assert clocks.running() <= clocks.through() < clocks.running() + 1
    assert sys.platform not in ("linux", "darwin") or sys.platform in PAIRS


JUMP = """
import ctypes, os, sys
from comfytunnel.watch.sleep import Sleep
sleep = Sleep()
assert sleep.slept() == 0
libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWTIME = 0x80
space = os.open(f"/proc/{sys.argv[1]}/ns/time", os.O_RDONLY)
if libc.setns(space, CLONE_NEWTIME):
    sys.exit(os.strerror(ctypes.get_errno()))
print(sleep.slept(), sleep.slept())
"""


async def test_a_jump_of_the_kernels_own_clock_is_a_sleep_of_that_length() -> None:
    need("unshare", root=True)
    if not Path("/proc/self/ns/time").exists():
        pytest.skip("needs a kernel with time namespaces")
    holder = await asyncio.create_subprocess_exec(
        "unshare", "--time", "--boottime", "600", "--fork", "--kill-child", "sh", "-c", "echo $$; exec sleep 30",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert holder.stdout is not None
        async with asyncio.timeout(DEADLINE):
            inside = (await holder.stdout.readline()).decode().strip()
            jumper = await asyncio.create_subprocess_exec(
                sys.executable, "-c", JUMP, inside,
                env=ours(), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            out, err = await jumper.communicate()
    finally:
        holder.kill()
        await holder.wait()
    assert jumper.returncode == 0, err.decode()
    first, second = (float(word) for word in out.split())
    assert first == pytest.approx(600, abs=1)
    assert second == 0
