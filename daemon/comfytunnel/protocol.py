"""The client's half of the control API without any I/O: builds requests, reads answers, parses event streams.

The shells in client/ carry the bytes, one with http.client and one with httpx; which calls there are stands in client/calls.py. Nothing here
waits, opens or knows the time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Generic, Literal, TypeVar, cast

import msgspec

from comfytunnel import decoding, wire
from comfytunnel.errors import (
    ConfigError,
    Error,
    NotFoundError,
    Problem,
    RefusedError,
    RemoteError,
    StateError,
    TimedOutError,
    UsageError,
    WorkflowError,
)

T = TypeVar("T")
S = TypeVar("S")
JobEvent = wire.StatusEvent | wire.Progress | wire.PreviewEvent | wire.Output
DaemonEvent = wire.Status | wire.TunnelEvent | wire.Job | wire.Outage
Goal = Literal["up", "serving"]

EVENT_LIMIT = 64 * 2**20  # bytes of one event; a preview of a large picture is a few MB

JOB_EVENTS: dict[str, type[JobEvent]] = {
    "status": wire.StatusEvent,
    "progress": wire.Progress,
    "preview": wire.PreviewEvent,
    "output": wire.Output,
}
DAEMON_EVENTS: dict[str, type[DaemonEvent]] = {
    "status": wire.Status,
    "tunnel": wire.TunnelEvent,
    "job": wire.Job,
    "outage": wire.Outage,
}
_BY_CODE: dict[str, type[Error]] = {
    "invalid_workflow": WorkflowError,
    "workflow_format_ui": WorkflowError,
    "state_error": StateError,
}
_BY_STATUS: dict[int, type[Error]] = {
    400: UsageError,
    401: RefusedError,
    403: RefusedError,
    404: NotFoundError,
    405: UsageError,
    409: RefusedError,
    413: UsageError,
    422: UsageError,
    429: RefusedError,
    504: TimedOutError,
}


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request, and the type that its answer is read as: `bytes` as it is, anything else from JSON. `patience`: seconds that a shell waits for
    the answer at the least, however hasty its user."""

    method: str
    path: str
    result: type[T]
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    patience: float = 0.0

    def read(self, status: int, body: bytes) -> T:
        """Return the answer. Raises the error that the daemon raised, as far as this side has a class for it."""
        if status >= 400:
            raise error_from(status, body)
        return cast("T", body) if self.result is bytes else decode(body, self.result)

    def read_as(self, kind: type[S]) -> Call[S]:
        """The same request, its answer read as another type."""
        same: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)}
        return Call(**{**same, "result": kind})


def error_from(status: int, body: bytes) -> Error:
    """Return the error that an answer of 400 and above carries."""
    try:
        found = decoding.decode(body, wire.ErrorEnvelope).error
    except msgspec.DecodeError:
        return RemoteError(f"The daemon answered with the HTTP status {status} and no reason.")
    details = dict(found.details or {})
    hint = str(details.pop("hint", ""))
    if found.code == "config_error":
        with contextlib.suppress(
            msgspec.ValidationError
        ):  # an older daemon sends no list: the sentence will do
            problems = decoding.convert(details.get("problems"), list[Problem])
            if problems:
                return ConfigError(problems, source=str(details.get("source", "")))
    kind = _BY_CODE.get(found.code) or _BY_STATUS.get(status, RemoteError)
    return kind(found.message, hint=hint, code=found.code, details=details)


def version_of(server: str) -> str | None:
    """Return the daemon's version, from the header `Server` of an answer. None if it does not say one."""
    version = server.removeprefix(wire.SERVER)
    return version if version != server else None


def decode(body: bytes, kind: type[T]) -> T:
    """Return the JSON `body` as `kind`. RemoteError when it is something else."""
    try:
        return decoding.decode(body, kind)
    except msgspec.DecodeError as error:
        raise RemoteError(
            f"The daemon's answer cannot be understood: {error}.",
            hint="Client and daemon may be of different versions: `comfytunnel restart` after an upgrade.",
        ) from error


def name_of(event: JobEvent | DaemonEvent) -> str:
    """Return what the event is called in its stream."""
    for name, kind in (*DAEMON_EVENTS.items(), *JOB_EVENTS.items()):
        if isinstance(event, kind):
            return name
    raise TypeError(f"{event!r} is no event")


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One event as it stood in the stream; `id` is the last one that was sent so far, "" for none."""

    name: str
    data: bytes
    id: str


class EventParser:
    """Server-Sent Events, bytes in and events out. RemoteError when one event outgrows EVENT_LIMIT."""

    def __init__(self) -> None:
        self._rest = b""
        self._name = ""
        self._data: list[bytes] = []
        self._id = ""

    def feed(self, data: bytes) -> Iterator[ServerSentEvent]:
        """Return the events that are complete with `data`. Comments vanish."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) + sum(map(len, self._data)) > EVENT_LIMIT:
            raise RemoteError(f"An event of the daemon is larger than {EVENT_LIMIT // 2**20} MiB.")
        for line in lines:
            field, _, value = line.rstrip(b"\r").partition(b":")
            value = value.removeprefix(b" ")
            if field == b"event":
                self._name = value.decode("utf-8", "replace")
            elif field == b"data":
                self._data.append(value)
            elif field == b"id":
                self._id = value.decode("utf-8", "replace")
            elif not line.rstrip(b"\r"):
                if self._data:
                    yield ServerSentEvent(self._name or "message", b"\n".join(self._data), self._id)
                self._name, self._data = "", []


def is_usable(tunnel: wire.Tunnel, goal: Goal) -> bool:
    """Return whether the tunnel has reached `goal`: its link is up on a port of ours; and, for serving, ComfyUI answers."""
    ours = tunnel.cause is None or tunnel.cause.code != "port_in_use"
    return tunnel.phase == "up" and ours and (goal == "up" or tunnel.comfyui.state == "serving")


def usable(status: wire.Status, name: str | None, goal: Goal) -> bool:
    """Return whether the tunnel `name`, or with None any of them, has reached `goal`."""
    chosen = (
        status.tunnels.values() if name is None else [status.tunnels[name]] if name in status.tunnels else []
    )
    return any(is_usable(tunnel, goal) for tunnel in chosen)
