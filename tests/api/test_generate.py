"""POST /api/generate and the workflows with a name, as a caller sees them."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from comfytunnel.api import generate
from comfytunnel.jobs.model import Stage, Status
from comfytunnel.workflow.graph import MAX_BYTES
from comfytunnel.workflow.nodeinfo import InputInfo, NodeInfo
from tests.api.conftest import SAMPLED, Api

PNG = b"\x89PNG\r\n\x1a\n not whole"
URL = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"


@pytest.fixture
def folder(api: Api) -> Path:
    """The folder of the workflows, with one in it."""
    api.context.workflows.path.mkdir()
    put(api, "portrait")
    return api.context.workflows.path


def put(api: Api, name: str, toml: str | None = None, graph: Any = SAMPLED) -> None:
    path = api.context.workflows.path / f"{name}.json"
    path.write_text(json.dumps(graph))
    if toml is not None:
        path.with_suffix(".toml").write_text(toml)


async def ask(api: Api, workflow: Any = "portrait", /, **more: Any) -> tuple[int, Any]:
    return await api.ask("POST", "/api/generate", json={"workflow": workflow, **more})


async def inputs(api: Api, job: Any, node_id: str) -> Any:
    _, told = await api.ask("GET", f"/api/v2/jobs/{job['id']}/workflow")
    return told["workflow"][node_id]["inputs"]


@pytest.mark.usefixtures("folder")
async def test_values_reach_the_workflow_and_a_seed_is_drawn_for_each_call(api: Api) -> None:
    seeds = set()
    for _ in range(3):
        status, job = await ask(api, params={"prompt": "a dog", "seed": None}, comfytunnel={"label": "x"})
        assert status == 202
        assert job["comfytunnel"]["label"] == "x"
        assert (await inputs(api, job, "2"))["text"] == "a dog"
        generated = job["comfytunnel"]["generated"]
        assert generated["workflow"] == "portrait"
        assert generated["params"] == {"prompt": "a dog", "seed": generated["params"]["seed"]}
        assert (await inputs(api, job, "4"))["seed"] == generated["params"]["seed"]
        seeds.add(generated["params"]["seed"])
    assert len(seeds) == 3
    assert all(0 <= seed < 2**32 for seed in seeds)
    _, job = await ask(api, SAMPLED, params={"seed": 42})
    assert job["comfytunnel"]["generated"] == {"workflow": None, "params": {"seed": 42}, "changed": False}


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("asked", "path", "hint"),
    [
        ({"params": {"promt": "x"}}, "$.params.promt", "'prompt'"),
        ({"params": {"steps": "20"}}, "$.params.steps", ""),
        ({"params": {"steps": 0}}, "$.params.steps", ""),
        ({"params": {"seed": 2**53}}, "$.params.seed", ""),
        ({"params": {"prompt": 1}}, "$.params.prompt", ""),
        ({"images": {"prompt": URL}}, "$.images.prompt", "params"),
        ({"images": {"image": "/etc/passwd"}}, "$.images.image", "Upload"),
        ({"images": {"image": "data:text/html;base64,AAAA"}}, "$.images.image", ""),
        ({"images": {"image": "data:image/png;base64,A*"}}, "$.images.image", ""),
        ({"images": {"image": URL}, "params": {"image": URL}}, "$.params.image", "once"),
        ({"wait": 301}, "$.wait", ""),
        ({"workflow": 7}, "$.workflow", ""),
    ],
    ids=str,
)
async def test_what_does_not_fit_is_said_with_its_place_and_makes_no_job(
    api: Api, asked: dict[str, Any], path: str, hint: str
) -> None:
    status, told = await api.ask("POST", "/api/generate", json={"workflow": "portrait"} | asked)
    assert (status, told["error"]["code"]) == (422, "invalid_request")
    assert told["error"]["details"]["path"] == path
    assert hint in told["error"]["details"]["hint"]
    assert (await api.ask("GET", "/api/v2/jobs"))[1]["jobs"] == []


@pytest.mark.usefixtures("folder")
async def test_a_picture_comes_as_a_data_url_or_as_an_asset_and_the_job_names_the_asset(api: Api) -> None:
    _, job = await ask(api, images={"image": URL})
    asset = job["comfytunnel"]["generated"]["params"]["image"]
    async with api.http.get(f"http://localhost/api/v2/assets/{asset}/content") as answer:
        assert await answer.read() == PNG
        assert answer.content_type == "image/png"
    for more in ({"images": {"image": asset}}, {"params": {"image": asset}}):
        status, again = await ask(api, **more)
        assert status == 202
        assert again["comfytunnel"]["generated"]["params"]["image"] == asset
        [bound] = await api.store.inputs(again["id"])
        assert bound.at == ("1", "image")
        assert bound.suffix == ".png"
    status, told = await ask(api, images={"image": "0" * 32})
    assert (status, told["error"]["code"]) == (422, "missing_asset")


@pytest.mark.usefixtures("folder")
async def test_waiting_answers_200_with_the_job_however_it_ends(api: Api) -> None:
    asking = asyncio.create_task(ask(api, wait=20))
    await api.store.revision.until(lambda revision: revision > 0)
    [job] = (await api.ask("GET", "/api/v2/jobs"))[1]["jobs"]
    assert not asking.done()
    await api.scheduler.move(job["id"], Stage.ENDED, status=Status.FAILED)
    status, told = await asking
    assert (status, told["status"], told["id"]) == (200, "failed", job["id"])
    assert not api.context.waiting


@pytest.mark.usefixtures("folder")
async def test_when_the_time_is_over_the_job_goes_on_and_its_url_is_told(api: Api) -> None:
    body = {"workflow": "portrait", "wait": 0.05}
    async with api.http.post("http://localhost/api/generate", json=body) as answer:
        job = await answer.json()
        assert answer.status == 202
        assert answer.headers["Location"] == job["urls"]["self"]
    assert job["comfytunnel"]["waits_for"]["code"] == "link_down"
    assert (await api.ask("GET", f"/api/v2/jobs/{job['id']}"))[1]["status"] == "queued"


@pytest.mark.usefixtures("folder")
async def test_who_leaves_while_waiting_cancels_nothing_and_is_not_waited_for(api: Api) -> None:
    asking = asyncio.create_task(ask(api, wait=300))
    await api.store.revision.until(lambda revision: revision > 0)
    while not api.context.waiting:  # noqa: ASYNC110 - the handler is about to say so
        await asyncio.sleep(0)
    asking.cancel()
    while api.context.waiting:  # noqa: ASYNC110 - it looks twice a second
        await asyncio.sleep(0.05)
    [job] = (await api.ask("GET", "/api/v2/jobs"))[1]["jobs"]
    assert job["status"] == "queued"


@pytest.mark.usefixtures("folder")
async def test_a_daemon_that_stops_and_too_many_callers_keep_nobody_waiting(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as none:
        none.setattr(generate, "MAX_WAITING", 0)
        assert (await ask(api, wait=300))[0] == 202
    asking = asyncio.create_task(ask(api, wait=300))
    while not api.context.waiting:  # noqa: ASYNC110 - the handler is about to say so
        await asyncio.sleep(0)
    api.context.closing.set(True)
    assert (await asking)[0] == 202


@pytest.mark.usefixtures("folder")
async def test_the_same_idempotency_key_makes_one_job(api: Api) -> None:
    asked = {"json": {"workflow": "portrait"}, "headers": {"Idempotency-Key": "k"}}
    _, job = await api.ask("POST", "/api/generate", **asked)
    status, told = await api.ask("POST", "/api/generate", **asked)
    assert (status, told["error"]["code"]) == (422, "idempotency_key_reuse")
    assert told["error"]["details"]["job_id"] == job["id"]


@pytest.mark.usefixtures("folder")
async def test_a_retry_tells_what_the_first_was_generated_from(api: Api) -> None:
    """The real scheduler is asked in tests/app/test_generate.py."""
    _, job = await ask(api, params={"seed": 5})
    stored = await api.store.get(job["id"])
    assert stored is not None
    assert stored.generated is not None
    assert stored.generated.params == {"seed": 5}


# --- the folder -----------------------------------------------------------------------------------------------------


async def test_the_list_shows_every_file_and_what_is_wrong_with_it(api: Api, folder: Path) -> None:
    put(
        api,
        "adjusted",
        'title = "T\\u001b[2Jitle"\n[parameters.steps]\nmax = 30\ndefault = 25\nhidden = true',
    )
    put(api, "misspelt", "[parameters.prompt]\nlabl = 'x'")
    put(api, "page", graph={"nodes": [], "links": []})
    put(api, "convert")
    (folder / "broken.json").write_text("{")
    (folder / "link.json").symlink_to(folder / "portrait.json")
    (folder / "folder.json").mkdir()
    (folder / ".hidden.json").write_text("{}")
    (folder / "notes.txt").write_text("x")
    api.scheduler.nodes["KSampler"] = NodeInfo({"steps": InputInfo(True, "INT", low=2, high=90, step=1)})
    status, told = await api.ask("GET", "/v1/workflows")
    assert status == 200
    by_name = {each["name"]: each for each in told["workflows"]}
    problems = {name: each["problem"] and each["problem"]["code"] for name, each in by_name.items()}
    assert problems == {
        "adjusted": None,
        "broken": "invalid_workflow",
        "convert": "invalid_request",  # GET /v1/workflows/convert is the way to another route
        "folder": "invalid_workflow",
        "link": "invalid_workflow",
        "misspelt": "config_error",
        "page": "workflow_format_ui",
        "portrait": None,
    }
    assert by_name["adjusted"]["title"] == "Title"
    assert "Did you mean label?" in by_name["misspelt"]["problem"]["hint"]

    def steps(name: str) -> Any:
        return next(each for each in by_name[name]["parameters"] if each["name"] == "steps")

    assert (steps("portrait")["min"], steps("portrait")["max"]) == (2, 90), "as ComfyUI told"
    assert (steps("adjusted")["min"], steps("adjusted")["max"], steps("adjusted")["hidden"]) == (2, 30, True)
    _, shown = await api.ask("GET", "/v1/workflows/adjusted")
    assert shown["workflow"]["4"]["inputs"]["steps"] == 25
    _, job = await ask(api, "adjusted")
    assert (await inputs(api, job, "4"))["steps"] == 25
    status, told = await ask(api, "misspelt")
    assert (status, told["error"]["code"]) == (422, "config_error")


DRAWN = {"nodes": [{"id": 4, "type": "KSampler", "widgets_values": [5, "fixed", 20]}], "links": []}
ENTRY = {"input": {"required": {"seed": ["INT", {}], "steps": ["INT", {}]}}, "python_module": "nodes"}


async def test_a_graph_as_the_page_of_comfyui_saves_it_is_converted(api: Api) -> None:
    """Here alone: POST /api/v2/jobs refuses it, as the contract says."""
    api.scheduler.entries["KSampler"] = json.dumps(ENTRY).encode()
    status, job = await ask(api, DRAWN, params={"steps": 30})
    assert status == 202, job
    seed = job["comfytunnel"]["generated"]["params"]["seed"]
    assert await inputs(api, job, "4") == {"seed": seed, "steps": 30}
    assert job["comfytunnel"]["generated"] == {
        "workflow": None,
        "params": {"seed": seed, "steps": 30},
        "changed": False,
    }
    status, told = await api.ask("POST", "/api/v2/jobs", json={"workflow": DRAWN})
    assert (status, told["error"]["code"]) == (422, "workflow_format_ui")


@pytest.mark.parametrize("graph", [DRAWN, {"nodes": [], "links": []}, {"nodes": [7], "links": {}}])
async def test_one_that_cannot_be_converted_is_refused_with_the_way_to_export(api: Api, graph: Any) -> None:
    """Also while nothing is known of the nodes."""
    status, told = await ask(api, graph)
    assert (status, told["error"]["code"]) == (422, "workflow_format_ui")
    assert "Export (API)" in told["error"]["details"]["hint"]
    assert await api.store.since(0) == []


async def test_a_change_is_seen_at_the_next_look(api: Api, folder: Path) -> None:
    assert len((await api.ask("GET", "/v1/workflows"))[1]["workflows"]) == 1
    put(api, "portrait", 'title = "First"')
    assert (await api.ask("GET", "/v1/workflows/portrait"))[1]["title"] == "First"
    put(api, "portrait", 'title = "Other"')
    assert (await api.ask("GET", "/v1/workflows/portrait"))[1]["title"] == "Other"
    (folder / "portrait.json").unlink()
    assert (await api.ask("GET", "/v1/workflows"))[1] == {"workflows": []}


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("name", ["..%2Fconfig", "%2Fetc%2Fpasswd", "portrat", ".hidden", "%1b%5b2J"])
async def test_a_name_is_looked_up_and_never_a_path(api: Api, name: str) -> None:
    status, told = await api.ask("GET", f"/v1/workflows/{name}")
    assert (status, told["error"]["code"]) == (404, "workflow_not_found")
    assert ("'portrait'" in told["error"]["details"]["hint"]) is (name == "portrat")
    assert "\x1b" not in told["error"]["message"]


async def test_without_a_folder_there_is_none(api: Api) -> None:
    assert (await api.ask("GET", "/v1/workflows"))[1] == {"workflows": []}
    assert (await ask(api))[0] == 404


# --- without a name -------------------------------------------------------------------------------------------------


async def test_a_workflow_without_a_name_tells_its_parameters_and_takes_values_for_them(api: Api) -> None:
    """The same ones as under a name; nothing is kept."""
    api.scheduler.nodes["KSampler"] = NodeInfo({"steps": InputInfo(True, "INT", low=2, high=90, step=1)})
    status, told = await api.ask("POST", "/v1/workflows/parameters", json={"workflow": SAMPLED})
    assert (status, told["name"], told["problem"], told["workflow"]) == (200, "", None, SAMPLED)
    found = {each["name"]: each for each in told["parameters"]}
    assert list(found) == ["prompt", "negative_prompt", "image", "seed", "steps"]
    assert found["steps"]["max"] == 90
    status, job = await ask(api, told["workflow"], params={"prompt": "a dog", "steps": 30})
    assert status == 202
    assert (await inputs(api, job, "2"))["text"] == "a dog"
    assert (await api.ask("GET", "/v1/workflows"))[1] == {"workflows": []}
    assert len((await api.ask("GET", "/api/v2/jobs"))[1]["jobs"]) == 1


async def test_one_in_the_format_of_comfyuis_page_is_converted_on_the_way(api: Api) -> None:
    """What is not sure is refused with the way to export."""
    node = {"id": 3, "type": "LoadImage", "mode": 0, "inputs": [], "outputs": [], "widgets_values": ["x.png"]}
    saved = {"nodes": [node], "links": [], "version": 0.4}
    status, told = await api.ask("POST", "/v1/workflows/parameters", json={"workflow": saved})
    assert (status, told["error"]["code"]) == (422, "workflow_format_ui")
    assert "Export" in told["error"]["details"]["hint"]
    entry = {
        "input": {"required": {"image": [["x.png"], {}]}},
        "output": ["IMAGE"],
        "python_module": "nodes",
    }
    api.scheduler.entries["LoadImage"] = json.dumps(entry).encode()
    status, told = await api.ask("POST", "/v1/workflows/parameters", json={"workflow": saved})
    assert status == 200
    assert told["workflow"]["3"]["inputs"] == {"image": "x.png"}
    assert [each["name"] for each in told["parameters"]] == ["image"]


@pytest.mark.parametrize("told", [True, False], ids=["with its length", "in chunks"])
async def test_what_no_workflow_can_be_is_refused_before_it_is_looked_through(api: Api, told: bool) -> None:
    graphs: list[dict[str, Any]] = [{}, {"1": {}}, {"1": {"class_type": "A", "inputs": []}}]
    for graph in graphs:
        status, refused = await api.ask("POST", "/v1/workflows/parameters", json={"workflow": graph})
        assert (status, refused["error"]["code"]) == (422, "invalid_workflow")
    text = json.dumps({"workflow": {"1": {"class_type": "A", "inputs": {"x": "y" * MAX_BYTES}}}}).encode()

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(text), 1024**2):
            yield text[at : at + 1024**2]

    status, refused = await api.ask(
        "POST", "/v1/workflows/parameters", data=io.BytesIO(text) if told else pieces()
    )
    assert (status, refused["error"]["code"]) == (413, "too_large")
    assert "28 MiB" in refused["error"]["message"]
