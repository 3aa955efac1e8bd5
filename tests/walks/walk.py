"""One random walk: jobs are submitted, all sorts of things happen, at last everything is well, and then judge.py looks at what has come of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

from comfytunnel.demo.faults import ALWAYS
from comfytunnel.errors import Error
from comfytunnel.jobs.homeward import LATE
from comfytunnel.jobs.model import Job, Mode, NewJob, Status
from tests.jobs.bench import picture
from tests.walks.judge import Asked, Judge
from tests.walks.virtual import VirtualLoop
from tests.walks.world import World

PATIENCE = 900.0
"""Seconds of virtual time in which every job must have ended once all is well."""


FAULTS = (
    "drop_prompt_request", "drop_prompt_response", "drop_prompt_request", "drop_prompt_response",
    "reject_prompt_500", "reject_prompt_500_unqueued", "lose_interrupts", "truncate_view", "stall_view",
    "cut_upload", "reject_upload_500", "refuse_websockets", "cut_websockets", "silent_websocket",
    "history_late", "slow_answers", "huge_output",
)  # fmt: skip
"""Of the stand-in's."""


class Walk:
    """`late`: seconds after its connection's end in which a POST may still be delivered; `once_late`: in which one of them may, 0 for none."""

    def __init__(
        self, loop: VirtualLoop, folder: Path, template: Path, seed: int, late: float, once_late: float
    ) -> None:
        self.dice = Random(seed)
        self.world = World(loop, folder, template, self.dice, late)
        self.world.road.once_late = self.once_late = once_late
        self.loop = loop
        self.asked: dict[str, Asked] = {}
        self.submitted = 0
        self.claims = 0
        self.removed: set[str] = set()
        self.interrupted: set[str] = set()
        self.uploads_refused = False
        self.in_background: set[asyncio.Task[None]] = set()
        self.own_names = self.dice.random() < 0.5
        self.markerless = self.dice.random() < 0.06
        self.away = False
        self.well = False
        self.mode = Mode.OPEN

    async def run(self) -> None:
        world, dice = self.world, self.dice
        with world.in_place():
            await world.far.start()
            await world.start()
            self._no_marker()
            world.road.seen = self._hazard
            if dice.random() < 0.8:
                world.link_up()
            steps = self._steps()
            for _ in range(dice.randint(1, 3)):
                await self._submit()
            for _ in range(dice.randint(4, 14)):
                await asyncio.sleep(dice.choice((0.0, 0.003, 0.02, 0.1, 0.4, 1.0, 3.0, 6.0)))
                if world.life is not None and world.life.dead:
                    await self._back()
                [step] = dice.choices([step for step, _ in steps], [weight for _, weight in steps])
                await step()
            await self._heal()
            await self._all_ended()
            await asyncio.sleep(max(world.road.late, self.once_late) + 40.0)  # what is still on its way comes
            jobs = await world.ours(world.store.since(0)) or []
            outputs = await world.ours(world.store.outputs_of(list(self.asked))) or {}
            judge = Judge(
                world,
                self.asked,
                self.removed,
                self.interrupted,
                self.uploads_refused,
                self.markerless,
                self.once_late > 0,
            )
            judge.check(jobs, outputs)
            await world.kill()
            await world.far.stop()
            await asyncio.sleep(1)
        assert not self.loop.mishaps, self.loop.mishaps

    # --- what may happen ------------------------------------------------------------------------------------------------

    def _steps(self) -> list[tuple[Callable[[], Awaitable[None]], int]]:
        return [
            (self._submit, 14),
            (self._drop, 14),
            (self._half_open, 8),
            (self._kill, 14),
            (self._kill_in_disk, 5),
            (self._sleep, 6),
            (self._restart, 12),
            (self._fault, 22),
            (self._cancel_one, 8),
            (self._full_disk, 4),
            (self._pause, 3),
            (self._move_up, 2),
            (self._meddle, 2),
        ]

    def _hazard(self, sent: bytes) -> None:
        """Bytes are on their way to ComfyUI; that is when a fault hurts."""
        dangers = {b"POST /prompt": 0.3, b"GET /view": 0.1, b"HEAD /view": 0.05, b"POST /queue": 0.2}
        danger = next((value for verb, value in dangers.items() if sent.startswith(verb)), 0.004)
        if self.dice.random() < danger:
            self.loop.call_later(self.dice.uniform(0.0, 0.08), self._strike, context=self.world.road.context)

    def _strike(self) -> None:
        if self.well:
            return
        what = self.dice.choice(
            (self._drop, self._drop, self._half_open, self._die, self._sleep, self._restart)
        )
        task = self.loop.create_task(what(), context=self.world.road.context)
        self.in_background.add(task)

    async def _die(self) -> None:
        self.world.tell("kill -9, just now")
        self.world.dies()

    async def _submit(self) -> None:
        world, dice, number = self.world, self.dice, self.submitted
        if world.life is None or world.life.dead:
            return
        self.submitted += 1
        kind = dice.choices(("plain", "two", "fails", "invalid", "endless"), (12, 4, 1, 1, 1))[0]
        label = f"j{number}"
        seconds = 5000.0 if kind == "endless" else dice.choice((0.0, 0.3, 2.0, 9.0))
        workflow = picture(
            number * 7 + 1,
            prefix=label if self.own_names else "pic",
            seconds=seconds,
            steps=1000 if kind == "endless" else 3,
        )
        if kind == "two":
            workflow["1"]["inputs"]["batch_size"] = 2
        elif kind == "fails":
            workflow["8"] = {"class_type": "DemoFail", "inputs": {"image": ["1", 0], "message": "no"}}
            workflow["9"]["inputs"]["images"] = ["8", 0]
        elif kind == "invalid":
            workflow["8"] = {"class_type": "Unheard", "inputs": {"image": ["1", 0]}}
            workflow["9"]["inputs"]["images"] = ["8", 0]
        claim = f"claim {number}" if dice.random() < 0.3 else None
        ttl = dice.choice((5.0, 30.0)) if dice.random() < 0.05 else None
        check = kind != "invalid"  # that one is to be refused on arrival
        new = NewJob(workflow=workflow, label=label, ttl=ttl, priority=dice.choice((0, 0, 5)), validate=check)
        try:
            job = await world.ours(world.scheduler.submit(new, claim=claim))
        except Error as error:
            world.tell(f"submit {label}: {error.message}")
            self._only(
                error, "disk_full", "queue_draining", *(["invalid_workflow"] if kind == "invalid" else [])
            )
            return
        asked = Asked(kind if ttl is None else f"{kind} ttl", label, 2 if kind == "two" else 1)
        if job is not None:
            world.tell(f"submit {label} ({kind}): {job.id}")
            self.asked[job.id] = asked
        if claim is not None and job is not None:
            await self._again(new, claim, job)

    def _only(self, error: Error, *codes: str) -> None:
        """An order may fail for these reasons only, and for a full disk only if it is full."""
        code = error.code_on_wire
        if code not in codes or (code == "disk_full" and not self.world.disk.full):
            raise AssertionError("an order failed") from error

    async def _again(self, new: NewJob, claim: str, job: Job) -> None:
        """The same submission once more, by somebody who has not heard the answer."""
        try:
            twice = await self.world.ours(self.world.scheduler.submit(new, claim=claim))
        except Error as error:
            self._only(error, "idempotency_key_reuse", "queue_draining", "disk_full", "invalid_workflow")
            if error.details.get("job_id", job.id) != job.id:
                raise AssertionError("another job was named") from error
        else:
            assert twice is None, "an Idempotency-Key was taken twice"

    async def _drop(self) -> None:
        self.world.link_down()
        await asyncio.sleep(self.dice.choice((0.0, 0.0, 0.05, 1.0, 4.0, 7.0)))
        self.world.link_up()

    async def _half_open(self) -> None:
        self.world.tell("the link stands still")
        self.world.road.stall()
        await asyncio.sleep(self.dice.choice((0.1, 1.5, 8.0, 20.0, 70.0)))
        if self.dice.random() < 0.4:
            self.world.tell("it moves again")
            self.world.road.flow()
        else:
            self.world.link_down()
            await asyncio.sleep(self.dice.choice((0.0, 0.5)))
            self.world.link_up()

    async def _kill(self) -> None:
        if self.world.life is not None:
            await self.world.kill()
        await self._back()

    async def _kill_in_disk(self) -> None:
        self.world.tell("a kill is due within the disk's next operations")
        self.world.disk.tear = self.dice.randint(1, 20)

    async def _back(self) -> None:
        """A new process, some time after a kill."""
        world = self.world
        if world.life is not None:
            await world.kill()
        await asyncio.sleep(self.dice.choice((0.0, 0.1, 1.0, 4.0)))
        await world.start()
        await asyncio.sleep(self.dice.choice((0.0, 0.05, 1.0)))
        world.link_up()

    async def _sleep(self) -> None:
        world, seconds = self.world, self.dice.choice((3.0, 60.0, 4000.0))
        stays = self.dice.random() < 0.3
        if not stays:
            world.road.stall()
        await world.sleep(seconds, warned=self.dice.random() < 0.5)
        if not stays:
            await asyncio.sleep(self.dice.choice((0.0, 1.0)))
            world.link_down()
            await asyncio.sleep(self.dice.choice((0.0, 0.5)))
            world.link_up()

    async def _restart(self) -> None:
        if self.away:
            return
        self.away = True
        seconds = self.dice.choice((0.05, 0.5, 3.0, 12.0))  # execv is quick, a new instance is not
        task = asyncio.create_task(self._restarted(seconds, with_queue=self.dice.random() < 0.3))
        self.in_background.add(task)
        if self.dice.random() < 0.5:
            await asyncio.wait([task])

    async def _restarted(self, seconds: float, *, with_queue: bool) -> None:
        anew = seconds > LATE and self.dice.random() < 0.4
        await self.world.restart_far(seconds, with_queue=with_queue, anew=anew)
        if anew:
            self._stranger()
        self.away = False

    async def _fault(self) -> None:
        faults, dice = self.world.far.faults, self.dice
        name = dice.choice(FAULTS)
        value: Any = 1
        if name == "reject_upload_500":
            self.uploads_refused = True
            value = ALWAYS if self.markerless else 1
        elif name == "history_late":
            value = 0.4
        elif name == "slow_answers":
            value = dice.choice((0.2, 1.4))
        elif name == "huge_output":
            value = 1_200_000 if dice.random() < 0.2 else 0
        elif name == "silent_websocket":
            value = not faults.silent_websocket
        self.world.tell(f"fault {name} = {value}")
        setattr(faults, name, value)

    async def _cancel_one(self) -> None:
        if self.asked:
            await self._cancel(self.dice.choice(list(self.asked)))

    async def _cancel(self, job_id: str) -> None:
        world = self.world
        if world.life is None or world.life.dead:
            return
        try:
            job = await world.ours(world.scheduler.cancel(job_id))
        except Error as error:
            self._only(error, "disk_full")
            return
        if job is not None:
            world.tell(f"cancel {self.asked[job_id].label}: {job.status}, {job.stage}")
            if job.status in (Status.CANCELING, Status.CANCELED):
                self.asked[job_id].told_to_stop = True
            if job.status is Status.CANCELED and not job.attempts and not job.losses:
                self.asked[job_id].canceled_while_waiting = True

    async def _full_disk(self) -> None:
        self.world.fill_disk(full=not self.world.disk.full)

    async def _pause(self) -> None:
        self.mode = self.dice.choice(list(Mode)) if self.mode is Mode.OPEN else Mode.OPEN
        await self._set_mode()

    async def _set_mode(self) -> None:
        self.world.tell(f"queue {self.mode}")
        try:
            await self.world.ours(self.world.scheduler.set_mode(self.mode))
        except Error as error:
            self._only(error, "disk_full")

    async def _move_up(self) -> None:
        if self.asked and self.world.life is not None:
            try:
                await self.world.ours(self.world.scheduler.place_first(self.dice.choice(list(self.asked))))
            except Error as error:
                self.world.tell(f"to the front: {error.message}")

    async def _meddle(self) -> None:
        """Somebody else uses ComfyUI's own page."""
        if self.away:
            return
        engine = self.world.far.engine
        if self.dice.random() < 0.2:
            self._stranger()
        elif engine.queue and self.dice.random() < 0.5:
            job_id = self.dice.choice(sorted(engine.queue))[1]
            self.removed.add(job_id)
            self.world.tell(f"somebody removes {job_id}")
            engine.delete(job_id)
        elif engine.running:
            self.interrupted.add(engine.running[0][1])
            self.world.tell("somebody interrupts")
            engine.interrupt()

    def _stranger(self) -> None:
        """Somebody else has pictures made, under names that ours would have got."""
        self.world.tell("somebody else submits")
        engine, dice = self.world.far.engine, self.dice
        prefixes = [asked.label for asked in self.asked.values()] if self.own_names else ["pic"]
        for prefix in prefixes:
            graph = picture(dice.randrange(2**24), prefix=prefix)
            engine.put((engine.number, f"{dice.getrandbits(64):x}", graph, {}, ["9"], {}))
            engine.number += 1

    # --- the end ----------------------------------------------------------------------------------------------------------

    def _no_marker(self) -> None:
        """A ComfyUI that takes no uploads: no loss can be proven there."""
        if self.markerless:
            self.uploads_refused = True
            self.world.far.faults.reject_upload_500 = ALWAYS

    async def _heal(self) -> None:
        """From now on all is well."""
        world = self.world
        world.tell("all is well")
        self.well = True
        world.disk.tear = None
        for task in self.in_background:
            await task
        faults = world.far.faults
        for name in type(faults).__dataclass_fields__:
            setattr(faults, name, type(faults).__dataclass_fields__[name].default)
        self._no_marker()
        faults.lose_interrupts = self.dice.choice((0, 0, 1))
        world.fill_disk(full=False)
        if world.life is None or world.life.dead:
            await self._back()
        self.mode = Mode.OPEN
        await self._set_mode()
        if world.road.link is not None and world.road.link.stalled:
            world.link_down()
        world.link_up()
        for job_id, asked in self.asked.items():
            if asked.kind.startswith("endless"):
                await self._cancel(job_id)

    async def _all_ended(self) -> None:
        store = self.world.store
        self.loop.patience = self.loop.now + PATIENCE
        async for _ in store.revision.changes():
            assert not self.world._running.done(), self.world._running.exception()
            jobs = await self.world.ours(store.since(0))
            if jobs is not None and all(job.ended for job in jobs):
                break
        self.loop.patience = float("inf")
