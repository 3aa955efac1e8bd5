"""`expires_at` is when a thing is really forgotten, as far as its age decides that."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from comfytunnel import wire
from comfytunnel.decoding import convert
from comfytunnel.jobs.place import JobsSettings, Keep
from tests.api.conftest import Api

DAY = 86_400.0


@pytest.mark.parametrize(
    ("keep", "job_days", "asset_days"),
    [
        (Keep(), None, None),
        (Keep(jobs_age=DAY), 1, 1),  # nobody knows of a file whose job is forgotten
        (Keep(outputs_age=2 * DAY), None, 2),
        (Keep(jobs_age=DAY, outputs_age=2 * DAY), 2, 2),  # no job before its files
        (Keep(jobs_age=3 * DAY, outputs_age=2 * DAY), 3, 2),
        (Keep(jobs_age=DAY, outputs_size=1), None, None),  # its files go when room is wanted
        (Keep(jobs_size=1), None, None),
    ],
    ids=str,
)
async def test_a_job_and_its_files_say_until_when_they_are_kept(
    api: Api, tmp_path: Path, keep: Keep, job_days: int | None, asset_days: int | None
) -> None:
    api.scheduler.settings = JobsSettings(output_dir=tmp_path, keep=keep)
    (tmp_path / "a.png").write_bytes(b"x")
    job_id = await api.submit()
    await api.scheduler.start(job_id)
    output = await api.scheduler.output(job_id, tmp_path / "a.png")
    _, job = await api.ask("GET", f"/api/v2/jobs/{job_id}")
    assert convert(job["expires_at"], datetime) == wire.NEVER  # its time begins with its end
    assert (await api.ask("GET", f"/api/v2/assets/{output.asset_id}"))[1]["expires_at"] is None
    await api.scheduler.succeed(job_id)
    shown = convert((await api.ask("GET", f"/api/v2/jobs/{job_id}"))[1], wire.Job)
    assert shown.completed_at is not None
    until = wire.NEVER if job_days is None else shown.completed_at + timedelta(days=job_days)
    assert shown.expires_at == until
    url_until = wire.NEVER if asset_days is None else shown.completed_at + timedelta(days=asset_days)
    assert shown.outputs[0].url_expires_at == url_until
    asset = convert((await api.ask("GET", f"/api/v2/assets/{output.asset_id}"))[1], wire.Asset)
    assert asset.expires_at == (None if asset_days is None else url_until)
    assert asset.url_expires_at == url_until


async def test_a_job_without_files_goes_by_its_own_age(api: Api, tmp_path: Path) -> None:
    keep = Keep(jobs_age=DAY, outputs_age=2 * DAY)
    api.scheduler.settings = JobsSettings(output_dir=tmp_path, keep=keep)
    job_id = await api.submit()
    _, body = await api.ask("POST", f"/api/v2/jobs/{job_id}/cancel")
    job = convert(body, wire.Job)
    assert job.completed_at is not None
    assert job.expires_at == job.completed_at + timedelta(days=1)


async def test_an_upload_says_its_own_end(api: Api) -> None:
    asset = convert(await api.upload(b"x", expires_in="60"), wire.Asset)
    assert asset.expires_at is not None
    assert asset.url_expires_at == asset.expires_at
    assert asset.expires_at - asset.created_at == pytest.approx(
        timedelta(seconds=60), abs=timedelta(seconds=5)
    )
