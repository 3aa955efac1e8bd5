"""Server-Sent Events: /v1/events for the whole daemon, /api/v2/jobs/{id}/events for one job.

A stream tells the state first, then what differs from what it has told. Feeds only ring; what is sent is compared, so a lost or
doubled ring is harmless and a slow reader gets the latest instead of a backlog. Every stream ends when the daemon stops.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import structlog
from aiohttp import web

from comfytunnel import wire
from comfytunnel.api import queue
from comfytunnel.api.context import Context, context, origin
from comfytunnel.api.jobs import find, output_view, progress_view, status_view, views
from comfytunnel.api.tunnels import all_tunnels, snapshot
from comfytunnel.errors import RefusedError, UsageError
from comfytunnel.feed import Feed
from comfytunnel.jobs.model import Job
from comfytunnel.words import DRAINED, Mode

KEEPALIVE = 15.0  # seconds between two comments on a quiet stream
LIVE_PAUSE = 0.5  # seconds between two progress events of one job; the contract says about two a second
WRITE_DEADLINE = 30.0  # seconds that a reader may leave a full buffer unread before its stream is closed
MAX_STREAMS = 64  # open streams; each reads the store when a job changes
BATCH = 500  # jobs read from the store at once when a stream catches up


class Stream:
    """The sending end of one event stream."""

    def __init__(self, request: web.Request, response: web.StreamResponse) -> None:
        self._request = request
        self.response = response

    async def send(self, name: str, body: Any, event_id: int | None = None) -> None:
        number = b"" if event_id is None else b"id: %d\n" % event_id
        await self._write(b"event: %s\n%sdata: %s\n\n" % (name.encode(), number, msgspec.json.encode(body)))

    async def keep_alive(self) -> None:
        await self._write(b": still here\n\n")

    async def _write(self, data: bytes) -> None:
        try:
            async with asyncio.timeout(WRITE_DEADLINE):
                await self.response.write(data)
        except TimeoutError:
            if self._request.transport is not None:
                self._request.transport.abort()  # what lies in the buffer would keep the connection for ever
            raise ConnectionResetError("the reader of an event stream does not read") from None


log = structlog.get_logger(__name__)


@contextlib.asynccontextmanager
async def _streaming(request: web.Request, *feeds: Feed[Any]) -> AsyncIterator[tuple[Stream, asyncio.Event]]:
    """Open the stream, with a bell that rings at any change of `feeds` and at the end of the daemon.

    A reader that has left, or reads nothing for too long, ends the block quietly.
    """
    its = context(request)
    if len(its.streams) >= MAX_STREAMS:
        raise RefusedError(
            f"{MAX_STREAMS} event streams are open, the most there may be.",
            hint="Close one, or ask with GET.",
            code="too_many_streams",
        )
    bell = asyncio.Event()
    ringers = [asyncio.create_task(_ring(feed, bell)) for feed in (*feeds, its.closing)]
    its.streams.add(bell)
    try:
        headers = {
            "Content-Type": "text/event-stream",
            "Cache-Control": "no-cache",
            "X-Accel-Buffering": "no",
        }
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        try:
            yield Stream(request, response), bell
        except ConnectionError:
            pass
        except (
            Exception
        ):  # the head is out: an error can only end the stream, a second answer would stand inside it
            log.exception("stream", path=request.path)
    finally:
        its.streams.discard(bell)
        for ringer in ringers:
            ringer.cancel()
        await asyncio.gather(*ringers, return_exceptions=True)


async def _ring(feed: Feed[Any], bell: asyncio.Event) -> None:
    async for _ in feed.changes():
        bell.set()


async def _next_ring(stream: Stream, bell: asyncio.Event, pause: float | None = None) -> None:
    """Wait for the bell, or for `pause` seconds where something is held back. Keeps the connection alive meanwhile."""
    try:
        async with asyncio.timeout(KEEPALIVE if pause is None else pause):
            await bell.wait()
    except TimeoutError:
        if pause is None:
            await stream.keep_alive()
    bell.clear()


async def daemon_events(request: web.Request) -> web.StreamResponse:
    """`status`, then `tunnel`, `job` and `outage`. Ids are the store's revisions; with Last-Event-ID the jobs changed since come first."""
    its, base = context(request), origin(request)
    resume = _last_event_id(request)
    seen = its.store.revision.value
    if resume is not None:
        seen = resume if resume <= seen else 0  # an id that this store has not reached is another store's
    feeds = (its.store.revision, its.tunnels.changed, its.outages.ended, its.scheduler.queue)
    async with _streaming(request, *feeds) as (stream, bell):
        outages = its.outages.ended.value
        told = await snapshot(its)
        await stream.send("status", told, seen)
        while not its.closing.value:
            seen = await _tell_jobs(stream, its, base, seen)
            told = await _tell_tunnels(stream, its, told, seen)
            outages = await _tell_outages(stream, its, outages)
            await _next_ring(stream, bell)
    return stream.response


