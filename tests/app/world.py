"""The whole road for a test: a far end in this process, the daemon as a real process, its control socket."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import asyncssh

from comfytunnel.client import Client
from comfytunnel.demo.comfyui import ComfyUI
from comfytunnel.demo.remote import Remote
from comfytunnel.errors import NotRunningError
from comfytunnel.wire import Job
from tests.fakes.sshd import free_port

T = TypeVar("T")

DEADLINE = 20.0  # seconds for anything that a test waits for


def workflow(color: int = 1, *, seconds: float = 0.0, steps: int = 10) -> dict[str, Any]:
    """A picture of one colour; with `seconds` the server takes that long for it."""
    image: dict[str, Any] = {"width": 64, "height": 64, "batch_size": 1, "color": color}
    graph: dict[str, Any] = {"1": {"class_type": "EmptyImage", "inputs": image}}
    slow = {"image": ["1", 0], "seconds": seconds, "steps": steps}
    graph["2"] = (
        {"class_type": "DemoSlow", "inputs": slow}
        if seconds
        else {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}}
    )
    graph["3"] = {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "test"}}
    return graph


class World:
    """`async with World(tmp) as world: await world.start()`. `port` is the forwarded one on this machine."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.port = free_port()
        self.comfyui = ComfyUI(base / "instance")
        self.config = base / "config.toml"
        self.log = base / "daemon.log"
        self.client = Client(base / "s" / "control.sock")
        self.process: asyncio.subprocess.Process | None = None
        key = asyncssh.generate_private_key("ssh-ed25519")
        self.key = base / "id"
        self.key.touch(mode=0o600)
        self.key.write_bytes(key.export_private_key())
        self.remote = Remote(targets={}, authorized=[key.convert_to_public()])

    async def __aenter__(self) -> Self:
        await self.comfyui.start()
        self.remote.targets[("localhost", 18188)] = self.comfyui.port
        await self.remote.start()
        self.write_config()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        await self.remote.stop()
        await self.comfyui.stop()
        if error is not None and self.log.exists():
            print(self.log.read_text(errors="replace")[-6000:])

    def config_text(self, **over: object) -> str:
        settings: dict[str, object] = {
            "host": "127.0.0.1",
            "port": self.remote.port,
            "user": "root",
            "identity_file": str(self.key),
            "ssh_config": str(self.base / "no-ssh-config"),
            "known_hosts": str(self.base / "known_hosts"),
            "listen": f"localhost:{self.port}",
            **over,
        }
        lines = [f"{name} = {value!r}".replace("'", '"') for name, value in settings.items()]
        return "\n".join(
            ["[tunnels.default]", *lines, "", "[jobs]", f'output_dir = "{self.base / "pictures"}"', ""]
        )

    def write_config(self, **over: object) -> None:
        self.config.write_text(self.config_text(**over))
        self.config.chmod(0o600)

    @property
    def environment(self) -> dict[str, str]:
        inherited = {
            k: v
            for k, v in os.environ.items()
            if k not in ("NOTIFY_SOCKET", "SSH_AUTH_SOCK", "JOURNAL_STREAM")
        }
        return inherited | {
            "COMFYTUNNEL_CONFIG": str(self.config),
            "COMFYTUNNEL_SOCKET": str(self.client.socket_path),
            "COMFYTUNNEL_STATE_DIR": str(self.base / "state"),
            "PYTHONUNBUFFERED": "1",
        }

    async def spawn(self, *arguments: str, **more: str) -> asyncio.subprocess.Process:
        """Run the command line as a process; its output goes to pipes."""
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "comfytunnel",
            *arguments,
            env=self.environment | more,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def run(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of one command."""
        process = await self.spawn(*arguments)
        out, err = await asyncio.wait_for(process.communicate(), DEADLINE)
        return process.returncode or 0, out.decode(), err.decode()

    async def start(
        self,
        *,
        serving: bool = True,
        through: Sequence[str] = (),
        pass_fds: Sequence[int] = (),
        **more: str,
    ) -> None:
        """Start the daemon and wait until it answers; with `serving`, until ComfyUI does too. `through` is a program that becomes
        the one it is given."""
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *through,
                sys.executable,
                "-m",
                "comfytunnel",
                "daemon",
                env=self.environment | more,
                pass_fds=pass_fds,
                stdout=log,
                stderr=log,
            )
        await self.answers(serving=serving)

    async def answers(self, *, serving: bool = True) -> None:
        """Wait until a daemon answers on the control socket; with `serving`, until ComfyUI does too."""
        async with asyncio.timeout(DEADLINE):
            while True:
                try:
                    await self.ask(self.client.health)
                    break
                except NotRunningError:
                    assert self.process is None or self.process.returncode is None, self.log.read_text()
                    await asyncio.sleep(0.02)  # a process that starts has no other sign
            if serving:
                await self.ask(lambda: self.client.wait(timeout=DEADLINE))

    async def stop(self) -> float:
        """SIGTERM; seconds until the process has gone."""
        assert self.process is not None
        began = asyncio.get_running_loop().time()
        self.process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(self.process.wait(), DEADLINE)
        return asyncio.get_running_loop().time() - began

    async def kill(self) -> None:
        """SIGKILL, as the out-of-memory killer does."""
        assert self.process is not None
        self.process.kill()
        await self.process.wait()

    async def ask(self, call: Callable[[], T]) -> T:
        """A call of the blocking client, beside the far end that lives in this loop."""
        return await asyncio.to_thread(call)

    async def until(self, look: Callable[[], T], wanted: Callable[[T], bool]) -> T:
        """Look again and again until what is seen is wanted; for what has no event of its own."""
        async with asyncio.timeout(DEADLINE):
            while not wanted(seen := await self.ask(look)):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return seen

    async def submit(self, graph: dict[str, Any]) -> Job:
        return await self.ask(lambda: self.client.submit(graph))

    async def end_of(self, job: Job) -> Job:
        """The job when it has ended, over restarts of the daemon."""

        def follow() -> Job:
            for event in self.client.follow(job.id, timeout=DEADLINE):
                if isinstance(event, Job):
                    return event
            raise AssertionError("the events ended before the job")

        return await self.ask(follow)

    async def fetch(self, path: str = "/system_stats") -> tuple[int, bytes]:
        """One plain HTTP call through the forwarded port, as a user's program makes it: status and body."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            answer = await asyncio.wait_for(reader.read(), DEADLINE)
        finally:
            writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), body
