"""Three ways to have a ComfyUI behind SSH run workflows and to get the pictures: a script of one's own, comfy-api-proxy, comfytunnel.

Each takes the same road (one sshd, one relay), posts everything at once over at most CALLERS connections, and is done when every file lies in a folder
of this machine. The first two go through plain `ssh -L`, comfytunnel through itself; only comfytunnel makes the files last (fsync), hashes them and writes
down how they were made. That the number of files is right is checked when the clock has stopped.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import aiohttp
from tests.fakes.sshd import free_port

from bench.rig import CALL_DEADLINE, START_DEADLINE, NotMeasured, Rig, running
from bench.tunnels import comfytunnel, plain_ssh

STRAIGHT, PROXY, OURS = "straight", "comfy-api-proxy", "comfytunnel"
CALLERS = 16  # connections at once, as a careful script has
AT_ONCE = 4  # jobs of the proxy that are asked about at the same time
POLL = 0.02  # seconds between two such questions, and before history is asked again
CHUNK = 1024**2  # bytes
INSTALL_DEADLINE = 180.0  # seconds for a venv and pip

Graph = dict[str, Any]


@dataclass(frozen=True)
class Ran:
    """When the first workflow was sent and when the last file was there, by the monotonic clock; the prompts' ids."""

    began: float
    done: float
    prompts: list[str]

    @property
    def seconds(self) -> float:
        return self.done - self.began


class Way(ABC):
    """`folder` is where the pictures come home."""

    def __init__(self, session: aiohttp.ClientSession, folder: Path) -> None:
        self.session = session
        self.folder = folder

    @abstractmethod
    async def one(self, graph: Graph) -> str:
        """Have one workflow run and its pictures brought home; returns its prompt id."""

    async def run(self, graphs: list[Graph]) -> Ran:
        """All at once. NotMeasured when something fails, or the pictures are not one for each."""
        before = len(self.pictures())
        began = time.monotonic()
        try:
            async with asyncio.timeout(CALL_DEADLINE):
                prompts = await asyncio.gather(*(self.one(graph) for graph in graphs))
        except (aiohttp.ClientError, TimeoutError) as error:
            raise NotMeasured(f"{type(error).__name__}: {error}") from error
        ran = Ran(began, time.monotonic(), prompts)
        came = len(self.pictures()) - before
        if came != len(graphs):
            raise NotMeasured(f"{came} pictures came home of {len(graphs)} jobs")
        return ran

    def pictures(self) -> list[Path]:
        return list(self.folder.rglob("*.png"))

    async def json(self, method: str, path: str, body: Any = None) -> Any:
        async with self.session.request(method, path, json=body) as answer:
            if answer.status >= 300:
                raise NotMeasured(f"{method} {path} was answered {answer.status}: {await answer.text()}")
            return await answer.json()

    async def save(self, url: str, params: dict[str, str] | None = None) -> None:
        """Download into a file that gets its name when it is whole, as a careful script does."""
        part = self.folder / f"{uuid4()}.part"
        async with self.session.get(url, params=params) as answer:
            if answer.status != 200:
                raise NotMeasured(f"GET {url} was answered {answer.status}")
            with part.open("wb") as file:
                async for chunk in answer.content.iter_chunked(CHUNK):
                    file.write(chunk)
        part.rename(part.with_suffix(".png"))


# -- a script of one's own ------------------------------------------------------------------------------------


class Straight(Way):
    """POST /prompt with an id of its own; the websocket says when it has ended; /history names the files, /view gives them. One session, whose
    connections are kept alive. `seen`: the file of the latest job, as /view wants it."""

    def __init__(self, session: aiohttp.ClientSession, folder: Path, client: str) -> None:
        super().__init__(session, folder)
        self.client = client
        self.seen: dict[str, str] = {}
        self.ended: dict[str, asyncio.Event] = {}

    async def one(self, graph: Graph) -> str:
        prompt = str(uuid4())
        self.ended[prompt] = asyncio.Event()
        await self.json("POST", "/prompt", {"prompt": graph, "prompt_id": prompt, "client_id": self.client})
        await self.ended[prompt].wait()
        while not (entry := (await self.json("GET", f"/history/{prompt}")).get(prompt)):
            await _pause()  # the end of the run is said a moment before history has it
        for output in entry["outputs"].values():
            for file in output.get("images", ()):
                self.seen = {key: file[key] for key in ("filename", "subfolder", "type")}
                await self.save("/view", self.seen)
        return prompt

    async def listen(self, socket: aiohttp.ClientWebSocketResponse[bool]) -> None:
        async for message in socket:
            if message.type is aiohttp.WSMsgType.TEXT:
                event = json.loads(message.data)
                data = event.get("data", {})
                prompt = data.get("prompt_id", "")
                if event["type"] == "executing" and data.get("node") is None and prompt in self.ended:
                    self.ended[prompt].set()


@asynccontextmanager
async def straight(made: Rig) -> AsyncIterator[Way]:
    folder = made.folder / STRAIGHT
    folder.mkdir(exist_ok=True)
    client = uuid4().hex
    async with (
        plain_ssh(made) as tunnel,
        _session(f"http://127.0.0.1:{tunnel.port}") as session,
        session.ws_connect("/ws", params={"clientId": client}, max_msg_size=0) as socket,
    ):
        way = Straight(session, folder, client)
        listening = asyncio.create_task(way.listen(socket))
        try:
            yield way
        finally:
            listening.cancel()


# -- comfy-api-proxy ------------------------------------------------------------------------------------------


