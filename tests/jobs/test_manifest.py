"""Beside the outputs stands how they were made."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from comfytunnel import __version__
from comfytunnel.jobs import manifest
from comfytunnel.jobs.model import Job, Stage, Status
from comfytunnel.jobs.names import safe_name
from comfytunnel.jobs.place import Keep
from comfytunnel.jobs.retention import tidy
from tests.jobs.bench import Bench, picture


def path_of(job: Job) -> Path:
    assert job.folder is not None
    return Path(job.folder) / manifest.name(job.id)


def told(job: Job) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path_of(job).read_bytes())
    return found


async def test_a_manifest_tells_how_the_outputs_were_made_and_what_they_are(bench: Bench) -> None:
    workflow = picture()
    workflow["1"]["inputs"]["noise_seed"] = 2**63
    done = await bench.ends(await bench.submit(workflow, label="mine"))
    found = told(done)
    assert found["workflow"] == workflow
    assert found["seeds"] == {"1.noise_seed": 2**63}
    assert found["versions"] == {"comfytunnel": __version__, "comfyui": bench.far.version}
    assert (found["label"], found["job_id"], found["executions"]) == ("mine", done.id, 1)
    assert datetime.fromisoformat(found["times"]["created_at"]) == done.created_at
    assert None not in found["times"].values()
    [output] = found["outputs"]
    data = (path_of(done).parent / output["name"]).read_bytes()
    assert (output["sha256"], output["size_bytes"]) == (hashlib.sha256(data).hexdigest(), len(data))
    assert output["cached"] is False


async def test_a_cached_result_is_marked_as_such(bench: Bench) -> None:
    jobs = [await bench.ends(await bench.submit(picture())) for _ in range(2)]
    assert [told(job)["outputs"][0]["cached"] for job in jobs] == [False, True]


async def test_a_job_without_outputs_has_no_manifest(bench: Bench) -> None:
    bench.far.faults.missing_output = True
    done = await bench.ends(await bench.submit(picture()))
    assert not path_of(done).exists()


async def test_a_manifest_is_written_again_in_its_place_after_a_crash(bench: Bench) -> None:
    """Killed between the manifest and the end of the job: it is written twice, and there is one."""
    (bench.folder / "pictures").write_text("in the way")
    job = await bench.submit(picture())
    before = await bench.reaches(job, Stage.FETCHING)
    await bench.kill()
    (bench.folder / "pictures").unlink()
    path_of(before).parent.mkdir(parents=True)
    elsewhere = bench.folder / "elsewhere"
    elsewhere.write_text("not ours")
    path_of(before).symlink_to(elsewhere)
    await bench.start()
    done = await bench.ends(job)
    assert (done.status, told(done)["job_id"]) == (Status.SUCCEEDED, job.id)
    assert elsewhere.read_text() == "not ours"
    assert [path.name for path in path_of(done).parent.glob("*.json")] == [manifest.name(job.id)]


def test_no_output_can_take_the_name_of_a_manifest() -> None:
    for hostile in (
        manifest.name("x"),
        "../" + manifest.name("x"),
        "Comfytunnel-x.json",
        ".comfytunnel-x.json",
    ):
        assert safe_name(hostile).startswith("_")


async def test_a_manifest_goes_with_the_last_of_its_files(bench: Bench) -> None:
    done = await bench.ends(await bench.submit(picture()))
    await tidy(bench.store, Keep(outputs_age=60), datetime.now(UTC) + timedelta(seconds=30))
    assert path_of(done).exists()
    await tidy(bench.store, Keep(outputs_age=60), datetime.now(UTC) + timedelta(seconds=90))
    assert list(path_of(done).parent.iterdir()) == []
