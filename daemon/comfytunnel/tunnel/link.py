"""What the driver and the door need of a link: Protocols, and the few values that cross them.

A link is one authenticated SSH connection. It opens channels to the forwarded port, answers questions, and ends once. Its
life is one task of the driver; nobody else closes it. Implementations turn their library's exceptions into the errors here.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from comfytunnel.tunnel.state import Cause

TEXT_LIMIT = 300  # characters of the far side's own words in a cause


class LinkError(Exception):
    """The link could not be opened, or has ended; `cause` says why."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(cause.message)
        self.cause = cause


class ChannelRefused(Exception):  # noqa: N818 - the word of RFC 4254 for it
    """The far side answered the opening of a channel with a failure: the link lives, the remote port does not."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(cause.message)
        self.cause = cause


class Sink(Protocol):
    """The near side of a channel: what the far side's bytes go into. Called from the event loop, never re-entered."""

    def data_received(self, data: bytes) -> None: ...
    def eof_received(self) -> None:
        """The far side sends no more; our direction stays open."""

    def channel_lost(self, *, clean: bool) -> None:
        """The channel is closed for good. `clean`: by the far side's close; otherwise the link died under it."""

    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...


class Channel(Protocol):
    """The far side of a caller: one SSH channel to the forwarded port."""

    def write(self, data: bytes) -> None: ...
    def write_eof(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def close(self) -> None:
        """Send what is unsent, then close."""

    def abort(self) -> None:
        """Close now; unsent bytes are dropped."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known about a live connection, for people. Texts from the far side are unchecked."""

    host: str
    port: int
    user: str
    host_key: str | None = None  # SHA256 fingerprint
    server_version: str | None = None
    banner: str | None = None
    local_address: str | None = None
    peer_address: str | None = None  # of the first hop; none behind a jump host or a command


class Link(Protocol):
    """One live connection."""

    @property
    def facts(self) -> Facts: ...

    @property
    def rtt(self) -> float | None:
        """The newest measured round trip over SSH, in seconds."""

    @property
    def heard(self) -> float:
        """When the far side gave its last sign of life, on the event loop's clock: bytes, or its own end of the connection."""

    @property
    def spoke(self) -> float:
        """When the last bytes came from the far side, on the event loop's clock."""

    @property
    def full(self) -> bool:
        """Whether an opening would have to wait for another channel's end."""

    async def silence(self, after: float, patience: float) -> None:
        """Wait until no byte has come from the far side for `after` seconds; for `patience` seconds while a caller waits for
        its channel or for an answer."""

    async def open(self, sink: Sink) -> Channel:
        """A channel to the forwarded port, opened or taken from the spares, its reading paused. A spare says nothing about the link of now: see proof(). Raises ChannelRefused; LinkError if the
        link ends meanwhile. A caller that is cancelled leaves no channel behind. No deadline: the driver's question
        decides whether a link that does not confirm is dead."""

    async def proof(self) -> None:
        """Ask for a sign of life, and wait for the next bytes. Raises LinkError if the link ends first. No deadline, as for open()."""

    async def ask(self, deadline: float) -> float | None:
        """Ask for a sign of life. Returns the round trip in seconds if the question itself was answered, None if only
        other bytes came. Raises TimeoutError after `deadline` seconds of total silence, counted from the moment when the line
        took the last of what was queued before it; LinkError if the link ends."""

    async def ended(self) -> Cause:
        """Wait until the link has ended by itself."""


class Opener(Protocol):
    """Opens links to one endpoint: an asynchronous context that holds one link and aborts it on the way out."""

    def __call__(self) -> AbstractAsyncContextManager[Link]:
        """Entering raises LinkError with the cause. Every wait inside has its own deadline."""
