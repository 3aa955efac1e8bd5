"""A real process, a real SIGKILL, again and again: each job ends once, with its picture."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest

from comfytunnel.demo.comfyui import ComfyUI
from comfytunnel.jobs import manifest
from comfytunnel.jobs.model import Status
from comfytunnel.jobs.store import Store

JOBS = 8
KILLS = 6
LIFE = 0.5
"""Seconds that a process lives at most; the jobs take some 3 s of ComfyUI's."""
ROOT = Path(__file__).parents[2]


async def _carrier(folder: Path, url: str) -> asyncio.subprocess.Process:
    """A process that is ready to carry jobs."""
    carrier = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.jobs.carrier", str(folder), url, str(JOBS)),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "daemon", "PYTHONFAULTHANDLER": "1"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert carrier.stdout is not None
    if await carrier.stdout.readline() != b"ready\n":
        _, told = await carrier.communicate()
        pytest.fail(_end(carrier, told))
    return carrier


def _end(carrier: asyncio.subprocess.Process, told: bytes) -> str:
    """How it ended, for a person: in which thread of it and where, if it crashed."""
    return f"the carrier ended with {carrier.returncode}:\n{told.decode(errors='replace')}"


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_sigkill_at_random_moments_costs_no_job_and_runs_none_twice(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    async with ComfyUI(tmp_path / "far") as far:
        carrier = await _carrier(tmp_path, far.url)
        for kills in range(KILLS):
            successor = asyncio.create_task(_carrier(tmp_path, far.url))
            assert carrier.stdin is not None
            carrier.stdin.write(b"go\n")
            await asyncio.sleep(dice.uniform(0.0, LIFE))  # the moment of the kill: any will do
            alive = carrier.returncode is None
            if alive:
                carrier.kill()
            _, told = await carrier.communicate()
            assert carrier.returncode in ((0, -signal.SIGKILL) if alive else (0,)), _end(carrier, told)
            carrier = await successor
            if not alive:  # on a busy machine ComfyUI has come to the last job between two kills
                assert kills > KILLS // 2
                break
        out, told = await carrier.communicate(b"go\n")
        assert (carrier.returncode, out.split()[-1:]) == (0, [b"done"]), _end(carrier, told)
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
