"""Carries one job from where it is to its end; safe to call again at any point.

The stage on disk says what may have happened, so the same code goes on after a drop, a sleep, a kill -9 and a new start:

    waiting     nothing was sent                 write `submitting`, then POST on a fresh connection
    submitting  a POST may have been sent        no answer is unknown, never failed: look it up, queue first, then history
    on_server   ComfyUI has it                   look it up until history knows its end; the websocket only says when to look
    fetching    it ran                           bring the outputs home, then it has succeeded

When may "neither queue nor history knows it" be believed after a POST without an answer? ComfyUI runs a job once the last byte of the body
has arrived, whatever becomes of the connection, and one byte short nothing is queued. So the question is where unsent bytes can still be.
A POST that we give up is reset, never closed (comfy/reset.py): what we held is gone, and the door aborts the SSH channel, with what it held
for it, when it sees the reset. (The looks have channels of their own, and channels are not ordered against each other: each has its own window and
buffers.) What the door had already put into the SSH connection of link N is one ordered stream with the looks that follow through link N, so
the far sshd has it before it sees them; and if link N is gone, it was aborted and its unsent bytes died with it. What remains is what the
far sshd or ComfyUI's own socket holds for a moment, and for that is the settle time. Hence the one rule, for both cases and a new start:

    absent, then the settle time, then absent again, all through one and the same living link, both looks begun after our connection was reset.

A link that changes in between starts the count again. A POST that a network delivers later than that can run twice; docs/known-issues.md says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime

import structlog

from comfytunnel.comfy.errors import Ambiguous, ComfyError, NotComfyUI, Refused, Unreachable
from comfytunnel.errors import StateError
from comfytunnel.jobs import inputs
from comfytunnel.jobs.homeward import Homeward
from comfytunnel.jobs.listener import Listener
from comfytunnel.jobs.marker import Marker
from comfytunnel.jobs.meter import Meter
from comfytunnel.jobs.model import Input, Job, Stage, Status, Waits
from comfytunnel.jobs.place import JobsSettings, Place
from comfytunnel.jobs.reading import judged, rejected
from comfytunnel.jobs.stopwatch import Stopwatch
from comfytunnel.jobs.store import Store
from comfytunnel.jobs.verdict import (
    CREDENTIAL_GONE,
    Look,
    Process,
    Seen,
    decide,
    ended,
    given,
    not_given,
    overdue,
)
from comfytunnel.workflow.graph import parse_api_graph

log = structlog.get_logger(__name__)

INVALID = (400, 413, 422)
"""ComfyUI's definite no to a workflow. Any other refusal says nothing about the workflow, so the job waits."""
HINTED = 0.02
"""Seconds before the next look when the websocket has said that the job ended and history did not know yet."""
CANCEL_AGAIN = 1.0
"""Seconds between two interrupts: about 2 % are acknowledged and lost (measured)."""


