"""logind's word before and after sleep, and a delay lock that holds the machine awake until we have said goodbye.

A sign among three: without a bus, without logind or without the right to the lock we carry on, and say so once. Only logind itself
is believed. dbus-fast is imported when the bus is first needed. Nothing is decided here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from dbus_fast import Message
    from dbus_fast.aio import MessageBus

log = structlog.get_logger(__name__)

PAUSE = 30.0  # seconds before an absent or restarted bus is tried again; the clocks see a sleep meanwhile
CALL_DEADLINE = 5.0  # seconds for an answer of the bus; logind may have to be started for it
GOODBYE = 2.0  # seconds for what is done before sleep; logind's InhibitDelayMaxSec allows 5

BUS = "org.freedesktop.DBus"
BUS_PATH = "/org/freedesktop/DBus"
LOGIN = "org.freedesktop.login1"
PATH = "/org/freedesktop/login1"
MANAGER = "org.freedesktop.login1.Manager"
RULES = (
    f"type='signal',sender='{LOGIN}',path='{PATH}',interface='{MANAGER}',member='PrepareForSleep'",
    f"type='signal',sender='{BUS}',interface='{BUS}',member='NameOwnerChanged',arg0='{LOGIN}'",
)


class Logind:
    """run() is called once. `pause` and `goodbye` in seconds."""

    def __init__(self, *, pause: float = PAUSE, goodbye: float = GOODBYE) -> None:
        self._pause = pause
        self._goodbye = goodbye
        self._said: set[str] = set()

    async def run(self, on_sleep: Callable[[], Awaitable[None]], on_wake: Callable[[], None]) -> None:
        """Await `on_sleep` (for at most `goodbye`) before each sleep, call `on_wake` after it, until cancelled.

        Returns at once where there is no logind by design, or no library for it.
        """
        if sys.platform != "linux":
            return
        try:
            from dbus_fast.errors import AuthError, DBusError, InvalidAddressError
        except ImportError as error:
            self._say_once("dbus-fast is missing", error)
            return
        while True:
            try:
                async with _system_bus() as (bus, ended):
                    await _Watch(bus, ended, self._goodbye, self._say_once).run(on_sleep, on_wake)
            except (OSError, EOFError, AuthError, DBusError, InvalidAddressError) as error:
                self._say_once("no system bus or no logind", error)
            except Exception:
                # Whatever the library stumbles over, or a goodbye that fails, ends a connection to the bus, never the daemon.
                log.exception("logind")
            await asyncio.sleep(self._pause)

    def _say_once(self, what: str, error: Exception) -> None:
        """At info, since nothing is broken: containers and servers have no logind, and many users no right to the lock."""
        if what not in self._said:
            self._said.add(what)
            log.info(
                f"logind: {what}; sleep is noticed by the clocks alone",
                error=str(error) or type(error).__name__,
            )


class _Watch:
    """One connection to the bus: who logind is, the lock, and what has been signalled and not yet been acted on."""

    def __init__(
        self,
        bus: MessageBus,
        ended: asyncio.Task[None],
        goodbye: float,
        say_once: Callable[[str, Exception], None],
    ) -> None:
        self._bus = bus
        self._ended = ended
        self._goodbye = goodbye
        self._say_once = say_once
        self._owner = ""  # logind's unique name; a signal sent to us by anybody else is not its word
        self._lock: int | None = None
        self._inbox: asyncio.Queue[bool | str | None] = asyncio.Queue()

    async def run(self, on_sleep: Callable[[], Awaitable[None]], on_wake: Callable[[], None]) -> None:
        """Until the bus ends the connection. Raises OSError, EOFError and dbus-fast's errors if there is nothing to watch."""
        self._bus.add_message_handler(self._hear)
        self._ended.add_done_callback(lambda _: self._inbox.put_nowait(None))
        try:
            for rule in RULES:
                await self._call(BUS, BUS_PATH, BUS, "AddMatch", "s", [rule])
            await self._learn_owner()
            await self._take_lock()
            while (heard := await self._inbox.get()) is not None:
                if heard is True:
                    await self._say_goodbye(on_sleep)
                    self._release()
                    continue
                if heard is False:
                    on_wake()
                self._release()  # of the former logind, if this is a new one
                await self._take_lock()
            await self._ended  # raises what has ended it
        finally:
            self._release()

    def _hear(self, message: Message) -> None:
        if message.message_type.name != "SIGNAL":
            return
        # Any user of the machine may send us signals, with descriptors until we have none left.
        _close(message)
        if message.member == "NameOwnerChanged" and message.sender == BUS and message.signature == "sss":
            name, _, owner = message.body
            if name == LOGIN:
                self._owner = owner
                if owner:
                    self._inbox.put_nowait(owner)
        elif (
            message.member == "PrepareForSleep"
            and message.interface == MANAGER
            and message.signature == "b"
            and message.sender == self._owner
        ):
            self._inbox.put_nowait(bool(message.body[0]))

    async def _say_goodbye(self, on_sleep: Callable[[], Awaitable[None]]) -> None:
        try:
            async with asyncio.timeout(self._goodbye):
                await on_sleep()
        except TimeoutError:
            log.info("the machine sleeps before all connections were closed", after=self._goodbye)

    async def _learn_owner(self) -> None:
        from dbus_fast.errors import DBusError

        with contextlib.suppress(DBusError):  # nobody yet: NameOwnerChanged will tell
            reply = await self._call(BUS, BUS_PATH, BUS, "GetNameOwner", "s", [LOGIN])
            self._owner = str(reply.body[0])

    async def _take_lock(self) -> None:
        """Take the delay lock; without it we hear of sleep too late to say goodbye, and that is all."""
        from dbus_fast.errors import DBusError

        try:
            reply = await self._call(
                LOGIN, PATH, MANAGER, "Inhibit", "ssss",
                ["sleep", "comfytunnel", "Close the tunnel's connections", "delay"],
            )  # fmt: skip
        except DBusError as error:
            self._say_once("no delay lock", error)
            return
        self._lock = reply.unix_fds[0] if reply.unix_fds else None

    def _release(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    async def _call(
        self, to: str, path: str, interface: str, member: str, signature: str, body: list[Any]
    ) -> Message:
        """Raises DBusError for a refusal, TimeoutError (an OSError) without an answer, and what ends the connection."""
        from dbus_fast import Message, MessageType
        from dbus_fast.errors import DBusError

        call = Message(
            destination=to, path=path, interface=interface, member=member, signature=signature, body=body
        )
        answer = asyncio.ensure_future(self._bus.call(call))
        try:
            async with asyncio.timeout(CALL_DEADLINE):
                reply = await asyncio.shield(answer)
        except BaseException:
            answer.add_done_callback(_close_late)  # a lock that comes now would be held for ever
            raise
        if reply.message_type is MessageType.ERROR:
            text = str(reply.body[0]) if reply.body else "refused"
            raise DBusError(reply.error_name or "org.freedesktop.DBus.Error.Failed", text)
        return reply


def _close(message: Message) -> None:
    for descriptor in message.unix_fds:
        os.close(descriptor)


def _close_late(answer: asyncio.Future[Message]) -> None:
    if not answer.cancelled() and answer.exception() is None:
        _close(answer.result())


@asynccontextmanager
async def _system_bus() -> AsyncIterator[tuple[MessageBus, asyncio.Task[None]]]:
    """A connection to the system bus ($DBUS_SYSTEM_BUS_ADDRESS), closed at the end, and the task that ends with it.

    Raises OSError, EOFError and dbus-fast's errors.
    """
    from dbus_fast import BusType
    from dbus_fast.aio import MessageBus

    bus = MessageBus(bus_type=BusType.SYSTEM, negotiate_unix_fd=True)
    async with asyncio.timeout(CALL_DEADLINE):
        await bus.connect()
    waiting: Coroutine[Any, Any, None] = bus.wait_for_disconnect()  # type: ignore[no-untyped-call]  # dbus-fast leaves it so
    ended = asyncio.create_task(waiting, name="logind/bus")
    try:
        yield bus, ended
    finally:
        bus.disconnect()
        with contextlib.suppress(OSError, EOFError):  # closed is closed
            async with asyncio.timeout(CALL_DEADLINE):
                await ended
