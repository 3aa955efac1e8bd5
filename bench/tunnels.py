"""The tunnels that are compared: comfytunnel's daemon, plain `ssh`, and `autossh`, each in front of the same rig.

All get the same key and known_hosts and nothing of the user's own. A tunnel is ready when a call has gone through
it; one whose program is missing raises NotMeasured and leaves its column empty.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.fakes.sshd import free_port

from bench.calls import call
from bench.rig import START_DEADLINE, NotMeasured, Rig, running


@dataclass(frozen=True)
class Tunnel:
    """A running tunnel: its local port and the process whose cost is counted, which leads a process group. `home`: the daemon's folder, with
    `control.sock` and `out`; plain ssh has none."""

    name: str
    port: int
    pid: int
    home: Path | None = None

    def signal(self, number: int) -> None:
        """To all processes of the tunnel: autossh has an ssh beside it."""
        os.killpg(self.pid, number)


@asynccontextmanager
async def plain_ssh(made: Rig) -> AsyncIterator[Tunnel]:
    """`ssh -N -L`, as the command that comfytunnel replaces."""
    port = free_port()
    async with _started("ssh", made, ["ssh", *_arguments(made, port)], port, {}) as tunnel:
        yield tunnel


@asynccontextmanager
async def autossh(made: Rig) -> AsyncIterator[Tunnel]:
    """The same ssh, started again by autossh when it ends; its keepalive finds out, as autossh's manual advises (-M 0)."""
    if shutil.which("autossh") is None:
        raise NotMeasured("needs autossh: install it, or leave it out with --no-peer")
    port = free_port()
    env = {"AUTOSSH_GATETIME": "0"}  # or a first ssh that fails would be its last
    async with _started(
        "autossh", made, ["autossh", "-M", "0", *_arguments(made, port)], port, env
    ) as tunnel:
        yield tunnel


def _arguments(made: Rig, port: int) -> list[str]:
    options = {
        "UserKnownHostsFile": made.folder / "known_hosts",
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "BatchMode": "yes",
        "ExitOnForwardFailure": "yes",
        "ServerAliveInterval": 15,
        "ServerAliveCountMax": 3,
    }
    forward = f"127.0.0.1:{port}:127.0.0.1:{made.port}"
    arguments = ["-F", "/dev/null", "-p", str(made.ssh_port), "-i", str(made.sshd.client_key)]
    arguments += [f"-o{key}={value}" for key, value in options.items()]
    return [*arguments, "-N", "-L", forward, f"{made.sshd.user}@{made.sshd.host}"]


@asynccontextmanager
async def comfytunnel(made: Rig, **more: str) -> AsyncIterator[Tunnel]:
    """The daemon in the foreground with its own config, state and socket; `more` is added to its environment."""
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
            "remote": f"127.0.0.1:{made.port}",
        }
        lines = [f"{key} = {json.dumps(value)}\n" for key, value in values.items()]
        text = (
            "[tunnels.default]\n" + "".join(lines) + f"[jobs]\noutput_dir = {json.dumps(str(home / 'out'))}\n"
        )
        (home / "config.toml").write_text(text)
        env = {
            "COMFYTUNNEL_CONFIG": str(home / "config.toml"),
            "COMFYTUNNEL_SOCKET": str(home / "control.sock"),
            "COMFYTUNNEL_STATE_DIR": str(home / "state"),
        } | more
        command = [sys.executable, "-m", "comfytunnel", "daemon"]
        async with _started("comfytunnel", made, command, port, env) as tunnel:
            yield replace(tunnel, home=home)


TUNNELS: dict[str, Callable[[Rig], AbstractAsyncContextManager[Tunnel]]] = {
    "ssh": plain_ssh,
    "autossh": autossh,
    "comfytunnel": comfytunnel,
}


@asynccontextmanager
async def _started(
    name: str, made: Rig, command: list[str], port: int, env: dict[str, str]
) -> AsyncIterator[Tunnel]:
    log = made.folder / f"{name}.log"
    async with running(*command, env=env, log=log) as process:
        await _ready(process, port, made.small, name, log)
        yield Tunnel(name, port, process.pid)


async def _ready(process: Process, port: int, small: tuple[str, bytes], name: str, log: Path) -> None:
    """Returns when a call has gone through the tunnel and back."""
    end = time.monotonic() + START_DEADLINE
    why = "no answer"
    while time.monotonic() < end and process.returncode is None:
        try:
            await asyncio.to_thread(call, port, small, deadline=max(0.1, end - time.monotonic()))
        except (OSError, NotMeasured) as error:
            why = str(error)
            await asyncio.sleep(0.01)  # ssh has no sign for "the port is open"; `end` is the deadline
        else:
            return
    state = (
        f"ended with status {process.returncode}"
        if process.returncode is not None
        else f"is not ready: {why}"
    )
    words = log.read_text(errors="replace").strip()[-2000:]
    raise NotMeasured(f"{name} {state}\n{words}".strip())
