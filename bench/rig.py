"""What every benchmark stands on: a real sshd, a fast HTTP server, and a relay for whatever goes wrong on the way.

Each part is a process of its own, so that nothing shares an interpreter with what is measured. Every start, call
and stop has a deadline; what cannot be measured raises NotMeasured with the reason and never becomes a number.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fakes.sshd import Sshd, find_sshd

ROOT = Path(__file__).resolve().parent.parent
START_DEADLINE = 20.0  # seconds until a tunnel has carried its first call
STOP_DEADLINE = 5.0  # seconds; after that a process is killed
CALL_DEADLINE = 180.0  # seconds for one transfer; plain ssh needs 11 for 200 MB at 100 ms
HEAD_ROOM = 4096  # bytes; more than any answer's head here
SMALL = ("/small", b'{"ok": true}\n')
SMALL_OF_COMFYUI = ("/prompt", b'{"exec_info"')


class NotMeasured(Exception):  # noqa: N818 - it is an outcome to be printed, not a mistake
    """Something that was to be measured could not be; the message says why."""


class Part:
    """A helper process that prints its port first and answers each line on stdin with a JSON line."""

    def __init__(self, process: Process, port: int) -> None:
        self.process = process
        self.port = port

    async def command(self, line: str) -> dict[str, Any]:
        """Sends one command and returns the answer; NotMeasured if the process has ended."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())
        return await _json_line(self.process)


@dataclass(frozen=True)
class Rig:
    """`port` is where the far HTTP server listens; `far` is that server if it is a part of ours. A `small` call is a GET of that path, whose
    answer begins with those bytes."""

    folder: Path
    sshd: Sshd
    port: int
    far: Part | None
    small: tuple[str, bytes]
    relay: Part | None
    size: int  # bytes of /big
    digest: str  # SHA-256 of /big
    room: bytearray  # where a download goes; its pages are touched once, before any clock runs

    @property
    def ssh_port(self) -> int:
        """Where the tunnels connect to: the relay if there is one, else sshd."""
        return self.relay.port if self.relay else self.sshd.port


# -- parts ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def rig(
    *,
    rtt: float = 0.0,
    relayed: bool = False,
    size: int = 1_000_000,
    host: str = "127.0.0.1",
    beyond: tuple[str, ...] = (),
    comfyui: int | None = None,
) -> AsyncIterator[Rig]:
    """Everything but the tunnels. `rtt` in seconds is added by a relay; without it and without `relayed` there is none at all.

    What is forwarded is the file server; with `comfyui` the stand-in (0), or the ComfyUI that listens on that port of this machine.
    `beyond` stands before the commands of the far end ("ip netns exec NAME" puts it into another network), where sshd has the address `host`.
    """
    for program in (find_sshd(), shutil.which("ssh")):
        if program is None:
            raise NotMeasured("needs OpenSSH's server and client: install openssh-server and openssh-client")
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        data = random.Random(size).randbytes(size)  # incompressible, the same in every run
        far, port = None, comfyui or 0
        if comfyui is None:
            (folder / "big").write_bytes(data)
            far = await stack.enter_async_context(
                part("bench._fileserver", str(folder / "big"), before=beyond)
            )
        elif not comfyui:
            far = await stack.enter_async_context(part("bench._comfyui", str(folder / "comfyui")))
        sshd = await stack.enter_async_context(Sshd(folder, host=host, before=beyond))
        relay = None
        if rtt or relayed:
            arguments = ["--target", str(sshd.port), "--delay", str(rtt / 2)]
            relay = await stack.enter_async_context(part("tests.fakes.relay", *arguments))
        room = bytearray(b"\xff") * (size + HEAD_ROOM)
        small = SMALL if comfyui is None else SMALL_OF_COMFYUI
        digest = hashlib.sha256(data).hexdigest()
        made = Rig(folder, sshd, far.port if far else port, far, small, relay, size, digest, room)
        (folder / "known_hosts").write_text(sshd.known_hosts_line_at(made.ssh_port) + "\n")
        yield made


@asynccontextmanager
async def part(module: str, *arguments: str, before: tuple[str, ...] = ()) -> AsyncIterator[Part]:
    async with running(*before, sys.executable, "-m", module, *arguments, talks=True) as process:
        yield Part(process, (await _json_line(process))["port"])


@asynccontextmanager
async def running(
    *command: str, env: dict[str, str] | None = None, talks: bool = False, log: Path | None = None
) -> AsyncIterator[Process]:
    """A process with a group of its own for the length of the block; then SIGTERM, then SIGKILL, to all of the group."""
    errors = log.open("wb") if log else None
    pipe = PIPE if talks else DEVNULL
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=pipe,
            stdout=pipe,
            stderr=errors,
            env={**os.environ, **(env or {})},
            cwd=ROOT,
            process_group=0,
        )
    finally:
        if errors:
            errors.close()
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):  # all of it has ended by itself
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), STOP_DEADLINE)
        with contextlib.suppress(ProcessLookupError):  # nothing is left of it, as it should be
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def _json_line(process: Process) -> dict[str, Any]:
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), START_DEADLINE)
    if not line:
        raise NotMeasured("a part of the rig has ended by itself; its words are above")
    answer: dict[str, Any] = json.loads(line)
    return answer
