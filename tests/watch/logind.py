"""A bus of our own and a logind on it: Inhibit hands out the end of a pipe, PrepareForSleep is said when the test says so.

The bus is the real dbus-daemon. Only what a client that wants to hear of sleep can see of logind is here; each lock is a pipe that ends
when the client lets go.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from dbus_fast import Message, MessageType
from dbus_fast.aio import MessageBus

NAME = "org.freedesktop.login1"
PATH = "/org/freedesktop/login1"
MANAGER = "org.freedesktop.login1.Manager"
DEADLINE = 10.0  # seconds

CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path={socket}</listen>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/></policy>
</busconfig>"""


@asynccontextmanager
async def bus_at(socket: Path) -> AsyncIterator[str]:
    """A running dbus-daemon, killed at the end; its address."""
    config = socket.with_suffix(".conf")
    config.write_text(CONFIG.format(socket=socket))
    socket.unlink(missing_ok=True)  # of one that was killed
    process = await asyncio.create_subprocess_exec(
        "dbus-daemon", f"--config-file={config}", "--nofork", "--nopidfile", "--print-address",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        async with asyncio.timeout(DEADLINE):
            address = (await process.stdout.readline()).decode().strip()
        assert address, "dbus-daemon did not start"
        yield address
    finally:
        process.kill()
        await process.wait()


class FakeLogind:
    """`async with FakeLogind(address) as logind:`"""

    def __init__(self, address: str, *, deny: bool = False) -> None:
        self._bus = MessageBus(bus_address=address, negotiate_unix_fd=True)
        self._deny = deny
        self.asked: asyncio.Queue[list[str]] = asyncio.Queue()  # the words of each Inhibit
        self._locks: list[int] = []

    async def __aenter__(self) -> Self:
        await self._bus.connect()
        self._bus.add_message_handler(self._answer)
        await self._bus.request_name(NAME)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bus.disconnect()
        await self._ended()
        for lock in self._locks:
            os.close(lock)

    async def _ended(self) -> None:
        with contextlib.suppress(OSError, EOFError):  # the bus has gone before
            await self._bus.wait_for_disconnect()  # type: ignore[no-untyped-call]  # dbus-fast leaves it so

    def _answer(self, message: Message) -> Message | bool | None:
        if message.message_type is not MessageType.METHOD_CALL or message.member != "Inhibit":
            return None
        self.asked.put_nowait(list(message.body))
        if self._deny:
            return Message.new_error(message, "org.freedesktop.DBus.Error.AccessDenied", "not for you")
        ours, theirs = os.pipe()
        os.set_blocking(ours, False)
        self._locks.append(ours)
        sent = self._bus.send(Message.new_method_return(message, "h", [0], [theirs]))
        sent.add_done_callback(lambda _: os.close(theirs))
        return True

    async def prepare_for_sleep(
        self, begins: bool, *, only_to: str | None = None, descriptors: Sequence[int] = ()
    ) -> None:
        await self._bus.send(
            Message(
                message_type=MessageType.SIGNAL, destination=only_to, path=PATH, interface=MANAGER,
                member="PrepareForSleep", signature="bh" if descriptors else "b", body=[begins, 0] if descriptors else [begins], unix_fds=list(descriptors),
            )
        )  # fmt: skip

    @property
    def held(self) -> list[bool]:
        """Of each lock that was given, in order: whether the client still has it."""
        return [is_open(lock) for lock in self._locks]


def is_open(pipe: int) -> bool:
    try:
        return os.read(pipe, 1) != b""
    except BlockingIOError:
        return True
