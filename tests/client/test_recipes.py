"""docs/recipes.md is run as it stands: the blocks marked `run`; the other Python ones are compiled."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.app.world import workflow
from tests.client.shells import TOKEN, Site, site

TEXT = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(python|sh)( run)?\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
RUN = [(language, code) for language, run, code in BLOCKS if run]


@pytest.fixture(scope="module")
def at() -> Iterator[Site]:
    with site() as made:
        yield made


@pytest.mark.parametrize(("language", "code"), RUN, ids=[language for language, _ in RUN])
def test_a_recipe_runs_as_it_stands(language: str, code: str, at: Site, tmp_path: Path) -> None:
    (tmp_path / "workflow.json").write_text(json.dumps(workflow(3)))
    command = tmp_path / "bin" / "comfytunnel"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m comfytunnel "$@"\n')
    command.chmod(0o755)
    done = subprocess.run(
        [sys.executable if language == "python" else "sh", "-c", code],
        cwd=tmp_path,
        env=at.world.environment
        | {
            "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}",
            "COMFY_BASE_URL": f"http://localhost:{at.web}",
            "COMFY_API_KEY": TOKEN,
        },
        capture_output=True,
        text=True,
        timeout=25,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert ("print" in code or language == "sh") == (".png" in done.stdout)


def test_every_recipe_in_python_is_python() -> None:
    assert len(RUN) >= 4
    for language, _, code in BLOCKS:
        if language == "python":
            compile(code, "recipes.md", "exec")