class Proxy(Way):
    """POST /api/v2/jobs, poll the job (its README: "poll-first"), download from the URL of each output. Jobs are asked about in the order of their
    posting, AT_ONCE at a time: asking about all of them at once would only slow them down."""

    asking = asyncio.Semaphore(AT_ONCE)

    async def one(self, graph: Graph) -> str:
        job = await self.json("POST", "/api/v2/jobs", {"workflow": graph})
        async with self.asking:
            # It reads the history before the queue, so a job that moves between the two is "expired" for a moment (seen, 0.1.6).
            while job["status"] in ("queued", "running", "expired"):
                await _pause()
                job = await self.json("GET", f"/api/v2/jobs/{job['id']}")
        if job["status"] != "succeeded":
            raise NotMeasured(f"a job ended as {job['status']}: {job.get('error')}")
        for output in job["outputs"]:
            await self.save(output["url"])
        return str(job["id"])


@asynccontextmanager
async def proxy(made: Rig, program: Path) -> AsyncIterator[Way]:
    folder = made.folder / PROXY
    folder.mkdir(exist_ok=True)
    port, log = free_port(), made.folder / "proxy.log"
    async with plain_ssh(made) as tunnel:
        upstream = f"http://127.0.0.1:{tunnel.port}"
        command = [str(program), "--comfyui", upstream, "--port", str(port)]
        async with running(*command, log=log), _session(f"http://127.0.0.1:{port}") as session:
            way = Proxy(session, folder)
            await _until_answering(way, "/api/v2/health", log)
            yield way


async def _until_answering(way: Way, path: str, log: Path) -> None:
    end = time.monotonic() + START_DEADLINE
    while True:
        try:
            await way.json("GET", path)
        except (aiohttp.ClientError, NotMeasured) as error:
            if time.monotonic() > end:
                words = log.read_text(errors="replace").strip()[-2000:]
                raise NotMeasured(f"no answer from {path}: {error}\n{words}") from error
            await asyncio.sleep(0.05)  # neither says when it is ready; `end` is the deadline
        else:
            return


async def installed(folder: Path) -> Path:
    """Install comfy-api-proxy from the index into a virtual environment in `folder`. NotMeasured, with pip's last words, when that fails."""
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [str(folder / "bin" / "pip"), "install", "-q", "--disable-pip-version-check", PROXY],
    ):
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        try:
            words, _ = await asyncio.wait_for(process.communicate(), INSTALL_DEADLINE)
        except TimeoutError as error:
            process.kill()
            await process.wait()
            raise NotMeasured(f"its installation took longer than {INSTALL_DEADLINE:g} s") from error
        if process.returncode:
            raise NotMeasured(f"cannot be installed: {words.decode(errors='replace').strip()[-500:]}")
    return folder / "bin" / PROXY


# -- comfytunnel ----------------------------------------------------------------------------------------------


@dataclass
class _Told:
    """What the event stream has said of a job; `status` only once it has ended."""

    status: str = ""
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Ours(Way):
    """POST /api/v2/jobs on the control socket; the stream of events, opened once, says which have ended."""

    def __init__(self, session: aiohttp.ClientSession, folder: Path) -> None:
        super().__init__(session, folder)
        self.told: dict[str, _Told] = {}

    async def one(self, graph: Graph) -> str:
        job = str((await self.json("POST", "/api/v2/jobs", {"workflow": graph}))["id"])
        told = self.told.setdefault(job, _Told())
        await told.ended.wait()
        if told.status != "succeeded":
            raise NotMeasured(f"a job ended as {told.status}")
        return job

    async def listen(self, events: aiohttp.ClientResponse) -> None:
        kind = b""
        async for line in events.content:
            if line.startswith(b"event: "):
                kind = line[7:].strip()
            elif line.startswith(b"data: ") and kind == b"job":
                job = json.loads(line[6:])
                if job["status"] in ("succeeded", "failed", "canceled", "expired"):
                    told = self.told.setdefault(job["id"], _Told())
                    told.status = job["status"]
                    told.ended.set()


@asynccontextmanager
async def ours(made: Rig) -> AsyncIterator[Way]:
    async with comfytunnel(made) as tunnel:
        assert tunnel.home is not None
        connector = aiohttp.UnixConnector(str(tunnel.home / "control.sock"), limit=CALLERS)
        async with _session("http://localhost", connector) as session:
            way = Ours(session, tunnel.home / "out")
            await _until_answering(way, "/v1/ready", made.folder / "comfytunnel.log")
            async with session.get("/v1/events") as events:
                listening = asyncio.create_task(way.listen(events))
                try:
                    yield way
                finally:
                    listening.cancel()


# -- all of them ----------------------------------------------------------------------------------------------


class Enter(Protocol):
    def __call__(self, made: Rig) -> AbstractAsyncContextManager[Way]: ...


def ways(program: Path | None) -> dict[str, Enter]:
    """By name; `program` is comfy-api-proxy's."""
    found: dict[str, Enter] = {STRAIGHT: straight, OURS: ours}
    if program is not None:
        found[PROXY] = partial(proxy, program=program)
    return found


async def _pause() -> None:
    await asyncio.sleep(POLL)


def _session(base: str, connector: aiohttp.BaseConnector | None = None) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        base,
        connector=connector or aiohttp.TCPConnector(limit=CALLERS),
        timeout=aiohttp.ClientTimeout(total=None, sock_read=CALL_DEADLINE),
        read_bufsize=CHUNK,
    )
