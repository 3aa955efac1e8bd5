"""`jobs`, `queue` and what a submission may ask for, as a person types it: parts of ids, misspelt words, refusals."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from comfytunnel import wire
from comfytunnel.cli.render import failure_lines
from comfytunnel.cli.screen import Seen, screen
from comfytunnel.cli.words import moment
from comfytunnel.errors import RefusedError, UsageError
from comfytunnel.jobs.model import Job, NewJob, NodeTime, Stage, Status, Waits
from tests.api.conftest import STARTED, WORKFLOW, Api, a_tunnel
from tests.cli.conftest import Cli, on_terminal

TEXT = json.dumps(WORKFLOW)

# --- refused --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["queue_full", "queue_draining"])
async def test_a_refused_submission_is_exit_5(
    api: Api, cli: Cli, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    async def refuse(_: NewJob, **_given: Any) -> Job:
        raise RefusedError("No more, please.", hint="Later.", code=code)

    monkeypatch.setattr(api.scheduler, "submit", refuse)
    for command in ("submit", "run"):
        ran = await cli(command, "-", stdin=TEXT)
        assert (ran.code, ran.out, ran.err) == (5, "", "error: No more, please.\n  Later.\n")


# --- limits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["submit", "run"])
async def test_submit_and_run_take_a_time_to_live_and_fail_fast(api: Api, cli: Cli, command: str) -> None:
    async with cli.running(command, "-", "--ttl", "2.5", "--fail-fast") as process:
        assert process.stdin is not None
        process.stdin.write(TEXT.encode())
        process.stdin.close()
        await api.store.revision.until(lambda revision: revision > 0)
        [job] = await api.store.since(0)
        await api.scheduler.move(job.id, Stage.ENDED, status=Status.EXPIRED, completed_at=STARTED)
        await process.wait()
    assert (job.ttl, job.fail_fast) == (2.5, True)


# --- words ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("queue puase", "`puase` is no order for the queue.\n  Did you mean `pause`?"),
        ("queue resum", "Did you mean `resume`?"),
        ("queue xyz", "It takes pause, resume, drain."),
        ("wait --for servng", "Did you mean `serving`?"),
        ("completion bsh", "Did you mean `bash`?"),
    ],
)
async def test_a_misspelt_word_is_answered_with_the_nearest_one(alone: Cli, command: str, said: str) -> None:
    ran = await alone(*command.split())
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
    assert "Value error" not in ran.err


@pytest.mark.parametrize("order", ["pause", "resume", "drain"])
async def test_the_right_words_are_taken(api: Api, cli: Cli, order: str) -> None:
    assert (await cli("queue", order)).code == 0
    assert order in (await cli("queue", "--help")).out


def test_what_somebody_else_took_away_has_not_failed() -> None:
    error = wire.JobError(code="removed_on_server", message="It was removed from ComfyUI's queue.")
    assert failure_lines("canceled", error) == ["canceled: It was removed from ComfyUI's queue."]


# --- parts of ids ---------------------------------------------------------------------------------------------------


async def test_the_beginning_of_an_id_is_enough(api: Api, cli: Cli) -> None:
    job_id = await api.submit()
    for part in (job_id[:4], job_id[:13], job_id[:8].upper(), job_id):
        assert f"job        {job_id}" in (await cli("jobs", "show", part)).out
    assert "canceled" in (await cli("jobs", "cancel", job_id[:6])).out
    ran = await cli("jobs", "wait", job_id[:6])
    assert (ran.code, "canceled" in ran.err) == (1, True)
    again = (await cli("jobs", "retry", job_id[:6])).out.strip()
    found = await api.store.get(again)
    assert found is not None
    assert found.retry_of == job_id


async def test_a_beginning_that_fits_several_jobs_names_them(api: Api, cli: Cli, ids: list[str]) -> None:
    first, second, _ = [await api.submit() for _ in ids]
    ran = await cli("jobs", "cancel", "aaaa")
    assert ran.code == 2
    assert first in ran.err
    assert second in ran.err
    assert {job.status for job in await api.store.since(0)} == {Status.QUEUED}
    assert f"job        {first}" in (await cli("jobs", "show", "aaaaaaaa-1")).out


@pytest.fixture
def ids(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the next jobs: two with the same beginning."""
    heads = ("aaaaaaaa-1111", "aaaaaaab-1111", "bbbbbbbb-1111")
    made = [f"{head}-4000-8000-000000000000" for head in heads]
    left = iter(made)
    monkeypatch.setattr("comfytunnel.jobs.store.uuid4", lambda: next(left))
    return made


