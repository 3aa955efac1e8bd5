"""`run` and `submit` change a workflow before it goes, make several jobs of it, wait or leave, and open what came."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from comfytunnel.jobs.model import Failure, Stage, Status
from tests.api.conftest import Api
from tests.cli.conftest import Cli, on_terminal
from tests.cli.test_run import next_job
from tests.cli.test_run import workflow as workflow


@pytest.fixture
def painted(tmp_path: Path) -> str:
    """A workflow with all that may be set: a seed, a choice, a file, titles."""
    graph: dict[str, Any] = {
        "3": {
            "class_type": "KSampler",
            "inputs": {"seed": 1, "steps": 20, "cfg": 8, "latent_image": ["10", 0]},
            "_meta": {"title": "Sampler v1.5"},
        },
        "10": {"class_type": "LoadImage", "inputs": {"image": "x.png"}},
    }
    (tmp_path / "p.json").write_text(json.dumps(graph))
    (tmp_path / "photo.png").write_bytes(b"photo")
    return "p.json"


async def graphs(api: Api) -> list[dict[str, Any]]:
    """Of every job, in the order of submission."""
    jobs = reversed((await api.store.listing())[0])
    found = [await api.store.workflow(job.id) for job in jobs]
    return [graph for graph in found if graph is not None]


async def submitted(api: Api) -> list[dict[str, Any]]:
    """The inputs of node 3 of every job, in the order of submission."""
    return [graph["3"]["inputs"] for graph in await graphs(api)]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--input", "nonsense"], "NODE.INPUT=FILE"),
        (["--input", "3=p.json"], "NODE.INPUT"),
        (["--input", "7.image=p.json"], "no node '7'"),
        (["--input", "10.imgae=p.json"], "Did you mean 'image'"),
        (["--input", "10=absent.png"], "no file absent.png"),
        (["--set", "3.stpes=1"], "Did you mean 'steps'"),
        (["--set", "3.steps=many"], "a number"),
        (["--set", "3.latent_image=x"], "10 (LoadImage)"),
        (["--seed", "any"], "random, fixed"),
        (["--vary", "3.steps=1,x"], "a number"),
        (["--vary", "3.steps=" + ",".join("1" * 26), "--vary", "3.cfg=" + ",".join("1" * 40)], "1040 jobs"),
        (["--no-wait", "-o", "."], "--wait"),
        (["--no-wait", "--open"], "--wait"),
    ],
)
async def test_what_does_not_fit_is_exit_2_and_leaves_no_job(
    api: Api, cli: Cli, painted: str, given: list[str], words: str
) -> None:
    """Nor an upload: all is looked at before the first file is sent."""
    ran = await cli("run", painted, "--input", "LoadImage=photo.png", *given)
    assert ran.code == 2
    assert words in ran.err
    assert await api.store.since(0) == []
    assert list(api.store.files.iterdir()) == []


async def test_values_files_and_seeds_arrive_with_the_job(api: Api, cli: Cli, painted: str) -> None:
    ran = await cli(
        *("submit", painted, "--set", "Sampler v1.5.steps=30", "--set", "3.denoise:=0.5", "--input", "10=photo.png"),
        *("--vary", "ksampler.cfg=4,7.5", "--repeat", "2", "--seed", "100", "--label", "tries", "--priority", "3"),
    )  # fmt: skip
    assert ran.code == 0, ran.err
    jobs = [await api.store.get(job_id) for job_id in ran.out.split()]
    assert [(job.label, job.priority) for job in jobs if job] == [("tries", 3)] * 4
    assert [len(await api.store.inputs(job.id)) for job in jobs if job] == [1] * 4
    base = {"steps": 30, "denoise": 0.5, "latent_image": ["10", 0]}
    assert await submitted(api) == [
        base | {"cfg": cfg, "seed": seed} for cfg in (4, 7.5) for seed in (100, 101)
    ]
    assert "3.cfg=7.5 seed=101" in ran.err


async def test_repeats_have_seeds_of_their_own(api: Api, cli: Cli, painted: str) -> None:
    """The same once more would leave no file: ComfyUI does not run it again."""
    ran = await cli("submit", painted, "--repeat", "3", "--json")
    assert len(json.loads(ran.out)["jobs"]) == 3
    assert len({each["seed"] for each in await submitted(api)} | {1}) == 4


async def finish_all(api: Api, number: int, folder: Path, *, failing: int | None = None) -> list[str]:
    """Wait for so many jobs and end them, the last one first."""
    await api.store.revision.until(lambda revision: revision >= number)
    ids = [job.id for job in await api.store.since(0)]
    folder.mkdir()
    for at, job_id in reversed(list(enumerate(ids))):
        await api.scheduler.start(job_id)
        (folder / f"{at}.png").write_bytes(b"picture")
        await api.scheduler.output(job_id, folder / f"{at}.png")
        if at == failing:
            await api.scheduler.move(
                job_id, Stage.ENDED, status=Status.FAILED, error=Failure("node_execution_error", "burnt")
            )
        else:
            await api.scheduler.succeed(job_id)
    return ids


async def test_several_jobs_are_all_sent_first_and_told_one_by_one(
    api: Api, cli: Cli, painted: str, tmp_path: Path
) -> None:
    """Each ends with its result, all of them with one for all; one that fails makes the exit code 1."""
    finishing = asyncio.create_task(finish_all(api, 3, tmp_path / "kept", failing=1))
    ran = await cli("run", painted, "--vary", "3.steps=1,2,3", "--json", "-o", "out")
    ids = await finishing
    told = [json.loads(line) for line in ran.out.splitlines()]
    assert [(line["event"], line["job"]) for line in told[:6]] == [
        (event, job_id) for event in ("chosen", "submitted") for job_id in ids
    ]
    assert told[2]["data"] == {"3.steps": 3}
    results = sorted(
        (line for line in told if line["event"] == "result"), key=lambda line: ids.index(line["job"])
    )
    assert [(line["job"], line["data"]["status"]) for line in results] == [
        (ids[0], "succeeded"), (ids[1], "failed"), (ids[2], "succeeded"),
    ]  # fmt: skip
    assert (told[-1]["event"], [job["id"] for job in told[-1]["data"]]) == ("results", ids)
    assert told[-1]["files"] == ["out/0.png", "out/1.png", "out/2.png"]  # in the order of submission
    assert (ran.code, ran.err) == (1, "")


async def test_run_need_not_wait_and_submit_may(api: Api, cli: Cli, workflow: str, tmp_path: Path) -> None:
    ran = await cli("run", workflow, "--no-wait")
    [job] = await api.store.since(0)
    assert (ran.code, ran.out) == (0, f"{job.id}\n")
    await api.scheduler.cancel(job.id)
    seen = api.store.revision.value
    waiting = asyncio.create_task(cli("submit", workflow, "--wait"))
    await api.store.revision.until(lambda revision: revision > seen)
    [second] = await api.store.since(seen)
    await api.scheduler.cancel(second.id)
    assert (await waiting).code == 1


async def test_ctrl_c_can_cancel_all_that_has_not_ended(api: Api, cli: Cli, workflow: str) -> None:
    async with on_terminal(cli, "run", workflow, "--repeat", "2") as (terminal, process):
        await api.store.revision.until(lambda revision: revision >= 2)
        await terminal.until("the link is connecting")
        process.send_signal(signal.SIGINT)
        await terminal.until("Cancel the 2 jobs")
        terminal.type("c\n")
        assert await process.wait() == 1
    assert {job.status for job in await api.store.since(0)} == {Status.CANCELED}


@pytest.mark.skipif(sys.platform == "darwin", reason="the viewer is another one")
async def test_finished_pictures_are_opened_and_nothing_that_a_browser_runs(
    api: Api, cli: Cli, workflow: str, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "opened")
    viewer = tmp_path / "bin" / "xdg-open"
    viewer.parent.mkdir()
    viewer.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/opened\n')
    viewer.chmod(0o755)
    cli.environ |= {"PATH": f"{viewer.parent}:{os.environ['PATH']}", "DISPLAY": ":7"}
    (tmp_path / "page.svg").write_bytes(b"<svg/>")

    async def ending() -> None:
        job_id = await next_job(api)
        await api.scheduler.start(job_id)
        await api.scheduler.output(job_id, tmp_path / "page.svg")
        (tmp_path / "pic.png").write_bytes(b"picture")
        await api.scheduler.output(job_id, tmp_path / "pic.png")
        await api.scheduler.succeed(job_id)

    finishing = asyncio.create_task(ending())
    ran = await cli("run", workflow, "--open", "-o", "out")
    await finishing
    assert ran.code == 0, ran.err
    assert await asyncio.to_thread((tmp_path / "opened").read_text) == f"{tmp_path}/out/pic.png\n"


async def test_a_workflow_as_the_page_saves_it_is_converted_and_then_changed(
    api: Api, cli: Cli, tmp_path: Path
) -> None:
    """Where that cannot be, the reason is told and no job is made."""
    drawn = {"nodes": [{"id": 3, "type": "KSampler", "widgets_values": [5, "fixed", 20]}], "links": []}
    (tmp_path / "ui.json").write_text(json.dumps(drawn))
    ran = await cli("submit", "ui.json", "--set", "3.steps=30")
    assert (ran.code, await api.store.since(0)) == (2, [])
    assert "does not know the class of node 3 (KSampler)" in ran.err
    api.scheduler.entries["KSampler"] = json.dumps(
        {"input": {"required": {"seed": ["INT", {}], "steps": ["INT", {}]}}, "python_module": "nodes"}
    ).encode()
    ran = await cli("submit", "-", "--set", "3.steps=30", stdin=json.dumps(drawn))
    assert ran.code == 0, ran.err
    assert await submitted(api) == [{"seed": 5, "steps": 30}]


async def test_a_workflow_may_be_meant_by_the_name_under_which_it_is_kept(
    api: Api, cli: Cli, painted: str
) -> None:
    """A file of that name counts more; what is neither is said so."""
    ran = await cli("workflow", "add", painted, "--name", "portrait")
    assert ran.code == 0, ran.err
    ran = await cli("submit", "portrait", "--seed", "9", "--param", "steps=33")
    assert ran.code == 0, ran.err
    assert [(each["seed"], each["steps"]) for each in await submitted(api)] == [(9, 33)]
    assert "Did you mean 'steps'" in (await cli("submit", "portrait", "--param", "stepps=3")).err
    assert "--set" in (await cli("submit", painted, "--param", "steps=3")).err
    for given, words in (
        (["--param", "image=photo.png"], "--input 10.image=photo.png"),
        (["--param", "seed=7", "--seed", "9"], "set or varied already"),
    ):
        ran = await cli("submit", "portrait", *given)
        assert (ran.code, words in ran.err) == (2, True), ran.err
    ran = await cli("submit", "portrat")
    assert ran.code == 2
    assert "neither a file nor a workflow called 'portrat'" in ran.err


async def made_from(api: Api) -> list[dict[str, Any]]:
    """What each job tells that it was made from, in the order of submission."""
    _, told = await api.ask("GET", "/api/v2/jobs")
    return [job["comfytunnel"]["generated"] for job in reversed(told["jobs"])]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--param", "steps=33", "--param", "seed=4"], [({"seed": 4, "steps": 33}, False)]),
        (["--param", "steps=20", "--seed", "5"], [({"seed": 5, "steps": 20}, False)]),
        (["--seed", "5", "--repeat", "2"], [({"seed": 5}, False), ({"seed": 6}, False)]),
        (
            ["--seed", "5", "--vary", "3.cfg=8,9", "--set", "3.steps=21"],
            [({"seed": 5, "steps": 21}, False), ({"seed": 5, "steps": 21, "cfg": 9}, False)],
        ),
        (["--seed", "5", "--set", "10.new:=1"], [({"seed": 5}, True)]),
        (["--set", "3.seed=18446744073709551615"], [({}, True)]),
        (["--seed", "5", "--set", "3.steps=50000"], [({"seed": 5, "steps": 50000}, True)]),
        (["--seed", "5", "--param", "image=y.png"], [({"seed": 5, "image": "y.png"}, True)]),
    ],
    ids=lambda given: " ".join(given) if isinstance(given[0], str) else "",
)
async def test_a_job_tells_the_workflow_with_a_name_that_it_was_made_from(
    api: Api, cli: Cli, painted: str, given: list[str], told: list[tuple[dict[str, Any], bool]]
) -> None:
    """With the values that its graph has, and whether they are all that there is to it."""
    ran = await cli("workflow", "add", painted, "--name", "portrait")
    (api.context.workflows.path / "portrait.toml").write_text("[parameters.steps]\nmax = 100\n")
    ran = await cli("submit", "portrait", *given)
    assert ran.code == 0, ran.err
    assert await made_from(api) == [
        {"workflow": "portrait", "params": params, "changed": changed} for params, changed in told
    ]


async def test_a_file_that_was_uploaded_for_a_parameter_is_told_by_its_id(
    api: Api, cli: Cli, painted: str
) -> None:
    """A job made from a file, and not from a name, tells nothing."""
    ran = await cli("workflow", "add", painted, "--name", "portrait")
    ran = await cli("submit", "portrait", "--seed", "5", "--input", "10.image=photo.png")
    assert ran.code == 0, ran.err
    ran = await cli("submit", painted, "--set", "3.steps=30")
    assert ran.code == 0, ran.err
    [made, other] = await made_from(api)
    [image] = [
        graph["10"]["inputs"]["image"] for graph in await graphs(api) if graph["3"]["inputs"]["steps"] == 20
    ]
    assert made == {
        "workflow": "portrait",
        "params": {"image": image["info"]["id"], "seed": 5},
        "changed": False,
    }
    assert other is None


async def test_repeats_without_a_seed_are_told_to_be_alike(api: Api, cli: Cli, workflow: str) -> None:
    ran = await cli("submit", workflow, "--repeat", "2")
    assert ran.code == 0
    assert "2 runs are alike" in ran.err
    assert "alike" not in (await cli("submit", workflow, "--repeat", "2", "--seed", "fixed")).err
