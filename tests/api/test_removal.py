"""`DELETE /v1/jobs/{id}` and the filters of the list: what is forgotten, what stays, what is refused."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from comfytunnel.jobs.manifest import name as manifest
from comfytunnel.jobs.model import Stage
from tests.api.conftest import Api


async def a_done_job(api: Api, folder: Path, *names: str) -> str:
    job_id = await api.submit()
    await api.scheduler.start(job_id)
    for number, name in enumerate(names):
        data = name.encode()
        (folder / name).write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        await api.scheduler.output(
            job_id, folder / name, sha256=digest, ord=number, asset_id=f"{job_id[:-1]}{number}"
        )
    (folder / manifest(job_id)).write_text("{}")
    await api.scheduler.succeed(job_id)
    return job_id


async def test_a_job_is_forgotten_and_its_files_stay(api: Api, tmp_path: Path) -> None:
    job_id = await a_done_job(api, tmp_path, "a.png")
    assert await api.ask("DELETE", f"/v1/jobs/{job_id}") == (
        200,
        {"id": job_id, "deleted": [], "kept": [str(tmp_path / "a.png")]},
    )
    assert (tmp_path / "a.png").exists()
    assert (tmp_path / manifest(job_id)).exists()
    assert (await api.ask("GET", f"/api/v2/jobs/{job_id}"))[0] == 404
    assert (await api.ask("DELETE", f"/v1/jobs/{job_id}"))[0] == 404


async def test_files_go_with_it_only_if_asked_and_unchanged(api: Api, tmp_path: Path) -> None:
    job_id = await a_done_job(api, tmp_path, "a.png", "b.png")
    (tmp_path / "b.png").write_bytes(b"MINE!")
    _, said = await api.ask("DELETE", f"/v1/jobs/{job_id}?files=true")
    assert said["deleted"] == [str(tmp_path / "a.png")]
    assert said["kept"] == [str(tmp_path / "b.png")]
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["b.png"]
    assert (tmp_path / manifest(job_id)).exists(), "it tells of a file that is there"
    whole = await a_done_job(api, tmp_path, "c.png")
    await api.ask("DELETE", f"/v1/jobs/{whole}?files=true")
    assert not (tmp_path / manifest(whole)).exists()


async def test_a_file_of_another_job_stays(api: Api, tmp_path: Path) -> None:
    one, other = await a_done_job(api, tmp_path, "a.png"), await a_done_job(api, tmp_path, "a.png")
    _, said = await api.ask("DELETE", f"/v1/jobs/{one}?files=true")
    assert said["kept"] == [str(tmp_path / "a.png")]
    _, said = await api.ask("DELETE", f"/v1/jobs/{other}?files=true")
    assert said["deleted"] == [str(tmp_path / "a.png")]


async def test_a_job_that_lives_and_a_webhook_that_was_not_told_are_kept(api: Api) -> None:
    hook = {"webhook": {"url": "http://127.0.0.1:9/"}}
    job_id = await api.submit(comfytunnel=hook)
    status, said = await api.ask("DELETE", f"/v1/jobs/{job_id}")
    assert (status, said["error"]["code"]) == (409, "job_not_ended")
    await api.scheduler.cancel(job_id)
    status, said = await api.ask("DELETE", f"/v1/jobs/{job_id}")
    assert (status, said["error"]["code"]) == (409, "webhook_pending")
    assert (await api.ask("DELETE", f"/v1/jobs/{job_id}?files=yes"))[0] == 422
    assert (await api.ask("GET", f"/api/v2/jobs/{job_id}"))[0] == 200


async def test_the_list_is_filtered(api: Api) -> None:
    first = await api.submit(comfytunnel={"label": "Cat [1] 100%"})
    second = await api.submit(comfytunnel={"label": "a dog"})
    await api.store.move(second, expect=Stage.WAITING, tunnel="other")
    now = datetime.now(UTC)
    for query, found in (
        ({"label": "cat ["}, [first]),
        ({"label": "%"}, [first]),
        ({"label": "o"}, [second]),
        ({"tunnel": "other"}, [second]),
        ({"tunnel": "other", "label": "cat"}, []),
        ({"since": (now - timedelta(hours=1)).isoformat()}, [second, first]),
        ({"since": (now + timedelta(hours=1)).isoformat()}, []),
        ({"since": (now - timedelta(hours=1)).isoformat(), "limit": "1"}, [second]),
    ):
        status, page = await api.ask("GET", "/api/v2/jobs", params=query)
        assert (status, [job["id"] for job in page["jobs"]]) == (200, found), query


@pytest.mark.parametrize("query", [{"label": ""}, {"since": "yesterday"}, {"since": "2026-01-02T03:04:05"}])
async def test_a_filter_that_means_nothing_is_refused(api: Api, query: dict[str, str]) -> None:
    assert (await api.ask("GET", "/api/v2/jobs", params=query))[0] == 422
