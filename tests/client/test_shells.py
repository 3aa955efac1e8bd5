"""What a program does with the Python client, in both shells against a daemon in a process of its own."""

from __future__ import annotations

import asyncio
import io
import socket
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from PIL import Image

from comfytunnel import (
    AsyncClient,
    Client,
    Error,
    JobCanceledError,
    JobFailedError,
    NotFoundError,
    NotRunningError,
    RefusedError,
    TimedOutError,
    UsageError,
    WorkflowError,
    wire,
)
from comfytunnel.decoding import decode
from tests.app.world import workflow
from tests.client.shells import TOKEN, Shell, Site, site


@pytest.fixture(scope="module")
def at() -> Iterator[Site]:
    with site() as made:
        yield made


@pytest.fixture(params=[Client, AsyncClient])
def shell(request: pytest.FixtureRequest, at: Site) -> Shell:
    return Shell(request.param, socket_path=at.world.client.socket_path)


@pytest.fixture(params=["socket-blocking", "socket-async", "tcp-blocking", "tcp-async"])
def any_shell(request: pytest.FixtureRequest, at: Site) -> Shell:
    road, kind = request.param.split("-")
    where: dict[str, Any] = {"socket_path": at.world.client.socket_path}
    if road == "tcp":
        where = {"base_url": f"http://localhost:{at.web}", "token": TOKEN}
    return Shell(AsyncClient if kind == "async" else Client, **where)


def test_run_returns_the_finished_job_with_its_pictures(any_shell: Shell, tmp_path: Path) -> None:
    """The same over the socket and over TCP; the bytes are those on the disk."""
    shell, told = any_shell, list[Any]()
    job = shell.ask(lambda c: c.run(workflow(11), label="a label", timeout=20, told=told.append))
    assert (job.status, job.label, job.done) == ("succeeded", "a label", True)
    assert any(isinstance(event, wire.StatusEvent) for event in told)
    (output,) = job.outputs
    data = shell.ask(lambda _: output.read())
    assert data == output.path.read_bytes()
    assert Image.open(io.BytesIO(data)).size == (64, 64)
    picture = output.open_image()
    assert (asyncio.run(picture) if shell.is_async else picture).format == "PNG"
    assert shell.ask(lambda _: output.save(tmp_path / "mine.png")) == tmp_path / "mine.png"
    first = shell.ask(lambda _: job.save(tmp_path / "new" / "folder"))
    second = shell.ask(lambda _: job.save(tmp_path / "new" / "folder"))
    assert [path.read_bytes() for path in (tmp_path / "mine.png", *first, *second)] == [data] * 3
    assert first != second
    assert decode(msgspec.json.encode(job), wire.Job).id == job.id


def test_a_handle_is_renewed_in_place(shell: Shell) -> None:
    job = shell.ask(lambda c: c.submit(workflow(12)))
    assert shell.ask(lambda _: job.wait(20)) is job
    assert job.status == "succeeded"
    assert len(job.outputs) == 1
    again = shell.ask(lambda _: job.retry())
    assert again.id != job.id
    assert again.comfytunnel.retry_of == job.id
    assert shell.ask(lambda _: again.wait(20)).done
    assert shell.ask(lambda _: job.workflow()) == workflow(12)
    assert [found.id for found in shell.some(lambda c: c.jobs(limit=2))] == [again.id, job.id]
    assert len(shell.some(lambda c: c.jobs(prefix=job.id))) == 1


def _run(color: int, client: Any) -> Any:
    return client.run(workflow(color), timeout=20)


