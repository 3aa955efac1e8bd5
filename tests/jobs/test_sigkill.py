"""A real process, a real SIGKILL, again and again: each job ends once, with its picture."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
from collections import Counter
from pathlib import Path

import pytest

from comfytunnel.demo.comfyui import ComfyUI
from comfytunnel.jobs import manifest
from comfytunnel.jobs.model import Status
from comfytunnel.jobs.store import Store

JOBS = 8
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("seed", [1, 2])
async def test_sigkill_at_random_moments_costs_no_job_and_runs_none_twice(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    async with ComfyUI(tmp_path / "far") as far:
        command = [sys.executable, "-m", "tests.jobs.carrier", str(tmp_path), far.url, str(JOBS)]
        for _ in range(6):
            carrier = await asyncio.create_subprocess_exec(
                *command, cwd=ROOT, env={**os.environ, "PYTHONPATH": "daemon"}, stdout=asyncio.subprocess.PIPE
            )
            assert carrier.stdout is not None
            await carrier.stdout.readline()
            await asyncio.sleep(dice.uniform(0.0, 0.4))  # the moment of the kill: any will do
            with contextlib.suppress(ProcessLookupError):  # it was done already
                carrier.kill()
            await carrier.communicate()
        last = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, env={**os.environ, "PYTHONPATH": "daemon"}, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await last.communicate()
        assert (last.returncode, out.split()[-1]) == (0, b"done")
        assert Counter(far.executions).most_common(1)[0][1] == 1
        store = await Store.open(tmp_path / "jobs.db")
        jobs = await store.since(0)
        outputs = [await store.outputs(job.id) for job in jobs]
        await store.close()
        assert len(jobs) == JOBS
        assert {(job.status, job.executions) for job in jobs} == {(Status.SUCCEEDED, 1)}
        every = sorted(path for path in (tmp_path / "pictures").rglob("*") if path.is_file())
        manifests = [path.name for path in every if path.name.startswith("comfytunnel-")]
        assert manifests == sorted(manifest.name(job.id) for job in jobs)
        found = [path for path in every if path.name not in manifests]
        assert found == sorted(Path(output.path) for [output] in outputs)
        for path in found:
            assert path.read_bytes() == (tmp_path / "far" / "output" / path.name).read_bytes()
