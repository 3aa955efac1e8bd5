"""Webhooks against real receivers: told once the end is on disk, until it is taken, whoever is slow, gone or not who we think."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from comfytunnel.errors import StateError
from comfytunnel.jobs import webhooks
from comfytunnel.jobs.hookpost import post
from comfytunnel.jobs.model import Hook, Job, NewJob, Output, Stage, Status, Webhook
from comfytunnel.jobs.outbox import Outbox, own_secrets
from comfytunnel.jobs.place import Keep
from comfytunnel.jobs.retention import tidy
from comfytunnel.jobs.store import Store
from comfytunnel.jobs.verdict import ended
from tests.fakes.receiver import Receiver, receiving
from tests.fakes.sshd import free_port
from tests.jobs.bench import Bench, picture

DEADLINE = 20.0
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def an_output(job: Job, path: Path) -> Output:
    data = path.read_bytes()
    return Output(
        asset_id=f"{job.id}-0",
        job_id=job.id,
        node_id="9",
        name=path.name,
        kind="image",
        content_type="image/png",
        size=len(data),
        blake3="b",
        sha256=sha256(data).hexdigest(),
        path=str(path),
    )


class Desk:
    """A store and an outbox on it, and the clock that both go by."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.secret_file = folder / "webhook.secret"
        self.ahead = timedelta()
        self.store: Store
        self._running: asyncio.Task[None] | None = None

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    async def open(self, *, deadline: float = 5.0, first_pause: float = 0.05) -> None:
        self.store = await Store.open(self.folder / "jobs.db")

        async def message(job: Job, webhook: Webhook) -> bytes:
            return f'{{"type": "job.{job.status}", "id": "{job.id}", "base": "{webhook.base}"}}'.encode()

        outbox = Outbox(
            self.store,
            message,
            self.secret_file,
            now=self.now,
            first_pause=first_pause,
            deadline=deadline,
        )
        self._running = asyncio.create_task(outbox.run())

    async def close(self) -> None:
        """As a kill ends it, so far as the disk is concerned."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])
            self._running = None
            await self.store.close()

    async def job(self, url: str, secret: str | None = SECRET, **given: Any) -> Job:
        new = NewJob(workflow={}, webhook=Webhook(url=url, secret=secret), **given)
        return await self.store.add(new, now=self.now())

    async def end(self, job: Job, status: Status = Status.CANCELED) -> None:
        assert (
            await self.store.move(
                job.id, expect={Stage.WAITING, Stage.SUBMITTING}, **ended(status, self.now())
            )
            is not None
        )

    async def ended_job(self, url: str, secret: str | None = SECRET) -> Job:
        job = await self.job(url, secret)
        await self.end(job)
        return job

    async def hook(self, job: Job) -> Hook:
        return (await self.store.hooks_of([job.id]))[job.id]

    async def until(self, job: Job, wanted: Callable[[Hook], object]) -> Hook:
        """Wait until its hook is so."""
        async with asyncio.timeout(DEADLINE):
            while not wanted(hook := await self.hook(job)):  # noqa: ASYNC110 (it tells nobody)
                await asyncio.sleep(0.01)
        return hook

    async def delivered(self, job: Job) -> Hook:
        return await self.until(job, lambda hook: hook.delivered_at)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    made = Desk(tmp_path)
    await made.open()
    yield made
    await made.close()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as made:
        yield made


@pytest.fixture
def short() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ct-") as folder:
        yield Path(folder)


async def test_the_end_of_a_job_is_told_signed(desk: Desk, receiver: Receiver) -> None:
    job = await desk.ended_job(receiver.url + "/a?b=c%20d")
    hook = await desk.delivered(job)
    assert (hook.attempts, hook.due, hook.error) == (1, None, None)
    [got] = receiver.got
    assert got.path == "/a?b=c%20d"
    assert got.id == f"msg_{job.id}"
    assert got.json == {"type": "job.canceled", "id": job.id, "base": "http://localhost"}
    assert abs(int(got.headers["webhook-timestamp"]) - desk.now().timestamp()) < 10
    assert got.headers["content-type"] == "application/json"
    assert got.is_signed_with(SECRET)
    assert not got.is_signed_with(f"whsec_{'A' * 32}")


async def test_nothing_is_said_before_the_end_is_on_disk(desk: Desk, receiver: Receiver) -> None:
    seen: list[str] = []

    async def look(_: web.Request) -> web.Response:
        with contextlib.closing(sqlite3.connect(desk.folder / "jobs.db")) as other:
            seen.append(other.execute("SELECT stage FROM jobs").fetchone()[0])
        return web.Response()

    receiver.answers = [look]
    job = await desk.job(receiver.url)
    await desk.store.move(job.id, expect=Stage.WAITING, stage=Stage.SUBMITTING)
    assert (await desk.hook(job)).due is None
    assert await desk.store.due_targets(desk.now() + timedelta(days=9)) == ([], None)
    await desk.store.move(job.id, expect=Stage.SUBMITTING, **ended(Status.FAILED, desk.now()))
    await desk.delivered(job)
    assert seen == ["ended"]


@pytest.mark.parametrize("status", [Status.SUCCEEDED, Status.FAILED, Status.CANCELED, Status.EXPIRED])
async def test_every_way_to_end_is_told(desk: Desk, receiver: Receiver, status: Status) -> None:
    job = await desk.job(receiver.url)
    await desk.end(job, status)
    await desk.delivered(job)
    assert receiver.got[0].json["type"] == f"job.{status}"


async def test_a_job_without_a_webhook_has_none(desk: Desk) -> None:
    job = await desk.store.add(NewJob(workflow={}), now=desk.now())
    await desk.end(job)
    assert await desk.store.hooks_of([job.id]) == {}


async def test_what_is_not_taken_is_sent_again_the_same_and_signed_anew(
    desk: Desk, receiver: Receiver
) -> None:
    receiver.answers = [500, 404, 201]
    job = await desk.ended_job(receiver.url)
    hook = await desk.delivered(job)
    assert (hook.attempts, hook.error) == (3, None)
    assert len({got.id for got in receiver.got}) == len({got.body for got in receiver.got}) == 1
    assert all(got.is_signed_with(SECRET) for got in receiver.got)
    assert len(receiver.got) == 3


async def test_what_failed_is_seen_between_the_attempts(desk: Desk, receiver: Receiver) -> None:
    await desk.close()
    await desk.open(first_pause=60.0)
    receiver.answers = [500]
    job = await desk.ended_job(receiver.url)
    hook = await desk.until(job, lambda hook: hook.attempts)
    assert (hook.attempts, hook.error, hook.gave_up_at) == (1, "HTTP status 500", None)
    assert hook.due is not None
    assert 40 < (hook.due - desk.now()).total_seconds() < 75


async def test_a_receiver_that_is_not_there_yet_hears_of_it_when_it_is(desk: Desk) -> None:
    port = free_port()
    job = await desk.ended_job(f"http://127.0.0.1:{port}/")
    hook = await desk.until(job, lambda hook: hook.attempts >= 2)
    assert str(port) in (hook.error or "")
    async with receiving(port=port) as late:
        await desk.delivered(job)
        assert len(late.got) == 1


async def test_gone_is_gone(desk: Desk, receiver: Receiver) -> None:
    receiver.answers = [410]
    job = await desk.ended_job(receiver.url)
    hook = await desk.until(job, lambda hook: hook.gave_up_at)
    assert (hook.attempts, hook.due, hook.error) == (1, None, "HTTP status 410")
    other = await desk.ended_job(receiver.url)
    await desk.delivered(other)
    assert [got.id for got in receiver.got] == [f"msg_{job.id}", f"msg_{other.id}"]


async def test_a_redirect_is_not_followed(desk: Desk, receiver: Receiver) -> None:
    async with receiving() as elsewhere:

        async def redirect(_: web.Request) -> web.Response:
            return web.Response(status=307, headers={"Location": elsewhere.url})

        receiver.answers = [redirect]
        job = await desk.ended_job(receiver.url)
        await desk.delivered(job)
        assert (len(receiver.got), elsewhere.got) == (2, [])


async def test_a_silent_receiver_costs_the_deadline_and_holds_up_nobody_else(
    desk: Desk, receiver: Receiver
) -> None:
    await desk.close()
    await desk.open(deadline=1.0, first_pause=60.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel takes the call, nobody answers it
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        slow = [await desk.ended_job(url) for _ in range(3)]
        quick = [await desk.ended_job(receiver.url) for _ in range(20)]
        for job in quick:
            await desk.delivered(job)
        assert (await desk.hook(slow[2])).attempts == 0
        hook = await desk.until(slow[0], lambda hook: hook.attempts)
        assert hook.error == "no answer within 1 s"


@pytest.mark.parametrize(
    "answer", [b"hello\r\n\r\n", b"HTTP/1.1 2000 x\r\n\r\n", b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000]
)
async def test_what_is_said_of_an_answer_that_is_none_gives_nothing_away(desk: Desk, answer: bytes) -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(babble, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        job = await desk.ended_job(f"http://127.0.0.1:{port}/token?key=secret")
        hook = await desk.until(job, lambda hook: hook.attempts)
    assert hook.error
    assert "secret" not in hook.error
    assert "token" not in hook.error
    assert len(hook.error) <= 300


async def test_an_endless_answer_is_not_read(desk: Desk, receiver: Receiver) -> None:
    sent = 0

    async def flood(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(bytes(65536))
                sent += 65536
        return response

    receiver.answers = [flood]
    await desk.delivered(await desk.ended_job(receiver.url))
    assert sent < 50_000_000  # what the buffers of both kernels hold


async def test_an_undelivered_webhook_outlives_the_process(desk: Desk, receiver: Receiver) -> None:
    receiver.answers = [500] * 1000
    job = await desk.ended_job(receiver.url)
    await receiver.until(1)
    await desk.close()
    receiver.answers = []
    before = len(receiver.got)
    await desk.open()
    await desk.delivered(job)
    assert len(receiver.got) == before + 1
    assert len({got.id for got in receiver.got}) == 1


async def test_a_delivery_that_was_not_written_down_is_made_again_under_the_same_id(
    desk: Desk, receiver: Receiver
) -> None:
    held = asyncio.Event()

    async def hold(_: web.Request) -> web.Response:
        await held.wait()
        return web.Response()

    receiver.answers = [hold]
    job = await desk.ended_job(receiver.url)
    await receiver.until(1)
    await desk.close()  # it has been taken, and we shall never know
    held.set()
    await desk.open()
    await desk.delivered(job)
    assert [got.id for got in receiver.got] == [f"msg_{job.id}"] * 2


async def test_a_delivery_that_cannot_be_written_down_is_not_repeated_meanwhile(
    desk: Desk, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full when the answer comes, and has room a moment later."""
    monkeypatch.setattr("comfytunnel.jobs.outbox.AGAIN", 0.05)
    true_put, refused = desk.store.put_hook, asyncio.Event()

    async def full(hook: Hook) -> None:
        if not refused.is_set():
            refused.set()
            raise StateError("no room")
        await true_put(hook)

    monkeypatch.setattr(desk.store, "put_hook", full)
    await desk.delivered(await desk.ended_job(receiver.url))
    assert refused.is_set()
    assert len(receiver.got) == 1


