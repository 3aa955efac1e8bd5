"""Our process, ComfyUI, the road between them and the disk, all in memory but for the files; what can happen to each of them.

ComfyUI is the stand-in, ours is the scheduler on a real store and the real client; both run unchanged on virtual time. A process of ours that is
killed does nothing more to disk or network; what it had committed stays. The disk can be full, for files as for the database.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, TypeVar
from unittest import mock

from comfytunnel.comfy.client import Client
from comfytunnel.demo import engine, nodes
from comfytunnel.demo.comfyui import ComfyUI
from comfytunnel.feed import Feed
from comfytunnel.jobs import landing
from comfytunnel.jobs.model import Waits
from comfytunnel.jobs.scheduler import Gate, JobsSettings, Place, Scheduler
from comfytunnel.jobs.store import Store
from tests.walks.road import Road
from tests.walks.virtual import LIFE, Killed, Life, VirtualLoop

T = TypeVar("T")

_really_write = nodes._write

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
TORN = ("open", "write", "link", "unlink", "replace", "ftruncate")
"""What landing.py does to the disk; a kill may come right before or after each."""


class Disk:
    """Stands in the place of `os` in landing.py. `full`: no room. `tear`: the process dies at so many operations from now."""

    def __init__(self, dice: Random) -> None:
        self._dice = dice
        self.full = False
        self.tear: int | None = None
        self.torn: Callable[[], None] = lambda: None

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return (lambda *given, **more: self._do(real, *given, **more)) if name in TORN else real

    def _do(self, real: Callable[..., Any], *given: Any, **more: Any) -> Any:
        life = LIFE.get()
        if life is not None and life.dead:
            raise Killed
        if self.tear is not None:
            self.tear -= 1
            if self.tear <= 0:
                self.tear = None
                if real is not os.open and self._dice.random() < 0.5:
                    real(*given, **more)
                self.torn()
                raise Killed
        return real(*given, **more)

    def fstatvfs(self, folder: int) -> Any:
        return SimpleNamespace(f_bavail=0 if self.full else 2**40, f_frsize=1)


def _silent_when_dead(real: Callable[[Any], None]) -> Callable[[Any], None]:
    def ended(self: landing.Landing) -> None:
        life = LIFE.get()
        if life is not None and life.dead:
            self.close()  # a killed process cleans nothing up; the kernel closes its files
        else:
            with contextlib.suppress(Killed):
                real(self)

    return ended


class World:
    """`told`: what happened, for a person. `reruns`: how often ComfyUI, not we, had a prompt run again. `made`: whose each of its pictures is, and in
    which execution it was made."""

    def __init__(self, loop: VirtualLoop, folder: Path, template: Path, dice: Random, late: float) -> None:
        self.loop = loop
        self.dice = dice
        self.folder = folder
        self.disk = Disk(dice)
        self.disk.torn = self._torn
        self.road = Road(loop, dice, late)
        self.far = ComfyUI(folder / "far")
        self.settings = JobsSettings(output_dir=folder / "pictures")
        self.told: list[str] = []
        self.reruns: Counter[str] = Counter()
        self.made: dict[bytes, tuple[str, int]] = {}
        self.restarts = 0
        self.kills = 0
        self.life: Life | None = None
        self.believed = False
        self.healed = False
        self.store: Store
        self.scheduler: Scheduler
        self.gate: Feed[Gate]
        self._client: Client
        self._running: asyncio.Task[None]
        shutil.copy(template, folder / "jobs.db")

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """The disk, the clock of files and the source of ids are the world's."""
        with (
            mock.patch.object(landing, "os", self.disk),
            mock.patch.object(landing, "_sync", return_value=None),
            mock.patch.object(landing.Landing, "drop", _silent_when_dead(landing.Landing.drop)),
            mock.patch.object(landing.Landing, "leave", _silent_when_dead(landing.Landing.leave)),
            mock.patch.object(os, "urandom", self.dice.randbytes),
            mock.patch.object(nodes, "_write", self._write),
            mock.patch.object(engine, "time", SimpleNamespace(time=self._far_time)),
        ):
            yield

    def _write(self, run: Any, images: Any, kind: str, *given: Any) -> Any:
        """ComfyUI writes its pictures: no two of them have the same bytes, so each can be told from every other."""
        run.padding = run.padding or 32
        pictures, ui = _really_write(run, images, kind, *given)
        assert ui is not None
        for file in ui["images"]:
            path = self.folder / "far" / kind / file["subfolder"] / file["filename"]
            os.utime(path, (self._far_time(), self._far_time()))
            self.made[path.read_bytes()] = (run.prompt_id, len(self.far.executions))
        return pictures, ui

    def _far_time(self) -> float:
        """ComfyUI's clock."""
        return EPOCH.timestamp() + self.loop.now

    def tell(self, what: str) -> None:
        self.told.append(f"{self.loop.now - 1000:9.3f}  {what}")

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self.loop.now)

    # --- our process ------------------------------------------------------------------------------------------------

    async def ours(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Do something in our process; None if it was killed meanwhile."""
        life = self.life
        if life is not None:
            await self._awake(life)
        if life is None or life.dead:
            work.close()
            return None
        task = self.loop.start_in(life, work)
        await asyncio.wait([task])
        return None if task.cancelled() or (not life.lives and task.exception()) else task.result()

    async def _awake(self, life: Life) -> None:
        while self.loop.now < life.wakes and life.lives:  # noqa: ASYNC110 (time itself is what is waited for)
            await asyncio.sleep(life.wakes - self.loop.now)

    async def start(self) -> None:
        self.tell("start")
        self.life = life = Life("ours")
        self.gate = Feed(self._gate())

        async def begin() -> None:
            self.store = await Store.open(self.folder / "jobs.db")
            self.store._db.execute("PRAGMA synchronous=OFF")
            self._client = Client("http://127.0.0.1:8188", unix_socket="/door")
            place = Place("default", self._client, self.gate, lambda: self._look_soon(0.05))
            self.scheduler = Scheduler(self.store, {"default": place}, self.settings, now=self.now)
            self._running = asyncio.create_task(self.scheduler.run())

        await self.ours(begin())
        assert not life.dead
        self._fill_database()

    def _torn(self) -> None:
        """Killed in the middle of an operation."""
        self.tell("killed within a disk operation")
        self.dies()

    def dies(self) -> None:
        """The kill itself; `kill` clears up after it."""
        life = self.life
        if life is not None and not life.dead:
            life.dead = True
            self.kills += 1
            self.believed = False
            self.road.kill(life)

    async def kill(self) -> None:
        """kill -9, or what is left to do after one."""
        life = self.life
        assert life is not None
        if not life.dead:
            self.tell("kill -9")
        self.dies()
        life.wakes = 0.0
        self.life = None
        self._running.cancel()
        await asyncio.wait([self._running])
        await asyncio.wait([self.loop.start_in(life, self._client.close())])
        self.store._db.close()
        self.disk.tear = None
        if not self._running.cancelled() and (error := self._running.exception()) is not None:
            raise AssertionError("the scheduler died") from error

    async def sleep(self, seconds: float, *, warned: bool) -> None:
        """The machine sleeps; what it had sent goes on."""
        life = self.life
        if life is None or life.dead or self.loop.now < life.wakes:
            return
        self.tell(f"sleep for {seconds} s, {'warned' if warned else 'unwarned'}")
        if warned:
            self.scheduler_calls(lambda: self.scheduler.sleep(asleep=True))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2):
                    await self.scheduler.hushed()
        if not life.dead:
            self.loop.put_to_sleep(life, seconds)
            await self._awake(life)
        if warned and life is self.life:
            self.scheduler_calls(lambda: self.scheduler.sleep(asleep=False))

    def scheduler_calls(self, call: Callable[[], None]) -> None:
        """A call from our own process."""
        if self.life is not None and not self.life.dead:
            self.life.context.copy().run(call)

    # --- the link and what is believed of ComfyUI -----------------------------------------------------------------------

    def link_up(self) -> None:
        if self.road.link is None and self.life is not None:
            self.tell("link up")
            self.road.up()
            self.believed = False
            self._look_soon(self.dice.uniform(0.01, 0.3))
            self._tell_gate()

    def link_down(self) -> None:
        if self.road.link is not None:
            self.tell("link cut")
            self.road.cut()
            self.believed = False
            self._tell_gate()

    def _look_soon(self, seconds: float) -> None:
        self.loop.call_later(seconds, self._look, self.road.links, context=self.road.context)

    def _look(self, link: int) -> None:
        """What health.py would find out."""
        if link != self.road.links or self.road.link is None:
            return
        serves = self.road.listener is not None and not self.road.link.stalled
        if serves is not self.believed:
            self.believed = serves
            self.tell("ComfyUI is seen to serve" if serves else "ComfyUI is seen to be away")
            self._tell_gate()
        if not serves:
            self._look_soon(1.0)

    def _gate(self) -> Gate:
        link = self.road.link
        why = None if link is not None and self.believed else Waits("not_serving", "Not now.")
        return Gate(link.number if link is not None else None, self.believed, why)

    def _tell_gate(self) -> None:
        life = self.life
        if life is None or life.dead:
            return
        if self.loop.now < life.wakes:
            self.loop.call_at(life.wakes, self._tell_gate, context=self.road.context)
        else:
            self.gate.set(self._gate())

    # --- ComfyUI ----------------------------------------------------------------------------------------------------

    async def restart_far(self, away: float, *, with_queue: bool, anew: bool) -> None:
        """ComfyUI ends as a process does and begins again; `with_queue`: an extension has saved what waited and ran; `anew`: with empty folders."""
        self.tell(
            f"ComfyUI ends, for {away} s, {'with' if with_queue else 'without'} its queue{', anew' if anew else ''}"
        )
        engine = self.far.engine
        saved = [*engine.running, *sorted(engine.queue)] if with_queue else []
        ran = {item[1] for item in engine.running}
        self.restarts += 1
        self.road.far_dies()
        await self.far.stop()
        self._look_soon(self.dice.choice((0.2, 3.0)))
        await asyncio.sleep(away)
        if anew:
            shutil.rmtree(self.far.base)
        await self.far.start()
        for item in saved:
            number = self.far.engine.number
            self.far.engine.number += 1
            self.far.engine.put((number, *item[1:5], {}))
            if item[1] in ran:
                self.reruns[item[1]] += 1
        self.tell("ComfyUI is there again")
        self._look_soon(self.dice.choice((0.2, 3.0)))

    # --- the disk ---------------------------------------------------------------------------------------------------

    def fill_disk(self, *, full: bool) -> None:
        self.tell("the disk is full" if full else "there is room on the disk")
        self.disk.full = full
        if self.life is not None and not self.life.dead:
            self._fill_database()

    def _fill_database(self) -> None:
        """No new page may be taken; what fits into the old ones is still written, as on a real disk."""
        [pages] = self.store._db.execute("PRAGMA page_count").fetchone()
        self.store._db.execute(f"PRAGMA max_page_count={pages if self.disk.full else 2**30}")
