"""What every benchmark stands on: a real sshd, a fast HTTP server, a slow line, and the two tunnels to compare.

Each part is a process of its own, so that nothing shares an interpreter with what is measured. Every start, call
and stop has a deadline; what cannot be measured raises NotMeasured with the reason and never becomes a number.
The clients here are plain blocking sockets: they add the same small cost to both columns.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import random
import shutil
import socket
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fakes.sshd import Sshd, find_sshd, free_port

ROOT = Path(__file__).resolve().parent.parent
START_DEADLINE = 20.0  # seconds until a tunnel has carried its first call
STOP_DEADLINE = 5.0  # seconds; after that a process is killed
CALL_DEADLINE = 180.0  # seconds for one transfer; plain ssh needs 11 for 200 MB at 100 ms
HEAD_ROOM = 4096  # bytes; more than any answer's head here


class NotMeasured(Exception):  # noqa: N818 - it is an outcome to be printed, not a mistake
    """Something that was to be measured could not be; the message says why."""


@dataclass(frozen=True)
class Tunnel:
    """A running tunnel: its local port and the process whose cost is counted."""

    name: str
    port: int
    pid: int


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
    folder: Path
    sshd: Sshd
    files: Part
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
async def rig(*, rtt: float = 0.0, size: int = 1_000_000) -> AsyncIterator[Rig]:
    """Everything but the tunnels. `rtt` in seconds is added by a relay; without it there is no relay at all."""
    for program in (find_sshd(), shutil.which("ssh")):
        if program is None:
            raise NotMeasured("needs OpenSSH's server and client: install openssh-server and openssh-client")
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        data = random.Random(size).randbytes(size)  # incompressible, the same in every run
        (folder / "big").write_bytes(data)
        files = await stack.enter_async_context(part("bench._fileserver", str(folder / "big")))
        sshd = await stack.enter_async_context(Sshd(folder))
        relay = None
        if rtt:
            arguments = ["--target", str(sshd.port), "--delay", str(rtt / 2)]
            relay = await stack.enter_async_context(part("tests.fakes.relay", *arguments))
        room = bytearray(b"\xff") * (size + HEAD_ROOM)
        made = Rig(folder, sshd, files, relay, size, hashlib.sha256(data).hexdigest(), room)
        (folder / "known_hosts").write_text(sshd.known_hosts_line_at(made.ssh_port) + "\n")
        yield made


@asynccontextmanager
async def part(module: str, *arguments: str) -> AsyncIterator[Part]:
    async with running(sys.executable, "-m", module, *arguments, talks=True) as process:
        yield Part(process, (await _json_line(process))["port"])


@asynccontextmanager
async def running(
    *command: str, env: dict[str, str] | None = None, talks: bool = False, log: Path | None = None
) -> AsyncIterator[Process]:
    """A process for the length of the block, then SIGTERM, then SIGKILL."""
    errors = log.open("wb") if log else None
    pipe = PIPE if talks else DEVNULL
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, stderr=errors, env={**os.environ, **(env or {})}, cwd=ROOT
        )
    finally:
        if errors:
            errors.close()
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), STOP_DEADLINE)
            except TimeoutError:
                process.kill()
                await process.wait()


async def _json_line(process: Process) -> dict[str, Any]:
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), START_DEADLINE)
    if not line:
        raise NotMeasured("a part of the rig has ended by itself; its words are above")
    answer: dict[str, Any] = json.loads(line)
    return answer


# -- tunnels --------------------------------------------------------------------------------------------------


@asynccontextmanager
async def plain_ssh(made: Rig) -> AsyncIterator[Tunnel]:
    """`ssh -N -L` with the options of the command that comfytunnel replaces, and nothing of the user's own."""
    port = free_port()
    options = {
        "UserKnownHostsFile": made.folder / "known_hosts",
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "BatchMode": "yes",
        "ExitOnForwardFailure": "yes",
        "ServerAliveInterval": 15,
    }
    command = ["ssh", "-F", "/dev/null", "-p", str(made.ssh_port), "-i", str(made.sshd.client_key)]
    command += [f"-o{key}={value}" for key, value in options.items()]
    command += [
        "-N",
        "-L",
        f"127.0.0.1:{port}:127.0.0.1:{made.files.port}",
        f"{made.sshd.user}@{made.sshd.host}",
    ]
    log = made.folder / "ssh.log"
    async with running(*command, log=log) as process:
        await _ready(process, port, "ssh", log)
        yield Tunnel("ssh", port, process.pid)


