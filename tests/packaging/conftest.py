"""An sdist of this tree, and the wheel that `python -m build` makes of it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.packaging.share import ROOT


@dataclass(frozen=True)
class Built:
    sdist: Path
    wheel: Path


@pytest.fixture(scope="package")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Built without a network: the build backend is one of the tests' own requirements."""
    return Built(*build(tmp_path_factory.mktemp("dist")))


def build(folder: Path, *more: str) -> list[Path]:
    """What was built, the sdist first."""
    command = [sys.executable, "-m", "build", "--no-isolation", *more, "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return sorted(folder.iterdir(), key=lambda path: path.suffix)  # .gz, .whl
