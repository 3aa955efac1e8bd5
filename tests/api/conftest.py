"""The API on a real Unix socket over a real store; tunnels and the scheduler's live side are set by hand, to the moment a test needs."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Collection, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import aiohttp
import msgspec
import pytest

from comfytunnel import wire
from comfytunnel.api.context import Context
from comfytunnel.api.listen import Lock, control_socket
from comfytunnel.api.server import Server
from comfytunnel.errors import NotFoundError, RefusedError, UsageError
from comfytunnel.feed import Feed
from comfytunnel.history import History
from comfytunnel.jobs.assets import Assets
from comfytunnel.jobs.model import (
    Input,
    Job,
    LiveProgress,
    Mode,
    NewJob,
    Output,
    Preview,
    Queue,
    Stage,
    Status,
    Waits,
)
from comfytunnel.jobs.place import JobsSettings
from comfytunnel.jobs.scheduler import Scheduler
from comfytunnel.jobs.store import Store
from comfytunnel.named import Folder
from comfytunnel.words import TERMINAL
from comfytunnel.workflow.convert import convert
from comfytunnel.workflow.graph import parse_api_graph
from comfytunnel.workflow.nodeinfo import NodeInfo

STARTED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
WORKFLOW = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
}
SAMPLED = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "example.png"}},
    "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "clip": ["5", 1]}},
    "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": ["5", 1]}},
    "4": {
        "class_type": "KSampler",
        "inputs": {
            "seed": 1,
            "steps": 20,
            "positive": ["2", 0],
            "negative": ["3", 0],
            "latent_image": ["1", 0],
        },
    },
    "5": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "a.safetensors"}},
    "6": {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "x"}},
}
"""One in which there is something to set."""


def a_tunnel(**changes: Any) -> wire.Tunnel:
    plain = wire.Tunnel(
        phase="up",
        since=STARTED,
        cause=None,
        next=None,
        comfyui=wire.ComfyUI("serving", "0.33.0", 0),
        rtt_ms=12.5,
        listen=["127.0.0.1:18188", "[::1]:18188"],
        remote="localhost:18188",
        ssh=wire.Ssh("ssh2.vast.ai", 13273, "root"),
        counters=wire.Counters(),
    )
    return msgspec.structs.replace(plain, **changes)


def an_outage(**changes: Any) -> wire.Outage:
    plain = wire.Outage(
        tunnel="default",
        began=STARTED,
        ended=STARTED + timedelta(seconds=12.5),
        cause=wire.Cause("connection_lost", "The connection was lost: the other side went silent."),
        detected_by="question",
        detect_seconds=9.0,
        recover_seconds=3.5,
        seconds=12.5,
        attempts=2,
        held=3,
        lost=1,
    )
    return msgspec.structs.replace(plain, **changes)


class HandTunnels:
    """Satisfies api.context.Tunnels; a test sets what is so."""

    def __init__(self) -> None:
        self.changed: Feed[int] = Feed(0)
        self.known: dict[str, wire.Tunnel] = {"default": a_tunnel()}
        self.asked: list[tuple[str, str]] = []
        self.trouble: wire.Cause | None = None
        self.keys = wire.Trust(
            host="[ssh2.vast.ai]:13273",
            known_hosts="/home/me/.ssh/known_hosts",
            status="changed",
            known=[wire.HostKey(f"SHA256:{'o' * 43}", "ssh-ed25519")],
            offered=wire.HostKey(f"SHA256:{'n' * 43}", "ssh-ed25519"),
        )
        self.outages: dict[str, wire.Outage] = {}
        self.findings: list[wire.Check] = []
        self.examined = asyncio.Event()  # cleared: the doctor takes his time
        self.examined.set()
        self.patients = 0

    def names(self) -> list[str]:
        return list(self.known)

    def status(self, name: str) -> wire.Tunnel:
        if name not in self.known:
            raise NotFoundError(
                f"There is no tunnel {name!r}.",
                hint=f"Known: {', '.join(self.known)}.",
                code="tunnel_not_found",
            )
        return self.known[name]

    def outage(self, name: str) -> wire.Outage | None:
        return self.outages.get(name)

    async def up(self, name: str) -> None:
        self.set(name, phase="connecting")
        self.asked.append(("up", name))

    async def down(self, name: str) -> None:
        self.set(name, phase="down")
        self.asked.append(("down", name))

    async def reconnect(self, name: str) -> None:
        self.set(name, phase="connecting")
        self.asked.append(("reconnect", name))

    async def trust(self, name: str, fingerprint: str | None) -> wire.Trust:
        self.status(name)
        self.asked.append((f"trust {fingerprint}", name))
        if fingerprint not in (None, self.keys.offered.fingerprint):
            raise RefusedError(
                "The host shows another key.",
                code="host_key_mismatch",
                details={"named": fingerprint, "offered": self.keys.offered, "known": self.keys.known},
            )
        if fingerprint is not None and self.keys.status != "trusted":
            shown = self.keys
            self.keys = msgspec.structs.replace(shown, status="trusted", known=[shown.offered])
            return msgspec.structs.replace(
                shown, status="trusted", replaced=True, backup="/k.bak", notes=["x"]
            )
        return self.keys

    def cause(self) -> wire.Cause | None:
        return self.trouble

    async def doctor(self, name: str | None) -> wire.Doctor:
        self.patients += 1
        await self.examined.wait()
        names = list(self.known) if name is None else [name]
        checks = [wire.Check("config", "pass", 0.001, "config.toml"), *self.findings]
        broken = next((check.step for check in checks if check.result == "fail"), None)
        reports = [
            wire.Report(
                tunnel=key,
                phase=self.status(key).phase,
                broken=broken,
                steps=checks,
                banner="Welcome\x1b[2J to vast.ai.\nTry again.",
                agent=wire.Agent(),
            )
            for key in names
        ]
        return wire.Doctor("config.toml", reports)

    def set(self, name: str, **changes: Any) -> None:
        self.known[name] = msgspec.structs.replace(self.status(name), **changes)
        self.poke()

    def poke(self) -> None:
        self.changed.set(self.changed.value + 1)


class HandScheduler:
    """What the API asks of the scheduler, over the real store; a test moves the jobs and sets their progress."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.live: Feed[int] = Feed(0)
        self.queue = Feed(Queue(Mode.OPEN, STARTED))
        self.settings = JobsSettings(output_dir=Path("/pictures"))
        self.now: dict[str, LiveProgress] = {}
        self.pictures: dict[str, Preview] = {}
        self.nodes: dict[str, NodeInfo] = {}
        self.hooked = True
        self.entries: dict[str, bytes] = {}  # of /object_info, by class
        self.waits: Waits | None = Waits("link_down", "the link is connecting", "", STARTED)

    async def submit(self, new: NewJob, *, claim: str | None = None, partner_key: str | None = None) -> Job:
        parse_api_graph(new.workflow)
        if partner_key is not None:
            raise UsageError("No partner keys here.", hint="Leave it out.")
        return await self.store.add(new, now=datetime.now(UTC), claim=claim)

    async def classes(self, names: Collection[str], tunnel: str | None = None) -> dict[str, NodeInfo]:
        return {name: self.nodes[name] for name in names if name in self.nodes}

    async def convert(self, workflow: dict[str, Any], tunnel: str | None) -> dict[str, Any]:
        return convert(workflow, self.entries)

    async def cancel(self, job_id: str) -> Job:
        job = await self.store.get(job_id)
        assert job is not None
        if job.status in TERMINAL:
            return job
        return await self.move(job_id, Stage.ENDED, status=Status.CANCELED, completed_at=datetime.now(UTC))

    async def set_mode(self, mode: Mode) -> Queue:
        self.queue.set(Queue(mode, datetime.now(UTC)))
        return self.queue.value

    async def retry(self, job_id: str, inputs: tuple[Input, ...], *, hooked: bool = True) -> Job:
        self.hooked = hooked
        workflow = await self.store.workflow(job_id)
        if workflow is None:
            raise NotFoundError(f"There is no job {job_id}.")
        return await self.submit(NewJob(workflow=workflow, inputs=inputs, retry_of=job_id))

    async def prioritise(self, job_id: str, priority: int) -> Job:
        job = await self.store.move(job_id, expect=set(Stage), priority=priority)
        assert job is not None
        return job

    async def place_first(self, job_id: str) -> Job:
        return await self.prioritise(job_id, 1000)

    def progress(self, job_id: str) -> LiveProgress | None:
        return self.now.get(job_id)

    def preview(self, job_id: str) -> Preview | None:
        return self.pictures.get(job_id)

    def queue_position(self, job: Job) -> int | None:
        return 0 if job.status is Status.QUEUED else None

    def waits_for(self, job: Job) -> Waits | None:
        return self.waits if job.status is Status.QUEUED else None

    # by hand

    def poke(self) -> None:
        self.live.set(self.live.value + 1)

    async def move(self, job_id: str, stage: Stage, **changes: Any) -> Job:
        job = await self.store.move(job_id, expect=set(Stage) - {Stage.ENDED}, stage=stage, **changes)
        assert job is not None
        return job

    async def start(self, job_id: str) -> None:
        await self.move(job_id, Stage.SUBMITTING)
        await self.move(
            job_id, Stage.ON_SERVER, status=Status.RUNNING, started_at=datetime.now(UTC), executions=1
        )

    async def output(
        self, job_id: str, path: Path, content_type: str = "image/png", **changes: Any
    ) -> Output:
        output = msgspec.structs.replace(an_output(job_id, path, content_type), **changes)
        await self.store.add_output(output)
        return output

    async def succeed(self, job_id: str) -> None:
        await self.move(job_id, Stage.FETCHING)
        await self.move(job_id, Stage.ENDED, status=Status.SUCCEEDED, completed_at=datetime.now(UTC))


