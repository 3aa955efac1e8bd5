"""The far side of one caller: what its channel tells, passed on to the caller. Byte for byte, and decided nowhere here."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from comfytunnel.tunnel.dial import was_reset

if TYPE_CHECKING:
    from comfytunnel.tunnel.caller import Caller
    from comfytunnel.tunnel.door import Door

BULK = 16 << 10  # bytes in one read that only a transfer brings


class FarSide:
    """What the channel's bytes go into: see link.Sink."""

    def __init__(self, caller: Caller, transport: asyncio.Transport, door: Door) -> None:
        self._caller = caller
        self._transport = transport
        self._door = door
        self._loop = asyncio.get_running_loop()
        self._complete = False
        self.lost = False  # the link has died under it before the caller had it

    def data_received(self, data: bytes) -> None:
        if self._caller.forsaken:
            return
        self._caller.answered = True
        self._door.tally.bytes_in += len(data)
        if len(data) >= BULK:
            self._door.bulk_at = self._loop.time()
        self._transport.write(data)

    def eof_received(self) -> None:
        self._complete = True
        if not self._caller.forsaken:
            self._caller.far_ended()

    def channel_lost(self, *, clean: bool) -> None:
        if self._caller.forsaken:
            return  # its channel has been given up by us, and what it gets instead may still be on its way
        if not clean and not self._caller.has_channel:
            self.lost = True
            return
        self._caller.forget_channel()
        if clean or self._complete:
            self._caller.close()
        elif not self._caller.ask_again():
            self._door.tally.lost += 1
            self._caller.reset()

    def pause_writing(self) -> None:
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """A caller that has reset while we did not read gave up what it sent: none of it is passed on any more."""
        if was_reset(self._transport.get_extra_info("socket")):
            self._caller.reset()
        else:
            self._transport.resume_reading()
