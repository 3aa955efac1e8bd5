"""One channel: as asyncssh sees it (`Session`), and as its caller does (`SshChannel`).

A session belongs to nobody until it is adopted; until then nothing of it is read. Who may have one is decided in channels.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import asyncssh

from comfytunnel.tunnel.flow import Flow
from comfytunnel.tunnel.inside import grant, take_window
from comfytunnel.tunnel.link import Sink

if TYPE_CHECKING:
    from comfytunnel.tunnel.channels import Channels


class Session(asyncssh.SSHTCPSession[bytes]):
    """One channel as asyncssh sees it. Reading is paused until somebody adopts it and resumes."""

    def __init__(self, channels: Channels, flow: Flow) -> None:
        self.meter = flow.meter()
        self._flow = flow
        self._channels = channels
        self._chan: asyncssh.SSHTCPChannel[bytes] | None = None
        self._sink: Sink | None = None
        self._ended = False  # the far side sends no more
        self._lost: bool | None = None  # closed for good; whether cleanly

    @property
    def opened(self) -> bool:
        return self._chan is not None

    @property
    def usable(self) -> bool:
        return (
            self._chan is not None and not self._ended and self._lost is None and not self._chan.is_closing()
        )

    def adopt(self, sink: Sink) -> SshChannel:
        """Give the channel to `sink`, which also hears of an end that came between the confirmation and now."""
        assert self._chan is not None
        self._sink = sink
        self._flow.greet(self.meter)
        loop = asyncio.get_running_loop()
        if self._ended:
            loop.call_soon(sink.eof_received)
        if self._lost is not None:
            loop.call_soon(partial(sink.channel_lost, clean=self._lost))
        return SshChannel(self._chan, partial(self._channels.waiting.spoke, self))

    def abort(self) -> None:
        if self._chan is not None:
            self._chan.abort()

    def connection_made(self, chan: asyncssh.SSHTCPChannel[bytes]) -> None:
        self._chan = chan
        chan.pause_reading()
        take_window(chan)
        self.meter.grant = partial(grant, chan)

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        if self._sink is not None:
            self._channels.waiting.heard(self, len(data))
            self._sink.data_received(data)
            self._channels.session_answered()
        self._flow.passed_on(self.meter, len(data))

    def eof_received(self) -> bool:
        self._ended = True
        self._channels.waiting.done(self)
        if self._sink is not None:
            self._sink.eof_received()
        else:
            self._channels.session_ended(self)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = exc is None and not self._channels.dead
        self._channels.session_lost(self)
        self._channels.waiting.done(self)
        if self._sink is not None:
            self._sink.channel_lost(clean=self._lost)
        else:
            self._channels.session_ended(self)

    def pause_writing(self) -> None:
        if self._sink is not None:
            self._sink.pause_writing()

    def resume_writing(self) -> None:
        if self._sink is not None:
            self._sink.resume_writing()


class SshChannel:
    """See link.Channel: a thin shell around asyncssh's, which raises when it is used after its end."""

    def __init__(self, chan: asyncssh.SSHTCPChannel[bytes], on_sent: Callable[[], None]) -> None:
        self._chan = chan
        self._on_sent = on_sent

    def write(self, data: bytes) -> None:
        if not self._chan.is_closing():
            self._on_sent()
            self._chan.write(data)

    def write_eof(self) -> None:
        if not self._chan.is_closing():
            self._chan.write_eof()

    def pause_reading(self) -> None:
        self._chan.pause_reading()

    def resume_reading(self) -> None:
        self._chan.resume_reading()

    def close(self) -> None:
        self._chan.close()

    def abort(self) -> None:
        self._chan.abort()