def _last_event_id(request: web.Request) -> int | None:
    given = request.headers.get("Last-Event-ID", "")
    if not given:
        return None
    if not (given.isascii() and given.isdigit() and len(given) <= 18):
        raise UsageError(f"Last-Event-ID is {given[:40]!r}, and every id of this stream is a number.")
    return int(given)


async def _tell_jobs(stream: Stream, its: Context, base: str, seen: int) -> int:
    while seen < its.store.revision.value:
        changed, outputs = await its.store.told_since(seen, BATCH)
        if not changed:
            break
        for job, shown in zip(changed, await views(its, changed, base, outputs), strict=True):
            await stream.send("job", shown, job.revision)
        seen = changed[-1].revision
    return seen


async def _tell_tunnels(stream: Stream, its: Context, told: wire.Status, seen: int) -> wire.Status:
    """Send each tunnel that has changed; all anew when tunnels have come or gone, or the daemon's own trouble, the queue or `web` has changed."""
    now, ours = all_tunnels(its), (its.tunnels.cause(), its.web())
    if (
        now.keys() != told.tunnels.keys()
        or ours != (told.cause, told.web)
        or await _queue_changed(its, told.queue)
    ):
        told = await snapshot(its)
        await stream.send("status", told, seen)
        return told
    for name, tunnel in now.items():
        if _lasting(tunnel) != _lasting(told.tunnels[name]):
            await stream.send("tunnel", wire.TunnelEvent(name, tunnel))
    return msgspec.structs.replace(told, tunnels=now)


async def _queue_changed(its: Context, told: wire.Queue | None) -> bool:
    """Whether the queue was paused, drained or resumed since, or a drain has come to its end."""
    if told is None or told.since != its.scheduler.queue.value.since:
        return True
    return told.state == Mode.DRAINING and (await queue.state(its)).state == DRAINED


async def _tell_outages(stream: Stream, its: Context, seen: int) -> int:
    """Send each outage that has ended since, and return how many there have been."""
    now = its.outages.ended.value
    for outage in its.outages.since(seen):
        await stream.send("outage", outage)
    return now


def _lasting(tunnel: wire.Tunnel) -> wire.Tunnel:
    """Return the tunnel without what moves all the time and is no event."""
    return msgspec.structs.replace(tunnel, counters=wire.Counters(), rtt_ms=None)


async def job_events(request: web.Request) -> web.StreamResponse:
    """One job as the contract streams it: no ids, outputs before the terminal status, and the end after it."""
    its = context(request)
    job: Job | None = await find(request)
    async with _streaming(request, its.store.revision, its.scheduler.live) as (stream, bell):
        view_of_job = _JobStream(stream, its, origin(request))
        while job is not None and not its.closing.value:
            read_at = its.store.revision.value
            await view_of_job.tell(job)
            if job.ended:
                break
            await _next_ring(stream, bell, view_of_job.held_back)
            if its.store.revision.value != read_at:
                job = await its.store.get(job.id)
    return stream.response


class _JobStream:
    """What one stream has told of one job so far. `held_back`: seconds until a progress that came too early may be sent."""

    def __init__(self, stream: Stream, its: Context, base: str) -> None:
        self._stream = stream
        self._its = its
        self._base = base
        self._status: wire.StatusEvent | None = None
        self._progress: wire.Progress | None = None
        self._preview: object = None
        self._outputs: set[str] = set()
        self._live_at = float("-inf")
        self._revision = -1
        self.held_back: float | None = None

    async def tell(self, job: Job) -> None:
        """Send what has changed. The status leads, but for a terminal one: that is the last word."""
        status = status_view(self._its, job)
        if status != self._status and not job.ended:
            self._status = status
            await self._stream.send("status", status)
        await self._tell_live(job)
        if job.revision != self._revision:
            self._revision = job.revision
            for output in await self._its.store.outputs(job.id):
                if output.asset_id not in self._outputs:
                    self._outputs.add(output.asset_id)
                    await self._stream.send("output", output_view(output, self._base))
        if job.ended:
            await self._stream.send("status", status)

    async def _tell_live(self, job: Job) -> None:
        progress = progress_view(self._its.scheduler.progress(job.id), job)
        preview = self._its.scheduler.preview(job.id)
        self.held_back = None
        if (progress is None or progress == self._progress) and (preview is None or preview is self._preview):
            return
        now = asyncio.get_running_loop().time()
        wait = self._live_at + LIVE_PAUSE - now
        if wait > 0 and not job.ended:
            self.held_back = wait
            return
        self._live_at = now
        if progress is not None and progress != self._progress:
            self._progress = progress
            await self._stream.send("progress", progress)
        if preview is not None and preview is not self._preview:
            self._preview = preview
            data = base64.b64encode(preview.data).decode("ascii")
            await self._stream.send("preview", wire.PreviewEvent(preview.node_id, preview.content_type, data))
