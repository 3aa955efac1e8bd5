"""`comfytunnel demo`: the whole road on this machine, in half a minute, and nothing left behind but one picture.

A far end of our own (an SSH server that only forwards, a ComfyUI stand-in), a real daemon process in front of it with config and
state in a temporary folder, one workflow over the control socket, the connection cut in the middle on purpose.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import asyncssh

from comfytunnel import wire
from comfytunnel.client import Client
from comfytunnel.demo.comfyui import ComfyUI
from comfytunnel.demo.remote import Remote
from comfytunnel.errors import Error, NotRunningError

T = TypeVar("T")

CUT_AT = 0.4  # overall progress at which the connection is cut
START_DEADLINE = 20.0  # seconds until everything serves; a second is usual
JOB_DEADLINE = 60.0  # seconds
STOP_DEADLINE = 5.0  # seconds that the daemon gets after SIGTERM; it promises two

WORKFLOW: dict[str, Any] = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 512, "height": 512, "batch_size": 1, "color": 0xD9480F},
    },
    "2": {"class_type": "DemoSlow", "inputs": {"image": ["1", 0], "seconds": 5.0, "steps": 20}},
    "3": {"class_type": "ImageInvert", "inputs": {"image": ["2", 0]}},
    "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "demo"}},
}

LANDSCAPE: dict[str, Any] = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 768, "height": 512, "batch_size": 1, "color": 0},
    },
    "2": {
        "class_type": "DemoSampler",
        "inputs": {
            "image": ["1", 0],
            "positive": "hills at dusk, the first stars, soft light",
            "negative": "people, text",
            "seed": 1,
            "steps": 24,
            "seconds": 6.0,
        },
    },
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "landscape"}},
}
"""For the page of a demo that is kept."""


def run_demo(keep: bool = False) -> int:
    """Run it; `keep` leaves everything running until Ctrl-C. Returns the exit code: 0 when there is a picture."""
    return asyncio.run(_demo(keep))


async def _demo(keep: bool) -> int:
    stop = _stop_signal()
    base = Path(tempfile.mkdtemp(prefix="comfytunnel-"))
    try:
        async with (
            AsyncExitStack() as stack
        ):  # left here and not in the task: a signal never breaks the leaving off
            shown = await _unless(stop, _show(stack, base))
            if shown is None:
                print("\nStopped before there was a picture; nothing is left of it.", file=sys.stderr)
                return 1
            if keep:
                _invite(base, shown)
                await stop.wait()
        print(f"\nYour picture: {shown.picture}")
        return 0
    except Error as error:
        print(f"error: {error.message}\n  {error.hint}\nThe daemon's log:\n{_log_of(base)}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(base, ignore_errors=True)


def _stop_signal() -> asyncio.Event:
    """Set by Ctrl-C, SIGTERM or the end of the terminal, however often they come: the leaving takes STOP_DEADLINE at most."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """Return what `work` does, or None when it had to be given up."""
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    working.cancel()  # does nothing to one that has ended
    await asyncio.wait({working})
    return None if working.cancelled() else working.result()


@dataclass(frozen=True, slots=True)
class _Shown:
    picture: Path
    url: str
    page: str


async def _show(stack: AsyncExitStack, base: Path) -> _Shown:
    remote, key = await stack.enter_async_context(_far_end(base))
    client = await stack.enter_async_context(_daemon(base, remote, key))
    tunnel = await asyncio.to_thread(client.tunnel, "default")
    web = (await asyncio.to_thread(client.status)).web
    page = f"http://localhost:{web.listen[0].rpartition(':')[2]}/" if web and web.listen else ""
    return _Shown(await _one_job(client, remote), f"http://{tunnel.listen[0]}", page)


@asynccontextmanager
async def _far_end(base: Path) -> AsyncIterator[tuple[Remote, Path]]:
    key = asyncssh.generate_private_key("ssh-ed25519")
    path = base / "id_ed25519"
    path.touch(mode=0o600)
    path.write_bytes(key.export_private_key())
    async with ComfyUI(base / "instance") as comfyui:
        targets = {("localhost", 18188): comfyui.port}
        async with Remote(
            targets=targets, authorized=[key.convert_to_public()], banner="Welcome to the demo.\n"
        ) as remote:
            print(
                f"An instance: SSH on 127.0.0.1:{remote.port}, behind it a ComfyUI stand-in that renders real PNGs."
            )
            yield remote, path


@asynccontextmanager
async def _daemon(base: Path, remote: Remote, key: Path) -> AsyncIterator[Client]:
    port = _free_port()
    config = base / "config.toml"
    config.write_text(
        f"""[tunnels.default]
host = "127.0.0.1"
port = {remote.port}
user = "root"
identity_file = "{key}"
ssh_config = "{base / "none"}"
known_hosts = "{base / "known_hosts"}"
listen = "localhost:{port}"
remote = "localhost:18188"

