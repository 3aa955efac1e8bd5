"""The Python client of the control API: `Client().status()`. Each call opens a connection of its own and closes it.

The shell around protocol.py: it sends and receives over the Unix socket with http.client, because that starts in 20 ms where
httpx takes 180 (measured). Nothing of the daemon is imported here: the API is the only thing that the two share.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from comfytunnel import paths, wire
from comfytunnel.errors import NotRunningError, RefusedError, RemoteError, TimedOutError
from comfytunnel.protocol import (
    DAEMON_EVENTS,
    JOB_EVENTS,
    Call,
    DaemonEvent,
    EventParser,
    Goal,
    JobEvent,
    ServerSentEvent,
    decode,
    error_from,
    usable,
    version_of,
)
from comfytunnel.unixhttp import Answer, UnixConnection, blame
from comfytunnel.unixhttp import how_to_start as how_to_start
from comfytunnel.uploads import form

T = TypeVar("T")

LOOK_PATIENCE = 30.0  # seconds for an answer that begins with a look at the host, and may write a file
SILENCE = 40.0  # seconds without a byte after which a stream is dead; the daemon sends a comment every 15 s
PATIENCE = (
    60.0  # seconds that a restart of the daemon may take before `follow` gives up the view (never the job)
)
UPLOAD_PATIENCE = 60.0  # seconds for the next bytes to be taken, or the answer: the daemon's disk may be slow
DOCTOR_PATIENCE = 60.0  # seconds; the daemon gives itself 45
PAUSE = 0.3  # seconds between two attempts to find the daemon again


class Client:
    """The daemon behind one control socket. Calls block; `timeout` is in seconds and holds for each answer.

    Every call may raise UsageError (a path longer than a socket's may be), NotRunningError (no daemon, or one that does not
    answer), RefusedError (not our daemon), and what its route answers with.
    """

    def __init__(
        self,
        socket_path: Path | None = None,
        timeout: float = 10.0,
        told_version: Callable[[str], None] | None = None,
    ) -> None:
        """`told_version` hears with each answer which version of comfytunnel the daemon is."""
        self.socket_path = socket_path or paths.socket_path()
        self.timeout = timeout
        self._told_version = told_version
        self.last_event_id = ""
        """The id of the last event that `events` has returned: where to resume."""

    def status(self) -> wire.Status:
        return self._call(Call("GET", "/v1/status", wire.Status))

    def health(self) -> wire.Health:
        return self._call(Call("GET", "/v1/health", wire.Health))

    def ready(self) -> wire.Ready:
        """Whether work could be done now; `why` says for each tunnel what it lacks."""
        try:
            return self._call(Call("GET", "/v1/ready", wire.Ready))
        except RemoteError as error:
            if error.code_on_wire != "not_ready":
                raise
            return wire.Ready(False, error.details.get("why") or {"": error.message})

    def tunnels(self) -> dict[str, wire.Tunnel]:
        return self._call(Call("GET", "/v1/tunnels", dict[str, wire.Tunnel]))

    def tunnel(self, name: str) -> wire.Tunnel:
        """NotFoundError for a name that is not configured; so too up, down and reconnect, which return the state right after."""
        return self._call(Call("GET", f"/v1/tunnels/{_part(name)}", wire.Tunnel))

    def up(self, name: str) -> wire.Tunnel:
        return self._call(Call("POST", f"/v1/tunnels/{_part(name)}/up", wire.Tunnel))

    def down(self, name: str) -> wire.Tunnel:
        return self._call(Call("POST", f"/v1/tunnels/{_part(name)}/down", wire.Tunnel))

    def reconnect(self, name: str) -> wire.Tunnel:
        return self._call(Call("POST", f"/v1/tunnels/{_part(name)}/reconnect", wire.Tunnel))

    def trust(self, name: str, fingerprint: str | None = None) -> wire.Trust:
        """What known_hosts holds for the tunnel's host and what the host shows now; with the fingerprint that a person has seen that key
        is trusted from now on. RefusedError if the host shows another, or a revoked one; RemoteError if it cannot be reached."""
        body = msgspec.json.encode(wire.TrustRequest(fingerprint))
        patient = self._patient(LOOK_PATIENCE)
        return patient._call(Call("POST", f"/v1/tunnels/{_part(name)}/trust", wire.Trust, body))

    def outages(self, *, tunnel: str | None = None, limit: int | None = None) -> list[wire.Outage]:
        """Times without a link, the newest first: those that go on (`ended` None), then those that have ended."""
        asked = {"tunnel": tunnel, "limit": limit}
        query = urlencode({name: value for name, value in asked.items() if value is not None})
        return self._call(Call("GET", f"/v1/outages{'?' if query else ''}{query}", wire.OutageList)).outages

    def metrics(self) -> str:
        """What Prometheus reads."""
        with self._exchange(Call("GET", "/v1/metrics", bytes)) as answer:
            return answer.read().decode()

    def doctor(self, name: str | None = None) -> wire.Doctor:
        """Let the daemon take the whole road of one tunnel, or of each; takes up to 50 s. NotFoundError as with `tunnel`."""
        query = f"?{urlencode({'tunnel': name})}" if name is not None else ""
        patient = self._patient(DOCTOR_PATIENCE)
        return patient._call(Call("GET", f"/v1/doctor{query}", wire.Doctor))

    def reload(self) -> dict[str, Any]:
        """Let the daemon read its config again. ConfigError when it is broken; then nothing has changed."""
        return self._call(Call("POST", "/v1/reload", dict[str, Any]))

    def submit(
        self,
        workflow: dict[str, Any],
        *,
        tunnel: str | None = None,
        label: str | None = None,
        priority: int = 0,
        ttl: float | None = None,
        fail_fast: bool = False,
        webhook: str | None = None,
        webhook_secret: str | None = None,
    ) -> wire.Job:
        """Hand over a workflow in API format and return the job: it is on disk then. WorkflowError when it can never run, RefusedError
        (`queue_full`, `queue_draining`) when nothing is taken now.

        `ttl`: seconds in which it must begin to run, else it expires. `fail_fast`: it fails where it would have to wait for more than the
        jobs before it. `webhook`: who is told of its end (http://, https:// or unix:/PATH), signed with `webhook_secret` (whsec_...) or the
        daemon's own secret.
        """
        hook = None if webhook is None else wire.WebhookRequest(url=webhook, secret=webhook_secret)
        extra = wire.JobRequestExtra(
            tunnel=tunnel, label=label, priority=priority, ttl=ttl, fail_fast=fail_fast, webhook=hook
        )
        body = msgspec.json.encode(wire.JobRequest(workflow=workflow, comfytunnel=extra))
        return self._call(Call("POST", "/api/v2/jobs", wire.Job, body))

    def job(self, job_id: str) -> wire.Job:
        return self._call(Call("GET", f"/api/v2/jobs/{_part(job_id)}", wire.Job))

    def jobs(
        self,
        *,
        status: str | None = None,
        prefix: str | None = None,
        cursor: str | None = None,
        limit: int | None = None,
    ) -> wire.JobList:
        """Return one page, the newest first; `next_cursor` of it asks for the next. `prefix`: what the id begins with, at least 4 characters."""
        asked = {"status": status, "prefix": prefix, "cursor": cursor, "limit": limit}
        query = urlencode({name: value for name, value in asked.items() if value is not None})
        return self._call(Call("GET", f"/api/v2/jobs{'?' if query else ''}{query}", wire.JobList))

    def cancel(self, job_id: str) -> wire.Job:
        return self._call(Call("POST", f"/api/v2/jobs/{_part(job_id)}/cancel", wire.Job))

    def retry(self, job_id: str) -> wire.Job:
        """A new job like an ended one. RefusedError if that has not ended."""
        return self._call(Call("POST", f"/v1/jobs/{_part(job_id)}/retry", wire.Job))

    def prioritise(self, job_id: str, priority: int) -> wire.Job:
        """Give a waiting job another priority. RefusedError if it does not wait any more."""
        body = msgspec.json.encode(wire.PriorityRequest(priority))
        return self._call(Call("POST", f"/v1/jobs/{_part(job_id)}/priority", wire.Job, body))

    def move(
        self, job_id: str, *, before: str | None = None, to: Literal["front", "back"] | None = None
    ) -> wire.Job:
        """Let a waiting job stand before another one, or at an end of the line. Errors as with `prioritise`."""
        body = msgspec.json.encode(wire.MoveRequest(before=before, to=to))
        return self._call(Call("POST", f"/v1/jobs/{_part(job_id)}/move", wire.Job, body))

    def move_to(self, job_id: str, tunnel: str | None = None) -> wire.Job:
        """Let a job that has not ended run on that tunnel's ComfyUI, or on any. One that was given to another may run there as well. RefusedError if it cannot
        be moved, RemoteError (`unknown_tunnel`)."""
        body = msgspec.json.encode(wire.MoveRequest(tunnel=tunnel))
        return self._call(Call("POST", f"/v1/jobs/{_part(job_id)}/move", wire.Job, body))

    def queue(self, order: Literal["pause", "drain", "resume"] | None = None) -> wire.Queue:
        """The queue as a whole, after an `order` if one is given."""
        if order is None:
            return self._call(Call("GET", "/v1/queue", wire.Queue))
        return self._call(Call("POST", f"/v1/queue/{order}", wire.Queue))

    def upload(
        self, path: Path | str, *, name: str | None = None, content_type: str | None = None
    ) -> wire.Asset:
        """Send a file and return its asset, which a workflow may mean by its id or by its name (`file_path`; default: that of the file).
        UsageError if it cannot be read or is too large, StateError (`disk_full`)."""
        patient = self._patient(UPLOAD_PATIENCE)
        with form(Path(path), name, content_type) as (body, headers):
            call = Call("POST", "/api/v2/assets", wire.Asset)
            with patient._exchange(call, headers, body) as answer:
                return call.read(answer.status, answer.read())

    def delete_asset(self, asset_id: str) -> None:
        """NotFoundError when there is none, RefusedError for what a job has made."""
        with self._exchange(Call("DELETE", f"/api/v2/assets/{_part(asset_id)}", bytes)):
            pass

    def download(self, asset_id: str, to: BinaryIO) -> int:
        """Write the asset's bytes to `to` and return their number."""
        done = 0
        with self._exchange(Call("GET", f"/api/v2/assets/{_part(asset_id)}/content", bytes)) as answer:
            while chunk := answer.read_some():
                to.write(chunk)
                done += len(chunk)
        return done

    def events(
        self, last_event_id: str | None = None, *, timeout: float | None = None
    ) -> Iterator[DaemonEvent]:
        """What happens in the daemon: a Status first, then TunnelEvent, Job and Outage. Ends when the daemon stops.

        With the id of the last event seen (`last_event_id`), the jobs that have changed since come first. TimedOutError after
        `timeout` seconds in all.
        """
        for event in self._stream("/v1/events", last_event_id, timeout):
            kind = DAEMON_EVENTS.get(event.name)
            self.last_event_id = event.id
            if kind is not None:
                yield decode(event.data, kind)

    def job_events(self, job_id: str, *, timeout: float | None = None) -> Iterator[JobEvent]:
        """The live view of one job; ends after its terminal status, or when the daemon stops."""
        for event in self._stream(f"/api/v2/jobs/{_part(job_id)}/events", None, timeout):
            kind = JOB_EVENTS.get(event.name)
            if kind is not None:
                yield decode(event.data, kind)

    def follow(
        self,
        job_id: str,
        *,
        timeout: float | None = None,
        patience: float = PATIENCE,
        away: Callable[[], None] | None = None,
    ) -> Iterator[JobEvent | wire.Job]:
        """The live view of one job over restarts of the daemon; the last item is the finished Job.

        An output comes once; `away` is called when the daemon is found to be away. TimedOutError after `timeout` seconds, NotRunningError when the daemon stays away for `patience`
        seconds: the job is on disk and goes on when the daemon does.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        lost_at: float | None = None
        shown: set[str] = set()
        while True:
            try:
                for event in self._events_or_snapshot(job_id, deadline):
                    lost_at = None
                    if isinstance(event, wire.Output):
                        if event.id in shown:
                            continue
                        shown.add(event.id)
                    yield event
                    if isinstance(event, wire.Job):
                        return
            except NotRunningError:
                if lost_at is None:
                    lost_at = time.monotonic()
                    if away is not None:
                        away()
                if time.monotonic() - lost_at > patience:
                    raise
                if _left(deadline) == 0:
                    raise TimedOutError(f"{timeout:g} seconds have passed.") from None
            left = _left(deadline)
            time.sleep(PAUSE if left is None else min(PAUSE, left))

    def _events_or_snapshot(self, job_id: str, deadline: float | None) -> Iterator[JobEvent | wire.Job]:
        """The stream as long as it lasts, then the job as it is: its end when it has ended, else what a stream would begin with."""
        try:
            yield from self.job_events(job_id, timeout=_left(deadline))
        except (
            RefusedError,
            RemoteError,
        ) as error:  # no stream to be had (too many); the job can still be asked for
            if error.code_on_wire not in {"too_many_streams", "not_implemented"}:
                raise
        job = self.job(job_id)
        if job.status in wire.TERMINAL:
            yield from job.outputs
            yield job
        else:
            waits = job.comfytunnel.waits_for if job.comfytunnel else None
            yield wire.StatusEvent(job.status, job.queue_position, wire.StatusExtra(waits) if waits else None)
            if job.progress is not None:
                yield job.progress

    def wait(
        self,
        name: str | None = None,
        *,
        until: Goal = "serving",
        timeout: float | None = None,
        told: Callable[[wire.Status], None] | None = None,
    ) -> wire.Status:
        """Return as soon as the tunnel `name` (None: any of them) is up, or up with ComfyUI serving.

        `told` hears of every state on the way. NotFoundError for a name that is not configured, TimedOutError after `timeout`
        seconds, NotRunningError when the daemon stops meanwhile.
        """
        latest = self.status()
        if name is not None and name not in latest.tunnels:
            self.tunnel(name)  # raises, with the names that are known
        if usable(latest, name, until):
            return latest
        for event in self.events(timeout=timeout):
            if isinstance(event, wire.Job | wire.Outage):
                continue
            if isinstance(event, wire.Status):
                latest = event
            else:
                latest.tunnels[event.name] = event.tunnel
            if usable(latest, name, until):
                return latest
            if told is not None:
                told(latest)
        raise NotRunningError("The daemon has stopped while we waited.", hint=how_to_start())

    def _patient(self, seconds: float) -> Client:
        """The same client with more patience."""
        return Client(self.socket_path, max(self.timeout, seconds), self._told_version)

    def _call(self, call: Call[T]) -> T:
        with self._exchange(call) as answer:
            return call.read(answer.status, answer.read())

    def _stream(
        self, path: str, last_event_id: str | None, timeout: float | None
    ) -> Iterator[ServerSentEvent]:
        deadline = None if timeout is None else time.monotonic() + timeout
        headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
        parser = EventParser()
        with self._exchange(Call("GET", path, bytes), headers) as answer:
            while True:
                left = _left(deadline)
                if left is not None and left <= SILENCE:
                    try:
                        data = answer.read_some(left)
                    except NotRunningError as error:
                        if _left(deadline):
                            raise
                        raise TimedOutError(f"{timeout:g} seconds have passed.") from error
                else:
                    data = answer.read_some(SILENCE)
                if not data:
                    return
                yield from parser.feed(data)

    @contextlib.contextmanager
    def _exchange(
        self, call: Call[Any], headers: dict[str, str] | None = None, body: Iterator[bytes] | None = None
    ) -> Iterator[Answer]:
        """Send `call` on a connection of its own, and close it at the end. An answer of 400 and above is raised."""
        paths.check_socket_path(self.socket_path)
        connection = UnixConnection(self.socket_path, self.timeout)
        try:
            with blame(self.socket_path):
                try:
                    connection.request(call.method, call.path, body or call.body, headers or {})
                except (BrokenPipeError, ConnectionResetError):
                    if body is None:
                        raise
                    # refused before all of it was sent: the answer says why
                answer = Answer(connection, connection.getresponse())
            if self._told_version is not None and (version := version_of(answer.server)) is not None:
                self._told_version(version)
            if answer.status >= 400:
                raise error_from(answer.status, answer.read())
            yield answer
        finally:
            connection.close()


def _part(name: str) -> str:
    return quote(name, safe="")


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())
