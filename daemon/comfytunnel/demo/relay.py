"""A TCP relay on loopback that can go wrong: cut its connections with a reset, freeze them without a word, refuse new ones.

It copies bytes and knows nothing of SSH. Freezing stops the copying in both directions and keeps the bytes, so that the
ends see what they see of a stopped process or a dead path: no FIN, no RST, nothing. New connections work meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import struct

from comfytunnel.ending import end_accepting

CHUNK = 256 * 1024
"""Bytes copied at a time."""


class _Pair:
    """One connection through the relay: a task for each direction; either's end ends both."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self.near = near
        self.far = far
        self.flowing = asyncio.Event()
        self.flowing.set()

    async def copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A connection that is reset or aborted ends the copying like an orderly one.
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(CHUNK):
                await self.flowing.wait()
                writer.write(data)
                await writer.drain()
        await self.flowing.wait()
        self.near.close()
        self.far.close()

    def reset(self) -> None:
        """Abort both ends; the near one with RST instead of FIN (linger 0), unsent bytes are lost."""
        sock: socket.socket | None = self.near.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError):  # already closed
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.flowing.set()
        self.near.transport.abort()
        self.far.transport.abort()


class Relay:
    """Listens on one port, copies to another port of 127.0.0.1."""

    def __init__(self) -> None:
        self.refusing = False
        """Reset new connections as soon as they are made."""
        self.port = 0
        self.accepted = 0
        """Connections ever accepted, refused ones not counted."""
        self._host = ""
        self._target = 0
        self._server: asyncio.Server | None = None
        self._pairs: dict[asyncio.Task[None], _Pair | None] = {}

    @property
    def live(self) -> int:
        return sum(pair is not None for pair in self._pairs.values())

    async def start(self, target: int, host: str = "127.0.0.1", port: int = 0) -> int:
        """Copy every connection to `target`; returns the bound port."""
        self._target, self._host = target, host
        self._server = await asyncio.start_server(self._arrived, host, port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self.port

    async def unbind(self) -> None:
        """Close the listening socket only: new connections meet "connection refused", living ones go on."""
        if self._server:
            await end_accepting(self._server)
            self._server = None

    async def rebind(self) -> None:
        """Listen again on the same port."""
        await self.start(self._target, self._host, self.port)

    async def stop(self) -> None:
        await self.unbind()
        self.cut()
        tasks = list(self._pairs)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for _ in range(3):  # asyncio closes the socket of an aborted transport in a later turn of the loop
            await asyncio.sleep(0)

    def cut(self) -> None:
        """Reset all living connections."""
        for pair in self._pairs.values():
            if pair:
                pair.reset()

    def freeze(self) -> None:
        """Stop copying on all living connections; new ones work."""
        for pair in self._pairs.values():
            if pair:
                pair.flowing.clear()

    def unfreeze(self) -> None:
        """Go on copying where it stopped; nothing is lost."""
        for pair in self._pairs.values():
            if pair:
                pair.flowing.set()

    def _arrived(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of our own: those that asyncio makes for a coroutine here complain when they are cancelled.
        task = asyncio.create_task(self._carry(reader, writer), name="relay pair")
        self._pairs[task] = None
        task.add_done_callback(functools.partial(self._left, writer))

    def _left(self, near: asyncio.StreamWriter, task: asyncio.Task[None]) -> None:
        del self._pairs[task]
        near.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        me = asyncio.current_task()
        assert me is not None
        far: asyncio.StreamWriter | None = None
        try:
            if self.refusing:
                return
            self.accepted += 1
            far_reader, far = await asyncio.open_connection("127.0.0.1", self._target)
            pair = self._pairs[me] = _Pair(writer, far)
            async with asyncio.TaskGroup() as group:
                group.create_task(pair.copy(reader, far))
                group.create_task(pair.copy(far_reader, writer))
        except OSError:
            return  # the target does not listen: the near end is aborted, too
        finally:
            if far:
                far.transport.abort()