def test_jobs_goes_on_over_the_pages(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    for color in (21, 22):
        shell.ask(partial(_run, color))
    monkeypatch.setattr("comfytunnel.client.calls.PAGE", 1)
    every = [job.id for job in shell.some(lambda c: c.jobs())]
    assert len(set(every)) == len(every) >= 2
    assert [job.id for job in shell.some(lambda c: c.jobs(limit=2))] == every[:2]


def test_another_end_is_raised_with_the_job_in_it(shell: Shell) -> None:
    """`run` and `check` raise it; `wait` does not."""
    failing = workflow()
    failing["2"] = {"class_type": "DemoFail", "inputs": {"image": ["1", 0], "message": "out of luck"}}
    with pytest.raises(JobFailedError) as caught:
        shell.ask(lambda c: c.run(failing, timeout=20))
    assert caught.value.job.status == "failed"
    assert caught.value.job.id in str(caught.value)
    job = shell.ask(lambda c: c.job(caught.value.job.id))
    assert shell.ask(lambda _: job.wait(5)).status == "failed"
    slow = shell.ask(lambda c: c.submit(workflow(13, seconds=20, steps=400)))
    shell.ask(lambda _: slow.cancel())
    with pytest.raises(JobCanceledError):
        shell.ask(lambda _: slow.wait(20)).check()
    with pytest.raises(WorkflowError):
        shell.ask(lambda c: c.run({}))
    with pytest.raises(NotFoundError):
        shell.ask(lambda c: c.job("no-such-job"))


def test_a_wait_that_is_over_leaves_the_job_alone_and_names_it(shell: Shell) -> None:
    with pytest.raises(TimedOutError) as caught:
        shell.ask(lambda c: c.run(workflow(14, seconds=20, steps=400), timeout=0.3))
    job_id = caught.value.details["job_id"]
    assert job_id in str(caught.value)
    job = shell.ask(lambda c: c.job(job_id))
    assert not job.done
    shell.ask(lambda _: job.cancel())


def test_a_canceled_task_leaves_the_job_running_and_says_so(at: Site) -> None:
    client = AsyncClient(at.world.client.socket_path)

    async def canceled() -> tuple[str, list[str]]:
        job = await client.submit(workflow(15, seconds=20, steps=400))
        task, seen = asyncio.create_task(job.wait(told=lambda _: seen.set())), asyncio.Event()
        await asyncio.wait_for(seen.wait(), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        return job.id, caught.value.__notes__

    job_id, notes = asyncio.run(canceled())
    assert any(job_id in note and "goes on" in note for note in notes)
    job = at.world.client.job(job_id)
    assert not job.done
    job.cancel()


def test_ctrl_c_leaves_the_job_running_and_says_so(at: Site) -> None:
    def press(_: object) -> None:
        raise KeyboardInterrupt

    job = at.world.client.submit(workflow(16, seconds=20, steps=400))
    with pytest.raises(KeyboardInterrupt) as caught:
        job.wait(told=press)
    assert job.id in caught.value.__notes__[0]
    assert not job.refresh().done
    job.cancel()


def test_generate_takes_a_name_values_and_pictures(any_shell: Shell, tmp_path: Path) -> None:
    shell = any_shell
    assert [found.name for found in shell.ask(lambda c: c.workflows())] == ["colour"]
    found = shell.ask(lambda c: c.workflow("colour"))
    assert "colour" in [parameter.name for parameter in found.parameters]
    job = shell.ask(lambda c: c.generate("colour", {"colour": 99}, timeout=20, label="g"))
    assert (job.status, job.label) == ("succeeded", "g")
    assert job.comfytunnel.generated.workflow == "colour"
    assert shell.ask(lambda _: job.workflow())["1"]["inputs"]["color"] == 99
    Image.new("RGB", (8, 8), "red").save(tmp_path / "in.png")
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "x.png"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "t"}},
    }
    asset = shell.ask(lambda c: c.upload(tmp_path / "in.png"))
    for image in (tmp_path / "in.png", str(tmp_path / "in.png"), asset):
        images = {"image": image}
        job = shell.ask(lambda c: c.generate(graph, images=images, timeout=20))  # noqa: B023 - called at once
        assert len(job.outputs) == 1
    job = shell.ask(lambda c: c.generate("colour", wait=False))
    assert shell.ask(lambda _: job.wait(20)).status == "succeeded"
    with pytest.raises(NotFoundError):
        shell.ask(lambda c: c.generate("color"))


def test_a_restart_in_the_middle_of_run_is_survived(shell: Shell, at: Site) -> None:
    """The daemon is killed while it runs the job; another one comes; one job has been made."""
    label, seen = f"restart {shell.is_async}", threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(
            shell.ask,
            lambda c: c.run(workflow(17, seconds=1.5), label=label, timeout=25, told=lambda _: seen.set()),
        )
        assert seen.wait(10)
        at.do(at.world.kill())
        at.do(at.world.start(serving=False))
        assert running.result(25).status == "succeeded"
    assert len(shell.some(lambda c: c.jobs(label=label))) == 1