def an_output(job_id: str, path: Path, content_type: str) -> Output:
    return Output(
        asset_id=f"0a0a0a0a-0000-4000-8000-{abs(hash(path)) % 10**12:012d}",
        job_id=job_id,
        ord=0,
        node_id="2",
        name=path.name,
        kind="image" if content_type.startswith("image/") else "file",
        content_type=content_type,
        size=path.stat().st_size,
        blake3="b" * 64,
        sha256="a" * 64,
        path=str(path),
    )


@dataclass
class Api:
    """A served API and the hands behind it."""

    path: Path
    context: Context
    tunnels: HandTunnels
    scheduler: HandScheduler
    outages: History
    store: Store
    server: Server
    http: aiohttp.ClientSession
    reloads: list[Any]
    opened: list[aiohttp.ClientResponse] = field(default_factory=list)
    """Streams that a test has opened, closed for it at the end."""

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        """Return the status and the JSON of an answer."""
        async with self.http.request(method, f"http://localhost{path}", **options) as response:
            return response.status, await response.json()

    async def upload(self, data: bytes, name: str = "photo.png", **fields: str) -> dict[str, Any]:
        """Upload a file and return its asset."""
        form = aiohttp.FormData({"content_type": "image/png", "file_path": name, **fields})
        form.add_field("file", data, filename="x")
        status, asset = await self.ask("POST", "/api/v2/assets", data=form)
        assert status in (200, 201), asset
        made: dict[str, Any] = asset
        return made

    async def submit(self, **extra: Any) -> str:
        status, job = await self.ask("POST", "/api/v2/jobs", json={"workflow": WORKFLOW, **extra})
        assert status == 201, job
        return str(job["id"])


