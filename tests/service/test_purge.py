"""What `uninstall --purge` takes along."""

from __future__ import annotations

from pathlib import Path

import pytest

from comfytunnel.service.purge import belongings


@pytest.mark.parametrize("other", [False, True])
def test_the_config_takes_its_folder_along_unless_something_else_is_in_it(
    tmp_path: Path, other: bool
) -> None:
    folder = tmp_path / "comfytunnel"
    folder.mkdir()
    (folder / "config.toml").touch()
    (folder / "config.toml.bak-20260101-000000").touch()
    if other:
        (folder / "notes.txt").touch()
    for each in belongings(folder / "config.toml", tmp_path / "no-state"):
        each.remove()
    assert [path.name for path in tmp_path.rglob("*")] == (["comfytunnel", "notes.txt"] if other else [])
    assert tmp_path.exists()