@pytest.mark.parametrize(
    ("part", "said"),
    [("abc", "at least 4 characters"), ("ffff", "There is no job ffff"), ("nope", "There is no job nope")],
)
async def test_a_beginning_that_fits_nothing_is_said(api: Api, cli: Cli, part: str, said: str) -> None:
    ran = await cli("jobs", "show", part)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err


@pytest.mark.parametrize("part", ["%", "abc", "xyz1", "aaaa'", "a" * 37, ""])
async def test_the_list_takes_the_beginning_of_an_id_and_nothing_else(api: Api, part: str) -> None:
    status, refused = await api.ask("GET", "/api/v2/jobs", params={"prefix": part})
    assert (status, refused["error"]["code"]) == (422, "invalid_request")


# --- what is said ---------------------------------------------------------------------------------------------------


def a_status(cause: wire.Cause, phase: str = "waiting") -> wire.Status:
    return wire.Status(
        version="1",
        pid=2,
        started_at=STARTED,
        config="c",
        cause=None,
        tunnels={"default": a_tunnel(phase=phase, cause=cause)},
        jobs=wire.JobCounts(running=3),
        queue=wire.Queue(state="open", since=STARTED, waiting=0, on_server=3),
    )


def a_running_job(number: int, waits: wire.WaitsFor) -> wire.Job:
    urls = wire.JobUrls("s", "e", "c")
    return wire.Job(
        id=f"{number}0000000-0000-4000-8000-000000000000",
        status="running",
        created_at=STARTED,
        started_at=STARTED,
        completed_at=None,
        expires_at=wire.NEVER,
        queue_position=None,
        progress=None,
        outputs=[],
        error=None,
        urls=urls,
        comfytunnel=wire.JobExtra(revision=1, tunnel="default", waits_for=waits),
    )


def test_status_says_each_reason_once() -> None:
    cause = wire.Cause("connection_lost", "The connection was lost.", "Look.")
    tunnels_own = wire.WaitsFor("connection_lost", "The connection was lost.", STARTED, "Look.")
    full = wire.WaitsFor("disk_full", "The disk is full.", STARTED, "Make room.")
    stuck = [a_running_job(1, tunnels_own), a_running_job(2, full), a_running_job(3, full)]
    text = screen(Seen(a_status(cause), stuck), STARTED)
    assert text.count("The connection was lost.") == text.count("Look.") == 1
    assert text.count("The disk is full.") == text.count("Make room.") == 1
    assert "2 jobs: The disk is full." in text
    gone = screen(Seen(a_status(cause, "up"), stuck[1:2]), STARTED)
    assert f"{stuck[1].id}: The disk is full." in gone


