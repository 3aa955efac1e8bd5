"""/api/v2: jobs and assets, every answer held against the contract."""

from __future__ import annotations

import gzip
import itertools
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from comfytunnel.jobs.model import Failure, LiveProgress, Stage, Status
from tests.api.conftest import WORKFLOW, Api
from tests.api.contract import check


async def test_the_judge_of_the_contract_can_say_no() -> None:
    """A contract test that accepts anything would be worth nothing."""
    with pytest.raises(jsonschema.ValidationError):
        check("GET", "/api/v2/jobs/{id}", 200, {"id": "x"})
    with pytest.raises(AssertionError):
        check("GET", "/api/v2/jobs/{id}", 201, {})


async def test_a_submitted_job_is_queued_and_says_what_it_waits_for(api: Api) -> None:
    extra = {"tunnel": "default", "label": "night", "priority": 3}
    status, job = await api.ask("POST", "/api/v2/jobs", json={"workflow": WORKFLOW, "comfytunnel": extra})
    check("POST", "/api/v2/jobs", status, job)
    assert (status, job["status"], job["queue_position"]) == (201, "queued", 0)
    assert job["comfytunnel"]["waits_for"]["code"] == "link_down"
    assert (job["comfytunnel"]["label"], job["comfytunnel"]["priority"]) == ("night", 3)
    assert await api.store.get(job["id"]) is not None


async def test_urls_are_absolute_and_named_after_the_callers_host(api: Api) -> None:
    job_id = await api.submit()
    for host, base in (
        ("localhost", "http://localhost"),
        ("me:81", "http://me:81"),
        ('"><b>', "http://localhost"),
    ):
        _, job = await api.ask("GET", f"/api/v2/jobs/{job_id}", headers={"Host": host})
        assert job["urls"]["events"] == f"{base}/api/v2/jobs/{job_id}/events"


async def test_a_running_job_shows_its_progress(api: Api) -> None:
    job_id = await api.submit()
    await api.scheduler.start(job_id)
    api.scheduler.now[job_id] = LiveProgress(1.7, 1, 2, "1", "EmptyImage", None, 3, 10, "3/10")
    status, job = await api.ask("GET", f"/api/v2/jobs/{job_id}")
    check("GET", "/api/v2/jobs/{id}", status, job)
    assert job["progress"] == {
        "value": 1.0,
        "nodes_done": 1,
        "nodes_total": 2,
        "current_node": "1",
        "current_node_class": "EmptyImage",
        "step": 3,
        "steps": 10,
        "message": "3/10",
    }
    assert job["metrics"]["execution_ms"] is None
    assert job["started_at"] is not None


async def test_a_finished_job_carries_outputs_that_can_be_fetched(api: Api, tmp_path: Path) -> None:
    job_id = await api.submit()
    (tmp_path / "päth.png").write_bytes(b"0123456789")
    await api.scheduler.start(job_id)
    await api.scheduler.output(job_id, tmp_path / "päth.png")
    await api.scheduler.succeed(job_id)
    status, job = await api.ask("GET", f"/api/v2/jobs/{job_id}")
    check("GET", "/api/v2/jobs/{id}", status, job)
    assert job["progress"]["value"] == 1.0
    assert job["expires_at"] == "9999-12-31T23:59:59Z"
    output = job["outputs"][0]
    assert output["comfytunnel"]["path"] == str(tmp_path / "päth.png")
    async with api.http.get(output["url"]) as response:
        assert await response.read() == b"0123456789"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Content-Type"] == "image/png"
        assert "sandbox" in response.headers["Content-Security-Policy"]
    async with api.http.get(output["url"], headers={"Range": "bytes=2-4"}) as response:
        assert (response.status, await response.read()) == (206, b"234")
    async with api.http.get(output["url"], headers={"Range": "bytes=20-"}) as response:
        assert response.status == 416
    status, asset = await api.ask("GET", f"/api/v2/assets/{output['id']}")
    check("GET", "/api/v2/assets/{id}", status, asset)
    assert (asset["size_bytes"], asset["job_id"]) == (10, job_id)


@pytest.mark.parametrize("kind", ["text/html", "image/svg+xml", "text/javascript", "application/xml"])
async def test_what_a_browser_could_run_comes_as_a_download(api: Api, tmp_path: Path, kind: str) -> None:
    job_id = await api.submit()
    (tmp_path / 'evil"\r\nX: y.html').write_text("<script>alert(1)</script>")
    await api.scheduler.start(job_id)
    output = await api.scheduler.output(job_id, tmp_path / 'evil"\r\nX: y.html', kind)
    async with api.http.get(f"http://localhost/api/v2/assets/{output.asset_id}/content") as response:
        assert response.headers["Content-Type"] == "application/octet-stream"
        assert response.headers["Content-Disposition"].startswith("attachment")
        assert "X" not in response.headers


