"""What is soaked: a daemon process with two tunnels, the relays, the sshd and the servers behind it, all of our own and on loopback.

`comfy` leads to a ComfyUI stand-in, `files` to a plain file server that nothing ever happens to, so that whatever a caller of it sees
is the tunnel's doing. Here is what can be started, stopped and looked at; what goes wrong is in faults.py.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from bench.rig import Part, part

from comfytunnel import wire
from comfytunnel.client import Client
from comfytunnel.demo.comfyui import ComfyUI
from comfytunnel.errors import Error
from tests.fakes.relay import Relay
from tests.fakes.sshd import Sshd, free_port

T = TypeVar("T")

START_DEADLINE = 20.0  # seconds until a daemon serves
STOP_DEADLINE = 3.0  # seconds; it promises two
BIG = 3_000_000  # bytes of the file server's large file
SLOW_RATE = 250_000.0  # bytes/s, 2 Mbit/s
SLOW_DELAY = 0.05  # seconds each way
HOLD = 10.0  # seconds that a caller is held at the doors
LOOK = 0.02  # seconds between two looks at the status
TUNNELS = ("comfy", "files")


class Broken(Exception):  # noqa: N818 - a finding, not a mistake
    """What the daemon must not do, in words."""


class Site:
    """`async with Site(base, log) as site: await site.start()`."""

    def __init__(self, base: Path, rng: random.Random) -> None:
        self.base = base
        self.rng = rng
        self.log = base / "daemon.log"
        self.client = Client(base / "control.sock", timeout=5.0)
        self.sshd = Sshd(base)
        self.comfyui = ComfyUI(base / "instance")
        self.lives = [0]  # for each start of the stand-in: how many executions there had been
        self.ports = {name: free_port() for name in TUNNELS}
        self.settings: dict[str, dict[str, Any]] = {name: {} for name in TUNNELS}
        self.max_ahead = 1
        self.process: asyncio.subprocess.Process | None = None
        self.starts = 0
        self._stack = AsyncExitStack()
        self.big = b""
        self.digest = ""
        self.files: Part
        self.relay: Relay
        self.detour: Relay  # another way to the same sshd
        self.thin: Relay  # and a slow one

    async def __aenter__(self) -> Self:
        self.big = random.Random(1).randbytes(BIG)
        self.digest = hashlib.sha256(self.big).hexdigest()
        (self.base / "big").write_bytes(self.big)
        enter = self._stack.enter_async_context
        try:
            await enter(self.sshd)
            await enter(self.comfyui)
            self.files = await enter(part("bench._fileserver", str(self.base / "big")))
            self.relay = await enter(Relay(self.sshd.port))
            self.detour = await enter(Relay(self.sshd.port))
            self.thin = await enter(Relay(self.sshd.port, rate=SLOW_RATE, delay=SLOW_DELAY))
            self.trust()
            self.write_config()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        await self._stack.aclose()

    # --- the daemon -------------------------------------------------------------------------------------------------

    def trust(self) -> None:
        """Write the host key that sshd has now into known_hosts, for all ways to it."""
        lines = [self.sshd.known_hosts_line_at(relay.port) for relay in (self.relay, self.detour, self.thin)]
        (self.base / "known_hosts").write_text("".join(f"{line}\n" for line in lines))

    def write_config(self) -> None:
        remotes = {"comfy": self.comfyui.port, "files": self.files.port}
        lines = []
        for name in TUNNELS:
            values = {
                "host": "127.0.0.1",
                "port": self.relay.port,
                "user": self.sshd.user,
                "identity_file": str(self.sshd.client_key),
                "ssh_config": "/dev/null",
                "known_hosts": str(self.base / "known_hosts"),
                "listen": f"127.0.0.1:{self.ports[name]}",
                "remote": f"127.0.0.1:{remotes[name]}",
                "hold": HOLD,
            } | self.settings[name]
            lines += [f"[tunnels.{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
        lines += ["[jobs]", f'output_dir = "{self.base / "pictures"}"', f"max_ahead = {self.max_ahead}"]
        lines += ["[log]", 'format = "json"']
        config = self.base / "config.toml"
        config.write_text("\n".join(lines) + "\n")
        config.chmod(0o600)

    async def start(self) -> None:
        """Start a daemon. It is not up yet when this returns."""
        env = {key: value for key, value in os.environ.items() if key not in _OTHERS} | {
            "COMFYTUNNEL_CONFIG": str(self.base / "config.toml"),
            "COMFYTUNNEL_SOCKET": str(self.base / "control.sock"),
            "COMFYTUNNEL_STATE_DIR": str(self.base / "state"),
            "DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={self.base / 'no-bus'}",
        }
        words = (sys.executable, *_WARN, "-m", "comfytunnel", "daemon")
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(*words, env=env, stdout=log, stderr=log)
        self.starts += 1

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End the daemon and wait for it. Broken when SIGTERM does not end it in time with status 0."""
        assert self.process is not None
        self.process.send_signal(number)
        try:
            await asyncio.wait_for(self.process.wait(), STOP_DEADLINE)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
            raise Broken(f"{number.name} did not end the daemon within {STOP_DEADLINE:.0f} s") from None
        if number is signal.SIGTERM and self.process.returncode != 0:
            raise Broken(f"after SIGTERM the daemon ended with status {self.process.returncode}")

    # --- looking ----------------------------------------------------------------------------------------------------

    async def ask(self, call: Callable[[], T]) -> T:
        """A call of the blocking client, beside the servers that live in this loop."""
        return await asyncio.to_thread(call)

    async def links(self) -> dict[str, int]:
        """How many links each tunnel has begun so far."""
        return {name: found.counters.links for name, found in (await self.ask(self.client.tunnels)).items()}

    async def until(self, wanted: Callable[[dict[str, wire.Tunnel]], bool], what: str, bound: float) -> float:
        """Wait for a state of the tunnels; seconds that it took. Broken after `bound` seconds."""
        began = time.monotonic()
        seen: dict[str, wire.Tunnel] = {}
        why = "it does not answer"
        while time.monotonic() < began + bound:
            try:
                seen = await self.ask(self.client.tunnels)
            except Error as error:  # starting, or stopped on purpose
                why = error.message
            else:
                if wanted(seen):
                    return time.monotonic() - began
                why = "; ".join(f"{name}: {_words(tunnel)}" for name, tunnel in seen.items())
            await asyncio.sleep(LOOK)
        raise Broken(f"not {what} within {bound:.0f} s: {why}")

    async def settled(
        self, bound: float, after: dict[str, int] | None = None, *, serving: bool = True
    ) -> float:
        """Wait until both tunnels are up, without a cause, and what is behind them is known to serve; with `after`, each by a
        link that is newer than that."""
        newer_than = after or dict.fromkeys(TUNNELS, 0)
        return await self.until(
            lambda seen: all(
                name in seen
                and _is_well(seen[name], serving)
                and seen[name].counters.links > newer_than[name]
                for name in TUNNELS
            ),
            "up",
            bound,
        )


def _is_well(tunnel: wire.Tunnel, serving: bool) -> bool:
    is_up = tunnel.phase == "up" and tunnel.cause is None
    return is_up and (tunnel.comfyui.state == "serving" or not serving)


def _words(tunnel: wire.Tunnel) -> str:
    cause = f" ({tunnel.cause.code}: {tunnel.cause.message})" if tunnel.cause else ""
    return f"{tunnel.phase}{cause}, ComfyUI {tunnel.comfyui.state}, next {tunnel.next}"


# What is left open is a finding; sdnotify drops its socket so where there is no service manager.
_WARN = ("-W", "default::ResourceWarning", "-W", "ignore::ResourceWarning:sdnotify")
_OTHERS = (
    "NOTIFY_SOCKET",
    "SSH_AUTH_SOCK",
    "JOURNAL_STREAM",
)  # what a surrounding service or agent would add