@asynccontextmanager
async def comfytunnel(made: Rig) -> AsyncIterator[Tunnel]:
    """The daemon in the foreground with its own config, state and socket."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="ct-", dir=made.folder) as name:
        home = Path(name)
        values = {
            "host": made.sshd.host,
            "port": made.ssh_port,
            "user": made.sshd.user,
            "identity_file": str(made.sshd.client_key),
            "known_hosts": str(made.folder / "known_hosts"),
            "ssh_config": "/dev/null",
            "listen": f"127.0.0.1:{port}",
            "remote": f"127.0.0.1:{made.files.port}",
        }
        lines = [f"{key} = {json.dumps(value)}\n" for key, value in values.items()]
        (home / "config.toml").write_text("[tunnels.default]\n" + "".join(lines))
        env = {
            "COMFYTUNNEL_CONFIG": str(home / "config.toml"),
            "COMFYTUNNEL_SOCKET": str(home / "control.sock"),
            "COMFYTUNNEL_STATE_DIR": str(home / "state"),
        }
        log = home / "log"
        async with running(sys.executable, "-m", "comfytunnel", "daemon", env=env, log=log) as process:
            await _ready(process, port, "comfytunnel", log)
            yield Tunnel("comfytunnel", port, process.pid)


TUNNELS: dict[str, Callable[[Rig], AbstractAsyncContextManager[Tunnel]]] = {
    "ssh": plain_ssh,
    "comfytunnel": comfytunnel,
}


async def _ready(process: Process, port: int, name: str, log: Path) -> None:
    """Returns when a call has gone through the tunnel and back."""
    end = time.monotonic() + START_DEADLINE
    why = "no answer"
    while time.monotonic() < end and process.returncode is None:
        try:
            await asyncio.to_thread(call, port, deadline=max(0.1, end - time.monotonic()))
        except (OSError, NotMeasured) as error:
            why = str(error)
            await asyncio.sleep(0.01)
        else:
            return
    state = (
        f"ended with status {process.returncode}"
        if process.returncode is not None
        else f"is not ready: {why}"
    )
    words = log.read_text(errors="replace").strip()[-2000:]
    raise NotMeasured(f"{name} {state}\n{words}".strip())


# -- callers --------------------------------------------------------------------------------------------------


def call(port: int, *, deadline: float = 30.0) -> float:
    """Seconds of one small GET on a new TCP connection, up to the last byte of its answer."""
    start = time.perf_counter()
    body, _ = _get(port, "/small", bytearray(HEAD_ROOM), deadline)
    spent = time.perf_counter() - start
    if bytes(body) != b'{"ok": true}\n':
        raise NotMeasured(f"a small call brought {bytes(body)[:80]!r}")
    return spent


def download(port: int, made: Rig, *, deadline: float = CALL_DEADLINE) -> float:
    """Seconds of one GET of /big; length and hash are checked after the clock has stopped."""
    start = time.perf_counter()
    body, length = _get(port, "/big", made.room, deadline)
    spent = time.perf_counter() - start
    if length != made.size or hashlib.sha256(body).hexdigest() != made.digest:
        raise NotMeasured(f"a download brought {length} bytes, wrong or too few of {made.size}")
    return spent


def _get(port: int, path: str, room: bytearray, deadline: float) -> tuple[memoryview, int]:
    """One HTTP GET into `room`; returns the body and its length. OSError or NotMeasured when it fails.

    Ends with the answer's last byte by its Content-Length, as a browser does. The close that follows is no part
    of it: sshd's goes out 40 ms later (Nagle against delayed acknowledgement), which nobody waits for.
    """
    end = time.monotonic() + deadline
    view = memoryview(room)
    have, body, total = 0, 0, len(room)
    with socket.create_connection(("127.0.0.1", port), timeout=deadline) as caller:
        request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n"
        caller.sendall(request.encode())
        while have < total:
            caller.settimeout(max(0.001, end - time.monotonic()))
            size = caller.recv_into(view[have:])
            if not size:
                break
            have += size
            if not body:
                body, total = _head(bytes(view[: min(have, HEAD_ROOM)]), total)
    if not body:
        raise NotMeasured(f"GET {path} brought {bytes(view[: min(have, 80)])!r} and then the end")
    return view[body:have], have - body


def _head(seen: bytes, room: int) -> tuple[int, int]:
    """Where the body begins and ends, or (0, room) while the head is not whole. NotMeasured unless 200."""
    head, whole, _ = seen.partition(b"\r\n\r\n")
    if not whole:
        return 0, room
    status, *fields = head.decode("latin-1").split("\r\n")
    if status.split()[1:2] != ["200"]:
        raise NotMeasured(f"answered with {status!r}")
    lengths = [int(field.split(":")[1]) for field in fields if field.lower().startswith("content-length:")]
    body = len(head) + 4
    return body, min(room, body + lengths[0]) if lengths else room