async def test_a_neighbour_with_gz_at_its_end_is_never_served_in_a_files_place(
    api: Api, tmp_path: Path
) -> None:
    job_id = await api.submit()
    (tmp_path / "a.png").write_bytes(b"the picture")
    (tmp_path / "a.png.gz").write_bytes(gzip.compress(b"another output of the node"))
    await api.scheduler.start(job_id)
    output = await api.scheduler.output(job_id, tmp_path / "a.png")
    where = f"http://localhost/api/v2/assets/{output.asset_id}/content"
    async with api.http.get(where, headers={"Accept-Encoding": "gzip"}) as response:
        assert (response.status, await response.read()) == (200, b"the picture")
    async with api.http.get(where, headers={"Accept-Encoding": "gzip", "Range": "bytes=4-6"}) as response:
        assert (response.status, await response.read()) == (206, b"pic")


async def test_a_file_that_is_gone_or_became_a_link_is_404(api: Api, tmp_path: Path) -> None:
    job_id = await api.submit()
    path = tmp_path / "a.png"
    path.write_bytes(b"x")
    await api.scheduler.start(job_id)
    output = await api.scheduler.output(job_id, path)
    path.unlink()
    for end in ("", "/content"):
        status, body = await api.ask("GET", f"/api/v2/assets/{output.asset_id}{end}")
        check("GET", "/api/v2/assets/{id}", status, body)
        assert status == 404
        assert "gone" in body["error"]["message"]
    path.symlink_to("/etc/hostname")
    assert (await api.ask("GET", f"/api/v2/assets/{output.asset_id}/content"))[0] == 404


async def test_a_failed_job_says_which_node_and_why(api: Api) -> None:
    job_id = await api.submit()
    failure = Failure("node_execution_error", "out of memory", "2", "SaveImage", "Traceback ...")
    await api.scheduler.move(job_id, Stage.ENDED, status=Status.FAILED, error=failure)
    status, job = await api.ask("GET", f"/api/v2/jobs/{job_id}")
    check("GET", "/api/v2/jobs/{id}", status, job)
    assert job["error"] == {
        "code": "node_execution_error",
        "message": "out of memory",
        "node_id": "2",
        "class_type": "SaveImage",
        "traceback": "Traceback ...",
    }


async def test_the_workflow_comes_back_as_it_was_sent(api: Api) -> None:
    huge = 2**63 + 12345
    workflow = {**WORKFLOW, "3": {"class_type": "Seed", "inputs": {"seed": huge}}}
    _, job = await api.ask("POST", "/api/v2/jobs", json={"workflow": workflow})
    status, body = await api.ask("GET", f"/api/v2/jobs/{job['id']}/workflow")
    check("GET", "/api/v2/jobs/{id}/workflow", status, body)
    assert body == {"workflow": workflow, "format": "api"}


async def test_cancel_is_idempotent(api: Api) -> None:
    job_id = await api.submit()
    for _ in range(2):
        status, job = await api.ask("POST", f"/api/v2/jobs/{job_id}/cancel")
        check("POST", "/api/v2/jobs/{id}/cancel", status, job)
        assert job["status"] == "canceled"


@pytest.mark.parametrize(
    ("method", "end"), [("GET", ""), ("GET", "/workflow"), ("GET", "/events"), ("POST", "/cancel")]
)
async def test_an_unknown_job_is_404(api: Api, method: str, end: str) -> None:
    status, body = await api.ask(method, f"/api/v2/jobs/nope{end}")
    check(method, f"/api/v2/jobs/{{id}}{end}", status, body)
    assert (status, body["error"]["code"]) == (404, "not_found")


async def test_the_list_is_newest_first_and_pages(api: Api) -> None:
    ids = [await api.submit() for _ in range(5)]
    seen: list[str] = []
    cursor = ""
    for _page in itertools.count():
        _, body = await api.ask("GET", f"/api/v2/jobs?limit=2{cursor}")
        seen += [job["id"] for job in body["jobs"]]
        if body["next_cursor"] is None:
            break
        cursor = f"&cursor={body['next_cursor']}"
    assert seen == ids[::-1]
    await api.scheduler.cancel(ids[0])
    assert [job["id"] for job in (await api.ask("GET", "/api/v2/jobs?status=canceled"))[1]["jobs"]] == ids[:1]


@pytest.mark.parametrize(
    "query",
    [
        "status=done",
        "limit=0",
        "limit=101",
        "limit=x",
        "cursor=x",
        "page=2",
        "limit=²",
        "limit=0001000000",
        "status=null",
        "cursor=",
        "limit=1&limit=2",
    ],
)
async def test_a_list_that_cannot_be_given_is_422(api: Api, query: str) -> None:
    status, body = await api.ask("GET", f"/api/v2/jobs?{query}")
    assert (status, body["error"]["code"]) == (422, "invalid_request")