@pytest.fixture
def short() -> Iterator[Path]:
    """A private folder with a short path: a socket's may have 103 bytes at most."""
    folder = Path(tempfile.mkdtemp(prefix="ct-"))
    yield folder
    shutil.rmtree(folder)


@contextlib.asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Api]:
    store = await Store.open(folder / "state" / "jobs.db")
    tunnels, scheduler, reloads = HandTunnels(), HandScheduler(store), list[Any]()
    outages = History(folder / "state" / "outages.jsonl")

    assets = Assets(store)
    await assets.open()

    async def reload() -> dict[str, Any]:
        reloads.append(1)
        return {"reloaded": "config.toml", "added": [], "removed": [], "changed": [], "sections": ["log"]}

    context = Context(
        tunnels=tunnels,
        store=store,
        assets=assets,
        scheduler=cast(Scheduler, scheduler),
        outages=outages,
        workflows=Folder(folder / "workflows"),
        reload=reload,
        doctor=tunnels.doctor,
        config=str(folder / "config.toml"),
        started_at=STARTED,
    )
    path = folder / "run" / "control.sock"
    try:
        with Lock(path.parent, folder / "state") as lock, control_socket(path, lock) as sock:
            async with (
                Server(context, sock) as server,
                aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as http,
            ):
                api = Api(path, context, tunnels, scheduler, outages, store, server, http, reloads)
                yield api
                for response in api.opened:
                    response.close()
    finally:
        await store.close()


@pytest.fixture
async def api(short: Path) -> AsyncIterator[Api]:
    async with serving(short) as served, asyncio.timeout(25):
        yield served