def test_a_submission_whose_answer_is_lost_makes_one_job(shell: Shell, at: Site) -> None:
    """The daemon has it, and the connection broke before it could say so: the Idempotency-Key finds the job again."""
    lost, served = list[bytes](), list[asyncio.Task[Any] | None]()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request there, its answer back; but for the first, which is kept."""
        served.append(asyncio.current_task())
        there, back = await asyncio.open_unix_connection(at.world.client.socket_path)
        up = asyncio.create_task(_pass(reader, back))
        if lost:
            down = asyncio.create_task(_pass(there, writer))
            await asyncio.wait([up, down], return_when=asyncio.FIRST_COMPLETED)
            down.cancel()
        else:
            lost.append(await there.readuntil(b"\r\n\r\n"))
        up.cancel()
        for end in (back, writer):
            end.close()

    label = f"lost {shell.is_async}"
    with tempfile.TemporaryDirectory(prefix="ct-") as folder:
        server = at.do(_serve(relay, f"{folder}/s"))
        through = Shell(type(shell.client), socket_path=f"{folder}/s")
        job = through.ask(lambda c: c.run(workflow(31), label=label, timeout=20))
        at.do(_close(server, served))
    assert b" 201 " in lost[0] or b" 202 " in lost[0]
    assert job.status == "succeeded"
    assert [found.id for found in shell.some(lambda c: c.jobs(label=label))] == [job.id]


async def _serve(relay: Any, path: str) -> asyncio.Server:
    return await asyncio.start_unix_server(relay, path)


async def _close(server: asyncio.Server, served: list[asyncio.Task[Any] | None]) -> None:
    server.close()
    await asyncio.gather(*(task for task in served if task is not None))


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


def test_events_are_typed_and_their_jobs_are_handles(shell: Shell) -> None:
    assert shell.ask(lambda c: c.wait_until_serving(timeout=10)).tunnels["default"].phase == "up"
    (first,) = shell.some(lambda c: c.events(timeout=10), lambda _: True)
    assert isinstance(first, wire.Status)
    job = shell.ask(lambda c: c.submit(workflow(18)))
    events = shell.some(lambda _: job.follow(20))
    assert events[-1].status == "succeeded"
    assert [event.id for event in events if isinstance(event, wire.Output)] == [events[-1].outputs[0].id]
    seen = shell.some(lambda c: c.events("1", timeout=10), lambda event: isinstance(event, wire.Job))
    assert shell.ask(lambda _: seen[-1].refresh()).id == seen[-1].id


def test_every_plain_call_of_the_async_shell_speaks_to_the_daemon(at: Site, tmp_path: Path) -> None:
    """The blocking ones have their own tests."""

    async def ask() -> None:
        async with AsyncClient(at.world.client.socket_path) as c:
            assert (await c.health()).status == "ok"
            assert (await c.ready()).ready
            assert list(await c.tunnels()) == ["default"]
            assert (await c.tunnel("default")).phase == "up"
            assert (await c.reconnect("default")).phase
            await c.wait_until_serving("default", timeout=20)
            assert isinstance(await c.outages(limit=3), list)
            assert "comfytunnel" in await c.metrics()
            assert (await c.doctor()).reports
            assert (await c.queue()).state == "open"
            assert (await c.queue("pause")).state == "paused"
            job = await c.submit(workflow(19))
            assert (await c.prioritise(job.id, 3)).comfytunnel
            assert (await c.move(job.id, to="front")).id == job.id
            assert (await c.move_to(job.id, "default")).id == job.id
            assert (await c.queue("resume")).state == "open"
            await job.wait(20)
            assert (await c.remove(job.id)) is not None
            (tmp_path / "f.bin").write_bytes(b"x" * 3_000_000)
            asset = await c.upload(tmp_path / "f.bin", name="f")
            to = io.BytesIO()
            assert await c.download(asset.id, to) == 3_000_000
            await c.delete_asset(asset.id)
            with pytest.raises(NotFoundError):
                await c.delete_asset(asset.id)
            await c.reload()
            with pytest.raises(NotFoundError):
                await c.wait("defalt")

    asyncio.run(asyncio.wait_for(ask(), 28))


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_wrong_token_and_a_wrong_address_are_told(kind: type[Client], at: Site, tmp_path: Path) -> None:
    """And a token never leaves this machine."""
    with pytest.raises(RefusedError, match="token"):
        Shell(kind, base_url=f"http://localhost:{at.web}", token="wrong").ask(lambda c: c.status())
    with pytest.raises(NotRunningError, match="No daemon listens"):
        Shell(kind, base_url="http://localhost:1").ask(lambda c: c.status())
    with pytest.raises(NotRunningError, match="No daemon listens"):
        Shell(kind, socket_path=at.world.base / "none").ask(lambda c: c.run(workflow()))
    with pytest.raises(UsageError, match="bytes long"):
        Shell(kind, socket_path=tmp_path / ("x" * 120)).ask(lambda c: c.status())
    for wrong in (
        "http://example.org:8000",
        "https://localhost",
        "localhost:8000",
        "http://[::1",
        "http://localhost/x",
    ):
        with pytest.raises(UsageError):
            kind(base_url=wrong, token=TOKEN)
    with pytest.raises(UsageError):
        kind(token=TOKEN)


def test_a_silent_daemon_ends_a_call_and_a_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: Site
) -> None:
    monkeypatch.setattr("comfytunnel.client.asynccarrier.SILENCE", 0.2)
    with pytest.raises(NotRunningError, match="does not answer"):
        Shell(AsyncClient, socket_path=at.world.client.socket_path).some(lambda c: c.events())
    with tempfile.TemporaryDirectory(prefix="ct-") as folder, socket.socket(socket.AF_UNIX) as mute:
        mute.bind(f"{folder}/s")
        mute.listen()
        with pytest.raises(Error, match="does not answer"):
            Shell(AsyncClient, socket_path=f"{folder}/s", timeout=0.2).ask(lambda c: c.status())