async def test_it_is_given_up_when_its_time_is_over(desk: Desk, receiver: Receiver) -> None:
    receiver.answers = [500] * 1000
    job = await desk.ended_job(receiver.url)
    await desk.until(job, lambda hook: hook.attempts)
    desk.ahead = webhooks.TTL
    hook = await desk.until(job, lambda hook: hook.gave_up_at)
    assert (hook.due, hook.error) == (None, "HTTP status 500")


async def test_a_job_and_its_files_are_kept_until_they_are_told_or_given_up(
    desk: Desk, receiver: Receiver
) -> None:
    receiver.answers = [500] * 1000
    untold = await desk.job(receiver.url)
    picture_file = desk.folder / "a.png"
    picture_file.write_bytes(b"a picture")
    await desk.store.move(
        untold.id, expect=Stage.WAITING, stage=Stage.SUBMITTING
    )  # nothing comes home before
    await desk.store.add_output(an_output(untold, picture_file))
    await desk.end(untold)
    plain = await desk.store.add(NewJob(workflow={}), now=desk.now())
    await desk.end(plain)
    keep = Keep(jobs_age=0.0, outputs_age=0.0)
    await tidy(desk.store, keep, desk.now())
    assert [job.id for job in await desk.store.since(0)] == [untold.id]
    assert picture_file.exists()
    receiver.answers = []
    await desk.delivered(untold)
    await tidy(desk.store, keep, desk.now())
    assert await desk.store.since(0) == []
    assert await desk.store.hooks_of([untold.id]) == {}
    assert not picture_file.exists()


