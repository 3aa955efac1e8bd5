"""The closed lists of words that the control API says, each written down once: the rooms that decide use them, wire.py tells them in its schemas.

A list is closed for the daemon that says it. Who reads may meet a newer daemon: `one_of` lists the words in the schema, and decodes any text.
Lists that grow (codes of causes, errors and reasons) have no place here. Only words: nothing here knows what they lead to.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import msgspec


class Phase(StrEnum):
    """Of a tunnel."""

    DOWN = "down"  # not wanted
    OFFLINE = "offline"  # no route to the first hop; tried every 30 s all the same
    CONNECTING = "connecting"  # one link is being opened
    UP = "up"  # the link carries channels
    DOUBTFUL = "doubtful"  # there is a link and a question that it has not answered yet
    WAITING = "waiting"  # until `until`, then the next try
    HALTED = "halted"  # only the user can help


class Action(StrEnum):
    """What a tunnel does next by itself."""

    CONNECT = "connect"
    ASK = "ask"  # through the live link, whether it lives
    BIND = "bind"  # its port on this machine, which another program holds


class Sign(StrEnum):
    """How we knew of an outage."""

    CLOSED = "closed"  # the kernel said so: the connection was closed or reset
    QUESTION = "question"  # a question after silence was not answered
    WAKE = "wake"  # nor one after the machine had slept
    ROUTE = "route"  # nor one after its route had changed
    ADDRESS_GONE = "address_gone"  # the local address of the connection vanished
    SLEEP = "sleep"  # we closed it ourselves, before an announced sleep
    TRY = "try"  # no link was there to be lost: a try to get one failed


class ComfyState(StrEnum):
    """Of ComfyUI at the far end of a tunnel."""

    SERVING = "serving"
    STARTING = "starting"
    DOWN = "down"
    WRONG_PORT = "wrong_port"
    ERROR = "error"
    UNKNOWN = "unknown"


class Status(StrEnum):
    """Of a job, in the words of Comfy API v2."""

    QUEUED = "queued"
    RUNNING = "running"
    CANCELING = "canceling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    EXPIRED = "expired"


TERMINAL = frozenset({Status.SUCCEEDED, Status.CANCELED, Status.FAILED, Status.EXPIRED})
"""The statuses that a job never leaves."""

MESSAGES = tuple(f"job.{status}" for status in Status if status in TERMINAL)
"""What a webhook tells of."""


class Mode(StrEnum):
    """What the queue as a whole does. `paused`: nothing more is given to ComfyUI. `draining`: nor is anything more accepted."""

    OPEN = "open"
    PAUSED = "paused"
    DRAINING = "draining"


DRAINED = "drained"
"""What a drain comes to: the queue is still in that mode, and no ComfyUI has a job of ours."""

HookState = Literal["waiting", "pending", "delivered", "failed"]
"""What has become of a webhook: the job has not ended; it is to be told; told; given up."""

OutputKind = Literal["image", "video", "audio", "text", "file", "latent"]
"""Of a file that a job has made, in the words of Comfy API v2."""

ParameterKind = Literal["text", "integer", "number", "seed", "choice", "boolean", "image"]
"""Of what a person may set in a workflow."""

HostKeyStatus = Literal["trusted", "changed", "unknown", "revoked"]
"""What known_hosts says of a key that a host shows."""

AgentSource = Literal["config", "ssh_config", "environment", ""]
"""Who named the SSH agent; "" for nobody."""

Step = Literal[
    "config", "key", "dns", "tcp", "banner", "host_key", "authentication", "channel", "comfyui", "websocket", "disk"
]  # fmt: skip
"""Of the doctor's road, in its order."""

Result = Literal["pass", "fail", "skip"]
"""Of one such step."""


def one_of(*words: str) -> msgspec.Meta:
    """For `Annotated[str, ...]`: the schema lists the words, decoding takes any text."""
    return msgspec.Meta(extra_json_schema={"enum": [str(word) for word in words]})
