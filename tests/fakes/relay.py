"""A TCP relay on loopback that adds delay, limits the rate, and damages connections on command.

It moves bytes and knows nothing of SSH. Delay and rate belong to the line: one line each way, shared by all
connections. What a process cannot imitate: the kernel completes the TCP handshake and acknowledges bytes at
once, so connecting costs no delay and swallowed bytes look delivered to the sender's kernel.
In a test: `async with Relay(sshd.port, delay=0.05) as relay:`. As a process of its own, for fair
measurements: `python -m tests.fakes.relay --target PORT --delay 0.05` prints a JSON line with its port, then
obeys the lines that it reads and ends with its stdin (reset, swallow, swallow-new, refuse, refuse-reset,
heal, delay S, rate B, stats); each is answered with a JSON line of counters.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import sys
from types import TracebackType
from typing import Self

from comfytunnel.ending import end_accepting
from tests.fakes.lanes import CHUNK, QUEUE_SECONDS, Connection, Line

CLOSE_DEADLINE = 5.0  # seconds


class Relay:
    """From 127.0.0.1:`port` to `target_port`; `delay` in seconds and `rate` in bytes/s, both each way.

    `delay` and `rate` may be set at any time and count for bytes read from then on; a rate given here also keeps
    the kernel's buffer small from the start.
    """

    def __init__(
        self, target_port: int, *, delay: float = 0, rate: float | None = None, port: int = 0
    ) -> None:
        self.target_port = target_port
        self.delay = delay
        self.rate = rate
        self.port = port
        self.up = Line()  # towards the target
        self.down = Line()
        self.connections = 0  # accepted since the beginning
        self.swallows_new = False
        self.resets_new = False
        self.memory = memoryview(bytearray(CHUNK))
        self._live: set[Connection] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        # bound but not listening while we refuse, so that nobody else gets the port
        self._socket: socket.socket | None = None
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        await self.heal()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.refuse()
        self.reset_all()
        if self._socket is not None:
            self._socket.close()
        async with asyncio.timeout(CLOSE_DEADLINE):
            await self._empty.wait()

    @property
    def live(self) -> int:
        """Connections with at least one open socket, swallowed ones included."""
        return len(self._live)

    @property
    def bytes_up(self) -> int:
        """Bytes delivered to the target since the beginning."""
        return self.up.passed

    @property
    def bytes_down(self) -> int:
        """Bytes delivered to the callers since the beginning."""
        return self.down.passed

    def reset_all(self) -> None:
        """Both sockets of each live connection get an RST, now."""
        for connection in list(self._live):
            connection.reset()

    def swallow(self) -> None:
        """All bytes of the live connections vanish from now on, for ever: no FIN, no RST. New ones work."""
        for connection in self._live:
            connection.swallow()

    def swallow_new(self) -> None:
        """Like swallow(), and new connections are accepted into the same silence until heal()."""
        self.swallows_new = True
        self.swallow()

    async def refuse(self, *, reset: bool = False) -> None:
        """New connections are refused, or with `reset` accepted and reset at once; live ones stay."""
        self.resets_new = reset
        if reset or self._server is None:
            return
        server, self._server = self._server, None
        await end_accepting(server)
        self._socket = self._bound()

    async def heal(self) -> None:
        """New connections work again; delay and rate stay, and what is swallowed stays lost."""
        self.swallows_new = self.resets_new = False
        if self._server is None:
            sock, self._socket = self._socket or self._bound(), None
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(lambda: Connection(self).near, sock=sock, backlog=1024)

    def _bound(self) -> socket.socket:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.rate is not None:  # or the kernel's megabytes would be a second, longer queue before the line
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, max(65536, int(self.rate * QUEUE_SECONDS)))
        sock.bind(("127.0.0.1", self.port))
        self.port = int(sock.getsockname()[1])
        return sock

    # -- for its own connections -------------------------------------------------------------------

    def accepted(self, connection: Connection) -> None:
        self.connections += 1
        self._live.add(connection)
        self._empty.clear()

    def departed(self, connection: Connection) -> None:
        self._live.discard(connection)
        if not self._live:
            self._empty.set()


async def _serve(arguments: argparse.Namespace) -> None:
    async with Relay(arguments.target, delay=arguments.delay, rate=arguments.rate) as relay:
        print(json.dumps({"port": relay.port}), flush=True)
        lines = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        while line := await lines.readline():
            await _obey(relay, line.decode().split())
            answer = {"connections": relay.connections, "live": relay.live}
            print(json.dumps(answer | {"up": relay.bytes_up, "down": relay.bytes_down}), flush=True)


async def _obey(relay: Relay, words: list[str]) -> None:
    match words:
        case ["reset"]:
            relay.reset_all()
        case ["swallow"]:
            relay.swallow()
        case ["swallow-new"]:
            relay.swallow_new()
        case ["refuse"]:
            await relay.refuse()
        case ["refuse-reset"]:
            await relay.refuse(reset=True)
        case ["heal"]:
            await relay.heal()
        case ["delay", seconds]:
            relay.delay = float(seconds)
        case ["rate", "none"]:
            relay.rate = None
        case ["rate", limit]:
            relay.rate = float(limit)
        case ["stats"]:
            pass
        case _:
            raise SystemExit(f"no such command: {' '.join(words)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--target", type=int, required=True, help="loopback port to relay to")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds each way")
    parser.add_argument("--rate", type=float, help="bytes per second each way")
    asyncio.run(_serve(parser.parse_args()))
