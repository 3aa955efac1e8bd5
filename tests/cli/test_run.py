"""`run`: a workflow goes in, progress to stderr, the paths of the files to stdout; the job outlives us."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import msgspec
import pytest

from comfytunnel import wire
from comfytunnel.cli.pace import Watched, speed_text
from comfytunnel.cli.progress import LineView
from comfytunnel.cli.render import job_text
from comfytunnel.jobs.model import Failure, LiveProgress, Stage, Status, Waits
from tests.api.conftest import STARTED, WORKFLOW, Api, serving
from tests.cli.conftest import Cli, on_terminal


@pytest.fixture
def workflow(tmp_path: Path) -> str:
    (tmp_path / "w.json").write_text(json.dumps(WORKFLOW))
    return "w.json"


async def next_job(api: Api) -> str:
    """Wait for a job to be submitted and return its id."""
    await api.store.revision.until(lambda revision: revision > 0)
    [job] = await api.store.since(0)
    return job.id


async def finish(api: Api, folder: Path) -> str:
    """Carry the next job to its end with one file, as the scheduler would."""
    job_id = await next_job(api)
    await api.scheduler.start(job_id)
    api.scheduler.now[job_id] = LiveProgress(0.5, 1, 2, "1", "EmptyImage", step=3, steps=10)
    api.scheduler.poke()
    folder.mkdir(exist_ok=True)
    (folder / "pic.png").write_bytes(b"picture")
    await api.scheduler.output(job_id, folder / "pic.png")
    await api.scheduler.succeed(job_id)
    return job_id


async def test_run_prints_the_paths_alone_on_stdout(
    api: Api, cli: Cli, workflow: str, tmp_path: Path
) -> None:
    finishing = asyncio.create_task(finish(api, tmp_path / "kept"))
    ran = await cli("run", workflow)
    job_id = await finishing
    assert (ran.code, ran.out) == (0, f"{tmp_path}/kept/pic.png\n")
    assert f"job {job_id}" in ran.err


async def test_the_workflow_may_come_from_stdin(api: Api, cli: Cli, tmp_path: Path) -> None:
    finishing = asyncio.create_task(finish(api, tmp_path / "kept"))
    assert (await cli("run", "-", stdin=json.dumps(WORKFLOW))).code == 0
    await finishing


async def test_copies_are_numbered_and_nothing_is_overwritten(
    api: Api, cli: Cli, workflow: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "pic.png").write_bytes(b"mine")
    (out / "pic-1.png").symlink_to(tmp_path / "elsewhere")
    finishing = asyncio.create_task(finish(api, tmp_path / "kept"))
    ran = await cli("run", workflow, "-o", "out")
    await finishing
    assert ran.out == "out/pic-2.png\n", ran.err
    assert ((out / "pic.png").read_bytes(), (out / "pic-2.png").read_bytes()) == (b"mine", b"picture")
    assert not (tmp_path / "elsewhere").exists()


async def test_json_is_one_event_a_line_and_a_result(
    api: Api, cli: Cli, workflow: str, tmp_path: Path
) -> None:
    finishing = asyncio.create_task(finish(api, tmp_path / "kept"))
    ran = await cli("run", workflow, "--json")
    job_id = await finishing
    lines = [json.loads(line) for line in ran.out.splitlines()]
    assert (lines[0]["event"], lines[0]["data"]["id"]) == ("submitted", job_id)
    assert (lines[-1]["event"], lines[-1]["data"]["status"]) == ("result", "succeeded")
    assert lines[-1]["files"] == [f"{tmp_path}/kept/pic.png"]
    assert ran.err == ""


async def test_a_failed_job_is_exit_1_with_node_class_and_the_end_of_the_trace(
    api: Api, cli: Cli, workflow: str
) -> None:
    trace = "\n".join(f"line {number}" for number in range(50))
    running = asyncio.create_task(cli("run", workflow))
    job_id = await next_job(api)
    failure = Failure("node_execution_error", "Not found: CUDA out of memory", "2", "SaveImage", trace)
    await api.scheduler.move(job_id, Stage.ENDED, status=Status.FAILED, error=failure)
    ran = await running
    assert (ran.code, ran.out) == (1, "")
    assert "failed in node 2 (SaveImage): Not found: CUDA out of memory" in ran.err
    assert ran.err.count("failed") == 1
    assert "line 49" in ran.err
    assert "line 37" not in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "line 1 column 2"),
        ('{\n"a": 1\n"b": 2}', "line 3 column 1"),
        ("[1]", "not a JSON object"),
        ('{"a": NaN}', "NaN"),
        ("[" * 100_000, "recursion"),
        (json.dumps({"nodes": [], "links": []}), "Export (API)"),
        ("{}", "empty"),
    ],
)
async def test_a_bad_workflow_is_exit_2_and_leaves_no_job(api: Api, cli: Cli, text: str, words: str) -> None:
    (cli.folder / "w.json").write_text(text)
    ran = await cli("run", "w.json")
    assert (ran.code, ran.out) == (2, "")
    assert words in ran.err
    assert "Traceback" not in ran.err
    assert api.store.revision.value == 0


async def test_a_picture_in_the_place_of_a_workflow_is_said_in_words(alone: Cli) -> None:
    (alone.folder / "w.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    ran = await alone("run", "w.png")
    assert ran.code == 2
    assert "w.png is no JSON: it is not even text." in ran.err
    assert "Export (API)" in ran.err


@pytest.mark.parametrize(
    "given", [["none.json"], ["w.json", "-o", "w.json"], ["w.json", "--pictures", "big"]]
)
async def test_what_is_wrong_at_the_end_is_said_before_a_job_is_sent(
    api: Api, cli: Cli, workflow: str, given: list[str]
) -> None:
    assert (await cli("run", *given)).code == 2
    assert api.store.revision.value == 0


async def test_files_that_cannot_be_copied_are_said_and_the_other_jobs_are_followed_all_the_same(
    api: Api, cli: Cli, tmp_path: Path
) -> None:
    ids = [await api.submit() for _ in range(2)]
    async with cli.running("jobs", "wait", *ids, "-o", "out") as process:
        assert process.stderr is not None
        await process.stderr.readline()  # they are followed
        (tmp_path / "out").rmdir()
        (tmp_path / "out").write_text("mine")
        for job_id in ids:
            await api.scheduler.start(job_id)
            (tmp_path / f"{job_id}.png").write_bytes(b"picture")
            await api.scheduler.output(job_id, tmp_path / f"{job_id}.png")
            await api.scheduler.succeed(job_id)
        out, err = await process.communicate()
    made = {f"{tmp_path}/{job_id}.png" for job_id in ids}
    assert (process.returncode, set(out.decode().splitlines())) == (1, made), err
    assert (tmp_path / "out").read_text() == "mine"
    assert err.decode().count("error: The folder out cannot be made") == 2
    for job_id in ids:
        assert f"comfytunnel jobs wait {job_id} -o DIR" in err.decode()


async def test_ctrl_c_without_a_terminal_leaves_the_job_running(api: Api, cli: Cli, workflow: str) -> None:
    async with cli.running("run", workflow) as process:
        job_id = await next_job(api)
        await until_watched(api)
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
    assert process.returncode == 1
    assert f"comfytunnel jobs wait {job_id}" in err.decode()
    job = await api.store.get(job_id)
    assert job is not None
    assert job.status is Status.QUEUED


async def until_watched(api: Api) -> None:
    while not api.context.streams:  # noqa: ASYNC110 - nothing rings when a stream opens; the fixture holds the deadline
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("keys", "status"), [("c\n", Status.CANCELED), ("\n", Status.QUEUED), ("l\n", Status.QUEUED)]
)
async def test_ctrl_c_on_a_terminal_asks(
    api: Api, cli: Cli, workflow: str, keys: str, status: Status
) -> None:
    async with on_terminal(cli, "run", workflow) as (terminal, process):
        job_id = await next_job(api)
        await terminal.until("the link is connecting")
        process.send_signal(signal.SIGINT)
        await terminal.until("leave it running?")
        terminal.type(keys)
        await terminal.until("The job is canceled" if status is Status.CANCELED else "goes on")
        assert await process.wait() == 1
    job = await api.store.get(job_id)
    assert job is not None
    assert job.status is status


async def test_ctrl_c_at_the_question_leaves_the_job_and_says_so_on_a_line_of_its_own(
    api: Api, cli: Cli, workflow: str
) -> None:
    async with on_terminal(cli, "run", workflow) as (terminal, process):
        job_id = await next_job(api)
        await terminal.until("the link is connecting")
        terminal.type("\x03")
        await terminal.until("leave it running?")
        terminal.type("\x03")
        await terminal.until(f"\nThe job {job_id} is left as it is.")
        assert await process.wait() == 1


async def test_a_terminal_sees_a_bar_with_node_and_step(
    api: Api, cli: Cli, workflow: str, tmp_path: Path
) -> None:
    async with on_terminal(cli, "run", workflow) as (terminal, process):
        job_id = await next_job(api)
        await terminal.until("the link is connecting")
        await api.scheduler.start(job_id)
        api.scheduler.now[job_id] = LiveProgress(0.5, 1, 2, "1", "K\x1b]0;owned\x07[bold]", step=3, steps=10)
        api.scheduler.poke()
        shown = await terminal.until(
            "K[bold] 3/10"
        )  # neither an escape nor rich's own markup: a node may be called anything
        assert "node 1/2" in shown
        assert "50%" in shown
        assert "owned" not in shown
        await api.scheduler.cancel(job_id)
        await terminal.until("the job was canceled")
        assert await process.wait() == 1


async def test_several_jobs_are_followed_at_once_and_each_tells_its_end(
    api: Api, cli: Cli, tmp_path: Path
) -> None:
    """On a terminal: a row each and one for all, with the reason and its hint; the files as soon as a job has ended."""
    (tmp_path / "pic.png").write_bytes(b"picture")
    api.scheduler.waits = Waits("disk_full", "the disk is full", "Make\x9b2J room.", STARTED)
    ids = [await api.submit(comfytunnel={"label": f"n\x1b[31m{number}"}) for number in range(10)]
    async with on_terminal(cli, "jobs", "wait", *ids, whole=True) as (terminal, process):
        shown = await terminal.until("and 2 more")
        assert "0 of 10 jobs" in shown
        assert f"{ids[0][:8]} n0" in shown
        assert "queued: the disk is full" in shown
        assert shown.count("Make room.") <= shown.count("and 2 more")
        assert "\x9b2J" not in shown
        await api.scheduler.start(ids[3])
        api.scheduler.now[ids[3]] = LiveProgress(0.5, 1, 2, "1", "K", message="Upscale \x1b]0;x\x07it 3/10")
        api.scheduler.poke()
        assert "]0;x" not in await terminal.until("50%  Upscale it 3/10")
        await api.scheduler.output(ids[3], tmp_path / "pic.png")
        await api.scheduler.succeed(ids[3])
        await terminal.until(f"{tmp_path}/pic.png")
        await terminal.until("1 of 10 jobs")
        for job_id in ids[:3] + ids[4:]:
            await api.scheduler.cancel(job_id)
        assert (await terminal.rest()).count("was canceled") == 9
        assert await process.wait() == 1


async def test_several_jobs_as_lines_and_as_json(api: Api, cli: Cli, tmp_path: Path) -> None:
    ids = [await api.submit(comfytunnel={"label": "same"}) for _ in range(2)]
    for job_id in ids:
        await api.scheduler.cancel(job_id)
    ran = await cli("jobs", "wait", ids[0][:8], ids[1], ids[0])
    assert ran.code == 1
    for job_id in ids:
        assert f"{job_id[:8]} same: canceled" in ran.err
    lines = [json.loads(line) for line in (await cli("jobs", "wait", *ids, "--json")).out.splitlines()]
    assert [line["job"] for line in lines if line["event"] == "submitted"] == ids
    assert {
        line["job"]: line["data"]["status"] for line in lines if line["event"] == "result"
    } == dict.fromkeys(ids, "canceled")


def test_lines_are_few_and_say_how_fast_it_goes(capsys: pytest.CaptureFixture[str]) -> None:
    """A line a second at most, none without news; the speed is that of the node which runs."""
    now = 0.0
    with LineView([waiting_job()], clock=lambda: now) as shown:
        for step in range(41):
            now = step / 4
            shown.show("j", wire.Progress(step / 40, 0, 2, "1", "K", step, 40, f"Sampler {step}/40"))
            shown.show("j", wire.Progress(step / 40, 0, 2, "1", "K", step, 40, f"Sampler {step}/40"))
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "0%, node 0/2, Sampler 0/40"
    assert said[-1] == "100%, node 0/2, Sampler 40/40, 4.0 steps/s"
    assert len(said) == 11


def test_the_pace_begins_anew_with_each_node() -> None:
    watched = Watched(waiting_job())
    for at, step in ((0.0, 0), (1.0, 8)):
        watched.feed(wire.Progress(0.1, 0, 2, "1", "K", step, 16), at)
    assert (watched.rate(), watched.left(1.5)) == (8.0, 0.5)
    watched.feed(wire.Progress(0.5, 1, 2, "2", "V", 1, 4), 2.0)
    assert (watched.rate(), watched.left(2.0)) == (None, None)
    watched.feed(wire.Progress(0.5, 1, 2, "2", "V", 2, 4), 4.5)
    assert speed_text(watched.rate() or 0) == "2.5 s/step"


def waiting_job() -> wire.Job:
    return wire.Job(
        id="j",
        status="queued",
        created_at=STARTED,
        started_at=None,
        completed_at=None,
        expires_at=wire.NEVER,
        queue_position=0,
        progress=None,
        outputs=[],
        error=None,
        urls=wire.JobUrls("", "", ""),
    )


async def test_a_restart_of_the_daemon_does_not_end_the_view(
    short: Path, tmp_path: Path, workflow: str
) -> None:
    """The daemon goes away while we watch and comes back: the same command prints the file."""
    async with serving(short) as first:
        cli = Cli(tmp_path, first.path)
        running = asyncio.create_task(cli("run", workflow))
        await next_job(first)
        await until_watched(first)
    async with serving(short) as second:
        await finish(second, tmp_path / "kept")
        ran = await asyncio.wait_for(running, 15)
    assert (ran.code, ran.out) == (0, f"{tmp_path}/kept/pic.png\n")


async def test_run_says_once_that_the_daemon_is_away(short: Path, tmp_path: Path, workflow: str) -> None:
    async with serving(short) as first, Cli(tmp_path, first.path).running("run", workflow) as process:
        assert process.stderr is not None
        await next_job(first)
        await until_watched(first)
        await first.server.__aexit__(None, None, None)
        said = ""
        while "away" not in said:
            said = (await process.stderr.readline()).decode()
        assert said == "the daemon is away, waiting for it (the jobs are on disk)\n"
        process.send_signal(signal.SIGINT)
        _, rest = await process.communicate()
    assert b"away" not in rest


async def test_jobs_wait_has_a_deadline_and_the_job_stays(api: Api, cli: Cli) -> None:
    job_id = await api.submit()
    ran = await cli("jobs", "wait", job_id, "--timeout", "0.3")
    assert ran.code == 4
    assert "0.3 seconds have passed" in ran.err
    assert f"comfytunnel jobs wait {job_id}" in ran.err
    await api.scheduler.cancel(job_id)
    assert (await cli("jobs", "wait", job_id)).code == 1


EVIL = wire.Progress(0.1, 0, 1, "1\x1b]0;x\x07", "K\x9b2J[bold]")


def test_a_line_obeys_nothing_of_the_far_side(capsys: pytest.CaptureFixture[str]) -> None:
    with LineView() as shown:
        shown.show("x", EVIL)
    assert capsys.readouterr().err == "10%, node 0/1, K[bold]\n"


def test_what_a_job_was_asked_for_is_shown_and_its_error_once() -> None:
    asked = wire.Generated("portrait", {"seed": 7, "prompt": "a \x1b[31mcat"})
    refused = wire.JobError("invalid_workflow", "Refused: not in list", "3", "K", traceback="not in list")
    job = msgspec.structs.replace(
        waiting_job(), status="failed", error=refused, comfytunnel=wire.JobExtra(revision=1, generated=asked)
    )
    shown = job_text(job, STARTED)
    assert 'workflow   portrait  seed=7  prompt="a cat"' in shown
    assert shown.count("not in list") == 1
    extra = wire.JobExtra(revision=1, generated=wire.Generated("portrait", {"seed": 7}, changed=True))
    shown = job_text(msgspec.structs.replace(waiting_job(), comfytunnel=extra), STARTED)
    assert "workflow   portrait, changed  seed=7\n" in shown