[jobs]
output_dir = "{base / "pictures"}"

[web]
listen = "localhost:{_free_port()}"
"""
    )
    (base / "workflows").mkdir()
    (base / "workflows" / "landscape.json").write_text(json.dumps(LANDSCAPE))
    environment = {
        name: value for name, value in os.environ.items() if name not in ("NOTIFY_SOCKET", "SSH_AUTH_SOCK")
    }
    environment |= _environment(base)
    with (base / "daemon.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "comfytunnel.demo.daemon"),
            env=environment,
            stdin=asyncio.subprocess.PIPE,  # it ends when this does, so it never outlives a demo that was killed
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for us; we stop it when we have let go of it
        )
    try:
        client = Client(base / "control.sock")
        await asyncio.wait_for(_serving(client, process), START_DEADLINE)
        print(
            f"A daemon:    pid {process.pid}, forwards localhost:{port} there; the tunnel is up and ComfyUI serves.\n"
        )
        yield client
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), STOP_DEADLINE)
            except TimeoutError:
                process.kill()
                await process.wait()


async def _serving(client: Client, process: asyncio.subprocess.Process) -> None:
    while process.returncode is None:
        try:
            await asyncio.to_thread(client.wait, timeout=START_DEADLINE)
        except NotRunningError:
            await asyncio.sleep(0.05)  # the socket is not there yet
        else:
            return
    raise Error(
        "The daemon ended before it served.", hint="This is a bug: please report it with the log below."
    )


async def _one_job(client: Client, remote: Remote) -> Path:
    """Submit the workflow, show how it goes, cut the connection once; return where the picture was kept."""
    job = await asyncio.to_thread(client.submit, WORKFLOW, label="demo")
    print(f"Submitted job {job.id}: accepted means it is on disk.")
    cut = False
    async for event in _in_thread(client.follow(job.id, timeout=JOB_DEADLINE, patience=0.0)):
        match event:
            case wire.Progress():
                print(f"  {event.value:4.0%}  {event.current_node_class or ''} {_steps(event)}")
                if event.value >= CUT_AT and not cut:
                    cut = True
                    await _cut(client, remote)
            case wire.Job(status="succeeded"):
                return _keep(Path((event.outputs[0].comfytunnel or wire.OutputExtra("")).path))
            case wire.Job(error=error):
                raise Error(f"The job ended as {event.status}.", hint=error.message if error else "")
    raise Error("The job's events ended before the job.", hint="This is a bug: please report it.")


async def _cut(client: Client, remote: Remote) -> None:
    links = (await asyncio.to_thread(client.tunnel, "default")).counters.links
    print("        -- cutting the SSH connection (RST), as a relay that restarts does --")
    began = asyncio.get_running_loop().time()
    remote.cut()
    while True:
        tunnel = await asyncio.to_thread(client.tunnel, "default")
        if tunnel.phase == "up" and tunnel.counters.links > links:
            break
        await asyncio.sleep(0.005)
    seconds = asyncio.get_running_loop().time() - began
    print(f"        -- up again after {seconds * 1000:.0f} ms; the job goes on --")


async def _in_thread(events: Iterator[Any]) -> AsyncIterator[Any]:
    """The client blocks, and the far end lives in this loop. The thread that waits ends when the daemon does."""
    end = object()
    while (event := await asyncio.to_thread(next, events, end)) is not end:
        yield event


def _invite(base: Path, shown: _Shown) -> None:
    exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in _environment(base).items())
    workflow = base / "workflow.json"
    workflow.write_text(json.dumps(WORKFLOW, indent=2))
    print(
        f"\nIt keeps running. The page, with a form that paints: {shown.page}\n"
        f"In another terminal:\n"
        f"  export {exports}\n"
        f"  comfytunnel status\n"
        f"  comfytunnel run {workflow}\n"
        f"  curl {shown.url}/system_stats\n"
        f"Ctrl-C here ends it all.",
        flush=True,
    )


def _environment(base: Path) -> dict[str, str]:
    return {
        "COMFYTUNNEL_CONFIG": str(base / "config.toml"),
        "COMFYTUNNEL_SOCKET": str(base / "control.sock"),
        "COMFYTUNNEL_STATE_DIR": str(base / "state"),
    }


def _keep(picture: Path) -> Path:
    """Copy the picture out of the folder that goes."""
    handle, kept = tempfile.mkstemp(prefix="comfytunnel-demo-", suffix=picture.suffix)
    with os.fdopen(handle, "wb") as target, picture.open("rb") as source:
        shutil.copyfileobj(source, target)
    return Path(kept)


def _steps(progress: wire.Progress) -> str:
    return f"{progress.step}/{progress.steps}" if progress.steps else ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _log_of(base: Path) -> str:
    try:
        return (base / "daemon.log").read_text(errors="replace")[-4000:]
    except OSError:
        return "(none)"
