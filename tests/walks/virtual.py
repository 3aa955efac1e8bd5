"""An event loop whose clock jumps to the next timer when nothing is ready, and in which one process among others can sleep or die.

What a process does, its tasks, timers and callbacks, runs in contexts in which LIFE is that process. Work for threads is done in the loop, some
moments later and for each executor one piece after the other, so a walk depends on its seed alone. Nothing ready and no timer is a deadlock.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from random import Random
from typing import Any, TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

THREAD = 0.002
"""Seconds that a piece of work for a thread waits at most for its turn."""


class Stuck(AssertionError):  # noqa: N818 (an observation)
    """Nothing is ready and nothing will ever be."""


class Killed(BaseException):
    """The process ended here; raised by what it was just doing to the disk."""


class Life:
    """One process. `dead`: nothing of it has an effect any more. `slept`: seconds that its clock is behind the world's."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead = False
        self.slept = 0.0
        self.wakes = 0.0
        self.context = contextvars.copy_context()
        self.context.run(LIFE.set, self)

    @property
    def lives(self) -> bool:
        return not self.dead


LIFE: contextvars.ContextVar[Life | None] = contextvars.ContextVar("life", default=None)


class _Jumping(selectors.SelectSelector):
    """Never waits: what would be waited for is time, and that jumps."""

    jump: Callable[[float], None]

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Stuck("nothing is ready and no timer runs")
        if timeout > 0:
            self.jump(timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """`now`: seconds of the world's clock; each process has its own, which stands still while it sleeps (CLOCK_MONOTONIC does)."""

    def __init__(self, dice: Random) -> None:
        selector = _Jumping()
        super().__init__(selector)
        selector.jump = self._jump
        self.now = 1000.0
        self.patience = float("inf")
        self._clock_resolution = 1e-9
        self._dice = dice
        self._busy: dict[int, float] = {}
        self.mishaps: list[str] = []
        self.set_exception_handler(lambda _, told: self.mishaps.append(f"{told}"))
        self.connect: Callable[[Callable[[], Any]], Coroutine[Any, Any, Any]]
        self.listen: Callable[[Callable[[], Any]], Any]

    def _jump(self, seconds: float) -> None:
        self.now += seconds
        if self.now > self.patience:
            raise Stuck("it goes on and on")

    def _write_to_self(self) -> None:
        """No thread ever needs to wake us."""

    def time(self) -> float:
        life = LIFE.get()
        return self.now if life is None else self.now - life.slept

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        life = LIFE.get() if context is None else context.get(LIFE)
        if life is not None:
            when = max(when + life.slept, life.wakes)
        return super().call_at(when, callback, *args, context=context)

    def start_in(self, life: Life, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task of that process."""
        return self.create_task(work, context=life.context.copy())

    def put_to_sleep(self, life: Life, seconds: float) -> None:
        """Nothing of that process happens for so long, and its clock stands still."""
        for handle in self._scheduled:  # type: ignore[attr-defined]
            if handle._context.get(LIFE) is life:
                handle._when += seconds
        heapq.heapify(self._scheduled)  # type: ignore[attr-defined]
        life.slept += seconds
        life.wakes = self.now + seconds

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        life = LIFE.get()
        done: asyncio.Future[T] = self.create_future()

        def work() -> None:
            if life is not None and life.dead:
                done.cancel()
                return
            try:
                result = func(*args)
            except Killed:
                done.cancel()
            except Exception as error:  # noqa: BLE001 (handed on)
                if not done.cancelled():
                    done.set_exception(error)
            else:
                if not done.cancelled():
                    done.set_result(result)

        turn = max(self._busy.get(id(executor), 0.0), self.now) + self._dice.random() * THREAD
        if executor is not None:
            self._busy[id(executor)] = turn
        self.call_at(turn - (life.slept if life is not None else 0.0), work)
        return done

    async def sendfile(self, *_: Any, **__: Any) -> int:
        raise NotImplementedError  # aiohttp then reads and writes

    async def create_unix_connection(self, protocol_factory: Any, path: Any = None, **_: Any) -> Any:
        return await self.connect(protocol_factory)

    async def create_server(self, protocol_factory: Any, *_: Any, **__: Any) -> Any:
        return self.listen(protocol_factory)
