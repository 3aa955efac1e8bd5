"""Thousands of interleavings of all that can go wrong, each from a seed: WALK_SEED=n runs that one alone, with its log."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.walks.conftest import SEED
from tests.walks.walking import walk

# What a broken program (test_mutants.py) has left open may be collected here.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

WALKS = 2000
LATE_WALKS = 400
CHUNK = 40
SETTLE = 5.0


@pytest.mark.parametrize("first", [int(SEED)] if SEED else range(0, WALKS, CHUNK))
def test_each_job_ends_once_runs_once_and_its_pictures_are_here(
    first: int, tmp_path: Path, template: Path
) -> None:
    """A POST may be delivered up to the settle time after its connection has ended."""
    for seed in range(first, first + (1 if SEED else CHUNK)):
        folder = tmp_path / str(seed)
        folder.mkdir()
        walk(folder, template, seed, late=SETTLE)
        shutil.rmtree(folder)


@pytest.mark.parametrize("first", [int(SEED)] if SEED else range(10_000, 10_000 + LATE_WALKS, CHUNK))
def test_a_post_that_comes_long_after_the_settle_time_costs_one_run_and_is_told(
    first: int, tmp_path: Path, template: Path
) -> None:
    """One POST of each walk may come up to 45 s after its connection has ended."""
    for seed in range(first, first + (1 if SEED else CHUNK)):
        folder = tmp_path / str(seed)
        folder.mkdir()
        walk(folder, template, seed, late=SETTLE, once_late=45.0)
        shutil.rmtree(folder)


def test_a_seed_is_one_walk(tmp_path: Path, template: Path) -> None:
    """What happens depends on the seed and on nothing else."""
    told = []
    for name in ("once", "again"):
        (tmp_path / name).mkdir()
        done = walk(tmp_path / name, template, 7, late=SETTLE)
        told.append((done.world.told, done.world.far.executions, done.loop.now))
    assert told[0] == told[1]