async def test_the_daemons_own_secret_is_made_once_and_for_its_owner_only(
    desk: Desk, receiver: Receiver
) -> None:
    job = await desk.ended_job(receiver.url, None)
    await desk.delivered(job)
    made = desk.secret_file.read_text()
    assert stat.S_IMODE(desk.secret_file.stat().st_mode) == 0o600
    assert receiver.got[0].is_signed_with(made.strip())
    await desk.close()
    await desk.open()
    await desk.delivered(await desk.ended_job(receiver.url, None))
    assert desk.secret_file.read_text() == made


async def test_with_two_secrets_in_the_file_both_sign(desk: Desk, receiver: Receiver) -> None:
    await desk.delivered(await desk.ended_job(receiver.url, None))
    old = desk.secret_file.read_text()
    desk.secret_file.write_text(f"{SECRET}\n\n{old}")
    await desk.delivered(await desk.ended_job(receiver.url, None))
    assert receiver.got[1].is_signed_with(SECRET)
    assert receiver.got[1].is_signed_with(old.strip())


async def test_a_file_of_secrets_that_cannot_be_used_is_said_and_hurts_no_other(
    desk: Desk, receiver: Receiver
) -> None:
    desk.secret_file.write_text("hunter2\n")
    job = await desk.ended_job(receiver.url, None)
    hook = await desk.until(job, lambda hook: hook.attempts)
    assert "webhook.secret cannot be used: a secret begins with whsec_" in (hook.error or "")
    await desk.delivered(await desk.ended_job(receiver.url))
    with pytest.raises(ValueError, match="no secret"):
        own_secrets(Path(os.devnull))