class Run(Homeward):
    """One job on its way at one place. `wake` makes it look at once; `left` is set once its submission is settled."""

    def __init__(
        self,
        job: Job,
        place: Place,
        store: Store,
        settings: JobsSettings,
        marker: Marker,
        listener: Listener,
        *,
        client_id: str,
        now: Callable[[], datetime],
        changed: Callable[[], None],
        held: Callable[[], bool] = lambda: False,
        partner_key: str | None = None,
    ) -> None:
        super().__init__(job, place, store, settings, marker, now=now, changed=changed)
        self.left = asyncio.Event()
        self.hinted = False
        self._listener = listener
        self._client_id = client_id
        self._refused = False
        self._answered = False
        self._inputs: list[Input] = []
        self._held = held
        self._partner_key = partner_key

    def note(self, job: Job) -> None:
        """Take up a newer state of the job, whoever made it."""
        if job.revision > self.job.revision:
            before, self.job = self.job, job
            if job.stage is not before.stage:
                self._say(before)
            if job.stage not in (Stage.WAITING, Stage.SUBMITTING):
                self.left.set()
            self._changed()

    async def carry(self) -> Job:
        """Go on until the job has ended, or waits again because ComfyUI certainly has not got it. Only a mistake of ours raises."""
        try:
            workflow = await self._patiently(self._prepare)
            if self.job.stage is Stage.WAITING:
                await self._submit(workflow)
            while self.job.stage not in (Stage.WAITING, Stage.ENDED):
                step = {
                    Stage.SUBMITTING: self._resolve,
                    Stage.ON_SERVER: self._follow,
                    Stage.FETCHING: self._fetch,
                }
                await self._patiently(step[self.job.stage])
            return self.job
        finally:
            self.left.set()

    async def _prepare(self) -> dict[str, object]:
        latest, workflow, self._inputs = await self._store.brief(self.job.id)
        if latest is not None:
            self.note(latest)  # a cancel between the reading of the job and our beginning told nobody
        graph = parse_api_graph(workflow)
        self.meter, self.stopwatch = Meter(graph), Stopwatch(graph)
        self.frames.expect(graph)
        return workflow

    # --- submitting -------------------------------------------------------------------------------------------------

    async def _submit(self, workflow: dict[str, object]) -> None:
        """Write, POST, write. Leaves `waiting` untouched if there is trouble before the POST."""
        if self.job.partner_key and self._partner_key is None:
            await self._patiently(lambda: self._move(ended(Status.FAILED, self._now(), CREDENTIAL_GONE)))
            return
        link = self._place.gate.value.link
        try:
            if self.job.moves and await self._taken_back():
                return
            graph = await self._stage(workflow)
            await self.frames.first(self._listener)
            if not self._at(Stage.WAITING) or self._held() or self._elsewhere():
                return  # inputs may have taken minutes to send
            server = await self._marker.ensure()
            came_late = self.job.doubts > 0 and (await self._look()).seen is not Seen.ABSENT
            if self._place.gate.value.link != link:
                return  # what answers now may be another ComfyUI, without the inputs
            await self._move(
                {
                    "stage": Stage.SUBMITTING,
                    "place": self._place.name,
                    "server": server,
                    "attempts": self.job.attempts + 1,
                    "submitted_at": self._now(),
                },
                at=self._place.name,
            )
        except inputs.Unsendable as error:
            failure = error.failure
            await self._patiently(lambda: self._move(ended(Status.FAILED, self._now(), failure)))
            return
        except (ComfyError, StateError) as error:
            self._doubt(error)
            return
        if not self._at(Stage.SUBMITTING):
            return  # canceled in between, or moved
        if came_late:
            return  # it is there: no POST, the look-up takes it from here
        try:
            answer = await self._client.submit(
                graph, self.job.given_id, self._client_id, partner_key=self._partner_key
            )
        except Refused as error:
            refusal = ended(Status.FAILED, self._now(), rejected(error.body))
            after = refusal if error.status in INVALID else not_given(self.job, self._now())
            if error.status not in INVALID:
                self._doubt(error)
        except (Unreachable, NotComfyUI) as error:
            if isinstance(error, NotComfyUI) and (error.status or 200) < 300:
                return  # something took it: look it up
            self._doubt(error)
            after = not_given(self.job, self._now())
        except Ambiguous as error:
            self._refused = error.status is not None
            self._place.doubted()
            return
        else:
            if answer.prompt_id is None:
                return
            self._answered = True
            after = given(self.job, answer.prompt_id, self._now())
            if answer.skipped:
                after["note"] = "ComfyUI skips some outputs: " + "; ".join(answer.skipped)[:2000]
            self._marker.numbered(answer.number)
        decided = self.job
        await self._patiently(lambda: self._move(after, decided=decided))

    async def _stage(self, workflow: Mapping[str, object]) -> Mapping[str, object]:
        """The graph as ComfyUI gets it: what of it is a file of ours lies there, and is called by ComfyUI's name. Returns early once the job
        has ended or was moved meanwhile: neither waits for an upload."""
        if not self._inputs:
            return workflow

        def sending(item: Input) -> None:
            self._wait_for(
                Waits("inputs", f"Its input {item.name} is on its way to ComfyUI ({item.size} bytes).")
            )

        work = inputs.staged(workflow, self._inputs, self._store.files, self._client, sending)
        graph = await inputs.unless(self._is_gone(), work)
        self._settle_down()
        return graph or workflow

    async def _is_gone(self) -> None:
        """Wait until somebody has ended the job on disk, or wants it elsewhere."""
        async for _ in self._store.revision.changes():
            latest = await self._store.get(self.job.id)
            if latest is not None and (latest.ended or latest.tunnel not in (None, self._place.name)):
                self.note(latest)
                return

    def _elsewhere(self) -> bool:
        return self.job.tunnel not in (None, self._place.name)

    async def _taken_back(self) -> bool:
        """Whether the job is back where it was moved away from, and nobody else has taken it: then it may be there, and is looked up."""
        after = await self._store.take_back(self.job.id, self._place.name, self._now())
        if after is not None:
            self.note(after)
        return after is not None

    async def _resolve(self) -> None:
        """Was the POST delivered? See the module's docstring for the rule."""
        clock = asyncio.get_running_loop().time
        missing: tuple[int, float] | None = None
        while self.job.stage is Stage.SUBMITTING:
            link = await self._gate_open()
            began = clock()
            look = await self._look()
            if link != self._place.gate.value.link:
                continue
            settled = (
                missing is not None and missing[0] == link and began - missing[1] >= self.settings.settle
            )
            process = await self._process() if settled and look.seen is Seen.ABSENT else Process.UNKNOWN
            if settled and self._refused and look.seen is Seen.ABSENT and process is not Process.OTHER:
                await self._move(not_given(self.job, self._now(), refused=True))
                return
            changes = decide(self.job, look, self._now(), process=process, settled=settled)
            if changes is not None:
                await self._move(changes)
                return
            if missing is None or missing[0] != link:
                missing = (link, clock())
            text = "The connection broke during the submission; looking whether ComfyUI got it."
            self._wait_for(Waits("looking_up", text))
            await asyncio.sleep(max(missing[1] + self.settings.settle - clock(), 0.01))

    # --- on the server ----------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        delay = self.settings.poll_min
        missing: int | None = None
        clock = asyncio.get_running_loop().time
        told = float("-inf")
        if self._answered and self._listener.open.value:
            await self._pause(delay)  # it is there, and the websocket says when there is more to see
        while self.job.stage is Stage.ON_SERVER:
            link = await self._gate_open()
            self.wake.clear()
            look = await self._look()
            settled = look.seen is Seen.ABSENT and missing == link == self._place.gate.value.link
            missing = link if look.seen is Seen.ABSENT else None
            if look.seen is Seen.SUCCEEDED:
                await self.frames.last(self._listener)
            process = await self._process() if settled else Process.UNKNOWN
            changes = decide(
                self.job,
                look,
                self._now(),
                process=process,
                settled=settled,
                folder=str(self._folder()),
                max_files=self.settings.max_files,
            )
            if changes is not None:
                left = (
                    self.stopwatch if changes.get("stage", Stage.ON_SERVER) is not Stage.ON_SERVER else None
                )
                await self._move(changes, times=left.times(clock()) if left is not None else ())
                self._fresh = self._at(Stage.FETCHING)
                continue
            failure = overdue(self.job, look.seen, self._now())
            if failure is not None:
                await self._move({"cancel_requested": True, "status": Status.CANCELING, "because": failure})
            if self.job.cancel_requested and clock() - told >= CANCEL_AGAIN:
                await self._tell_cancel(look)
                told, delay = clock(), self.settings.poll_min
            self._settle_down()
            if await self._pause(HINTED if self.hinted else delay):
                delay = self.settings.poll_min
            else:
                self.hinted = False
                delay = min(delay * 2, self.settings.poll_max)

    async def _tell_cancel(self, look: Look) -> None:
        if look.seen is Seen.PENDING:
            await self._client.delete_pending(self.job.prompt_id)
        elif look.seen is Seen.RUNNING:
            await self._client.interrupt(self.job.prompt_id)

    async def _look(self) -> Look:
        """Queue, then history: a prompt moves that way. But what the websocket has said to be at its end is looked for where it must be then."""
        job, clock = self.job, asyncio.get_running_loop().time
        if self.hinted and job.stage is Stage.ON_SERVER:
            entry = await self._client.history(job.prompt_id)
            if entry is not None:
                return judged(entry)
        began = clock()
        queue = await self._client.queue()
        self._listener.polled(len(queue), clock() - began)
        for seen, items in ((Seen.RUNNING, queue.running), (Seen.PENDING, queue.pending)):
            for item in items:
                if item.prompt_id == job.prompt_id or item.job == job.given_id:
                    return Look(seen, item.prompt_id)
        entry = await self._client.history(job.prompt_id)
        if entry is None and job.stage is Stage.SUBMITTING:
            # A server before about 0.3.45 made up an id of its own, and knows ours only in extra_data.
            entry = next((entry for entry in await self._client.recent() if entry.job == job.given_id), None)
        return Look(Seen.ABSENT) if entry is None else judged(entry)

    # --- written --------------------------------------------------------------------------------------------------------

    def _at(self, stage: Stage) -> bool:
        return self.job.stage is stage

    def _say(self, before: Job) -> None:
        """The canonical line of a job: one at each stage, all there is to know at the end."""
        job = self.job
        said = {"job": job.id, "place": self._place.name, "from": before.stage.value, "to": job.stage.value}
        if job.ended:
            said |= {"status": job.status.value, "executions": str(job.executions), "losses": str(job.losses)}
            said |= {"code": job.error.code} if job.error else {}
        log.info("job", **said)