BAD = [
    ({}, "invalid_workflow"),
    ({"workflow": [1]}, "invalid_workflow"),
    ({"workflow": {}}, "invalid_workflow"),
    ({"workflow": {"nodes": [], "links": []}}, "workflow_format_ui"),
    ({"workflow": WORKFLOW, "webhook_url": "http://x"}, "invalid_request"),
    ({"workflow": WORKFLOW, "inputs": {}}, "invalid_request"),
    ({"workflow": WORKFLOW, "extra_data": {"api_key_comfy_org": "secret-key"}}, "invalid_request"),
    ({"workflow": WORKFLOW, "extra_data": {"other": 1}}, "invalid_request"),
    ({"workflow": WORKFLOW, "comfytunnel": {"tunel": "x"}}, "invalid_request"),
    ({"workflow": WORKFLOW, "comfytunnel": {"priority": 1001}}, "invalid_request"),
    ({"workflow": WORKFLOW, "comfytunnel": {"label": 7}}, "invalid_request"),
    ([], "invalid_request"),
]


@pytest.mark.parametrize(("request_body", "code"), BAD)
async def test_a_request_that_can_never_work_is_422_and_leaves_no_job(
    api: Api, request_body: Any, code: str
) -> None:
    status, body = await api.ask("POST", "/api/v2/jobs", json=request_body)
    check("POST", "/api/v2/jobs", status, body)
    assert (status, body["error"]["code"]) == (422, code)
    assert body["error"]["details"]["hint"]
    assert "secret-key" not in json.dumps(body)
    assert (await api.ask("GET", "/api/v2/jobs"))[1]["jobs"] == []


async def test_the_path_of_a_mistake_is_named(api: Api) -> None:
    request = {"workflow": WORKFLOW, "comfytunnel": {"priority": "high"}}
    _, body = await api.ask("POST", "/api/v2/jobs", json=request)
    assert body["error"]["details"]["path"] == "$.comfytunnel.priority"


@pytest.mark.parametrize(
    "data",
    [
        b"{",
        b"",
        b"{'workflow': 1}",
        b"\xff\xfe",
        b'{"workflow": NaN}',
        b'{"workflow": ' + b'{"a": ' * 100_000,
    ],
    ids=["cut", "empty", "quotes", "bytes", "nan", "deep"],
)
async def test_a_body_that_is_not_json_is_422(api: Api, data: bytes) -> None:
    status, body = await api.ask("POST", "/api/v2/jobs", data=data)
    assert (status, body["error"]["code"]) == (422, "invalid_json")


async def test_under_v1_it_is_400(api: Api) -> None:
    status, body = await api.ask("POST", "/v1/jobs/x/priority", data=b"{")
    assert (status, body["error"]["code"]) == (400, "invalid_json")


async def test_times_are_utc(api: Api) -> None:
    job_id = await api.submit()
    _, job = await api.ask("GET", f"/api/v2/jobs/{job_id}")
    assert job["created_at"].endswith("Z")
    assert datetime.fromisoformat(job["created_at"]).tzinfo is not None


async def test_a_submitter_may_tell_what_its_graph_was_made_from(api: Api) -> None:
    """As POST /api/generate does by itself."""
    told = {"workflow": "portrait", "params": {"steps": 20, "cfg": 7.5, "hires": True, "prompt": "ä"}}
    asked = {"workflow": WORKFLOW, "comfytunnel": {"generated": told}}
    status, job = await api.ask("POST", "/api/v2/jobs", json=asked)
    check("POST", "/api/v2/jobs", status, job)
    assert job["comfytunnel"]["generated"] == told | {"changed": False}


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"workflow": None},
        {"workflow": "../up"},
        {"workflow": "x" * 65},
        {"workflow": "p", "more": 1},
        {"workflow": "p", "params": {"Steps 1": 1}},
        {"workflow": "p", "params": {"steps": [1]}},
        {"workflow": "p", "params": {"steps": None}},
        {"workflow": "p", "params": {"seed": 2**53}},
        {"workflow": "p", "params": {"prompt": "x" * 100_001}},
        {"workflow": "p", "params": {f"p{n}": n for n in range(129)}},
    ],
    ids=lambda told: json.dumps(told)[:40],
)
async def test_what_a_graph_cannot_have_been_made_from_is_refused(api: Api, told: Any) -> None:
    """And it is no business of a request that has it made."""
    asked = {"workflow": WORKFLOW, "comfytunnel": {"generated": told}}
    status, answer = await api.ask("POST", "/api/v2/jobs", json=asked)
    assert (status, answer["error"]["code"]) == (422, "invalid_request"), answer
    asked = {"workflow": WORKFLOW, "comfytunnel": {"generated": {"workflow": "p"}}}
    status, answer = await api.ask("POST", "/api/generate", json=asked)
    assert (status, answer["error"]["code"]) == (422, "invalid_request"), answer