async def test_a_unix_socket_of_ours_is_told(desk: Desk, short: Path) -> None:
    async with receiving(short / "me.sock") as receiver:
        job = await desk.ended_job(receiver.url)
        await desk.delivered(job)
        [got] = receiver.got
        assert (got.path, got.headers["host"]) == ("/", "localhost")
        assert got.is_signed_with(SECRET)


async def test_what_is_not_a_socket_is_not_opened(short: Path) -> None:
    (short / "file").write_text("secret")
    answer = await post(f"unix:{short}/file", b"{}", {})
    assert answer.error == f"{short}/file is not a socket"
    assert (await post(f"unix:{short}/none", b"{}", {})).status is None


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
NOBODY = 65534


@as_root
async def test_a_socket_that_belongs_to_another_user_gets_nothing(short: Path) -> None:
    async with receiving(short / "me.sock") as receiver:
        os.chown(short / "me.sock", NOBODY, NOBODY)
        answer = await post(receiver.url, b"{}", {})
        assert f"belongs to another user (uid {NOBODY})" in answer.error
        assert receiver.got == []


LISTENER = """
import os, socket, sys
os.chmod(os.path.dirname(sys.argv[1]), 0o777)
os.setuid(65534)
sock = socket.socket(socket.AF_UNIX)
sock.bind(sys.argv[1])
sock.listen()
print("ready", flush=True)
sock.settimeout(20)
conn, _ = sock.accept()
conn.settimeout(20)
print(len(conn.recv(1000)), flush=True)
"""


@as_root
async def test_another_users_process_behind_a_file_of_ours_gets_nothing(short: Path) -> None:
    """The file is looked at before the connect, and could be another one by then: it is the process that counts."""
    path = short / "me.sock"
    listener = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LISTENER, str(path), stdout=subprocess.PIPE
    )
    assert listener.stdout is not None
    assert await listener.stdout.readline() == b"ready\n"
    os.chown(path, 0, 0)
    answer = await post(f"unix:{path}", b"{}", {})
    assert f"another user (uid {NOBODY}) listens on {path}" in answer.error
    assert await listener.stdout.readline() == b"0\n"  # the connection was closed, and not a byte had come
    await listener.wait()


async def test_a_retried_job_tells_the_same_receiver(bench: Bench) -> None:
    webhook = Webhook(url="http://127.0.0.1:9/x", secret=SECRET)
    bench.link_down()
    first = await bench.submit(picture(), webhook=webhook)
    await bench.scheduler.cancel(first.id)
    again = await bench.scheduler.retry(first.id)
    assert again.webhook
    assert (await bench.store.hooks_of([again.id]))[again.id] == Hook(job_id=again.id, webhook=webhook)