async def test_a_waiting_reason_of_a_lost_tunnel_stands_once_on_the_screen(
    api: Api, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = Waits("connection_lost", "The connection was lost.", "", STARTED)
    monkeypatch.setattr(api.scheduler, "waits_for", lambda _job: lost)
    cause = wire.Cause("connection_lost", "The connection was lost.")
    api.tunnels.known["default"] = a_tunnel(phase="connecting", cause=cause)
    await api.scheduler.start(await api.submit())
    assert (await cli("status")).out.count("The connection was lost.") == 1


# --- filters, and forgetting ----------------------------------------------------------------------------------------


async def test_jobs_are_filtered_before_and_after_the_word_list(api: Api, cli: Cli) -> None:
    first = await api.submit(comfytunnel={"label": "cat"})
    second = await api.submit(comfytunnel={"label": "dog"})
    await api.scheduler.cancel(second)
    for words in (
        ("--label", "CA"),
        ("--status", "queued"),
        ("--since", "1h", "--label", "cat"),
        ("--prefix", first[:8].upper()),
    ):
        for before in ((), ("list",)):
            ran = await cli("jobs", *before, *words)
            assert [line.split()[0] for line in ran.out.splitlines()] == [first], words
    assert "no such job" in (await cli("jobs", "--tunnel", "nowhere")).err
    ran = await cli("jobs", "--label", "a b", "--since", "soon")
    assert (ran.code, "30min, 2h, 1d" in ran.err) == (2, True)
    assert "Did you mean `queued`?" in (await cli("jobs", "--status", "queud")).err
    assert "`zz` is not how a job's id begins" in (await cli("jobs", "--prefix", "zz")).err


async def test_the_rest_of_a_filtered_list_is_offered_with_its_filters(api: Api, cli: Cli) -> None:
    for _ in range(2):
        await api.submit(comfytunnel={"label": "a b"})
    ran = await cli("jobs", "--label", "a b", "--since", "1h", "--limit", "1")
    assert "comfytunnel jobs list --label 'a b' --since 1h --limit 5" in ran.err


async def test_ended_jobs_are_forgotten_and_a_living_one_is_not(api: Api, cli: Cli, tmp_path: Path) -> None:
    ids = [await api.submit() for _ in range(2)]
    (tmp_path / "p\x1b[2J.png").write_bytes(b"x")
    await api.scheduler.start(ids[0])
    await api.scheduler.output(ids[0], tmp_path / "p\x1b[2J.png")
    await api.scheduler.succeed(ids[0])
    ran = await cli("jobs", "rm", *ids)
    assert (ran.code, f"{ids[0]}  forgotten; 1 file stays" in ran.out) == (5, True)
    assert f"comfytunnel jobs cancel {ids[1]}" in ran.err
    assert "\x1b" not in ran.out
    assert [job.id for job in await api.store.since(0)] == [ids[1]]


async def test_files_are_deleted_only_when_somebody_agrees(api: Api, cli: Cli, tmp_path: Path) -> None:
    """Without a terminal it wants --yes, and nothing is forgotten until then; where there is no file nobody need agree."""
    ids = [await api.submit() for _ in range(2)]
    for job_id in ids:
        (tmp_path / f"{job_id}.png").write_bytes(b"x")
        await api.scheduler.start(job_id)
        await api.scheduler.output(job_id, tmp_path / f"{job_id}.png")
        await api.scheduler.succeed(job_id)
    without = await api.submit()
    await api.scheduler.cancel(without)
    assert (await cli("jobs", "rm", without, "--files")).code == 0
    for words in ((), ("--json",)):
        ran = await cli("jobs", "rm", *ids, "--files", *words)
        assert ran.code == 2
        assert "Delete 2 files of 2 jobs? Nobody is there to agree. Nothing was deleted." in ran.err + ran.out
    for keys, left in (("n\n", 2), ("y\n", 1)):
        async with on_terminal(cli, "jobs", "rm", ids[0], "--files", whole=True) as (terminal, process):
            await terminal.until("Delete 1 file of 1 job? [y/N]")
            terminal.type(keys)
            await terminal.until("Nothing was deleted." if left == 2 else "forgotten")
            assert await process.wait() == left - 1
        assert len(await api.store.since(0)) == left
    assert (await cli("jobs", "rm", ids[1], "--files", "--yes")).code == 0
    assert await api.store.since(0) == []


def test_a_time_is_said_in_the_words_of_people() -> None:
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert moment("90 min", now) == now - timedelta(minutes=90)
    assert moment("2d", now) == now - timedelta(days=2)
    assert moment("2026-01-02T03:00:00Z", now) == datetime(2026, 1, 2, 3, tzinfo=UTC)
    assert moment("2026-01-01", now).tzinfo is not None
    for wrong in ("", "2", "-1h", "9999999d", "2026-13-01", "tomorrow"):
        with pytest.raises(UsageError):
            moment(wrong, now)


# --- the times of nodes ---------------------------------------------------------------------------------------------


async def test_show_says_how_long_each_node_took(api: Api, cli: Cli) -> None:
    job_id = await api.submit()
    await api.scheduler.start(job_id)
    node = NodeTime(node_id="3", class_type="KSampler", title="Paint\x1b[2J it", seconds=12.5, steps=20)
    others = [
        NodeTime(node_id="4", class_type="VAEDecode", title="VAEDecode", seconds=0.25, whole=False),
        NodeTime(node_id="5", class_type="L", title="L", seconds=0.0, cached=True),
    ]
    await api.store.move(
        job_id, expect=Stage.ON_SERVER, stage=Stage.FETCHING, status=Status.RUNNING, times=[node, *others]
    )
    out = (await cli("jobs", "show", job_id)).out
    assert "nodes      12.5 s  3    Paint it (KSampler), 20 steps (1.6 a second)\n" in out
    assert "           250 ms  4    VAEDecode, not all of it was heard\n" in out
    assert "           1 node from the cache\n" in out
    assert "\x1b" not in out
    listed = json.loads((await cli("jobs", "--json")).out)["jobs"][0]
    assert listed["comfytunnel"]["node_times"] is None
