"""Which program a unit names, for each way to install."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from comfytunnel.errors import RefusedError
from comfytunnel.service.program import MODULE, Interpreter, open_to_others, program, trouble


def environment(prefix: Path, *, executable: str = "python3.12") -> Interpreter:
    """A virtual environment of a Python that lies elsewhere."""
    bin_ = prefix / "bin"
    bin_.mkdir(parents=True)
    for name in {"python", "python3", executable}:
        (bin_ / name).symlink_to(sys.executable)
    return Interpreter(bin_ / executable, prefix, Path("/usr"), bin_ / "comfytunnel")


@pytest.mark.parametrize(
    "prefix",
    [
        ".local/share/pipx/venvs/comfytunnel",
        ".local/share/uv/tools/comfytunnel",
        "src/comfytunnel/.venv",
    ],
)
def test_an_environment_is_named_by_its_own_python_without_a_version(tmp_path: Path, prefix: str) -> None:
    """`pipx upgrade` and `uv tool upgrade` keep that path, whichever Python is behind it then."""
    found = program(environment(tmp_path / prefix))
    assert found == (str(tmp_path / prefix / "bin" / "python"), *MODULE)
    assert trouble(found) == ""


def test_a_distributions_command_is_named_by_itself(tmp_path: Path) -> None:
    command = tmp_path / "comfytunnel"
    command.touch(mode=0o755)
    it = Interpreter(Path("/usr/bin/python3.11"), Path("/usr"), Path("/usr"), command)
    assert program(it) == (str(command),)


def test_without_a_command_it_is_the_interpreter(tmp_path: Path) -> None:
    it = Interpreter(Path(sys.executable), Path("/usr"), Path("/usr"), None)
    assert program(it) == (sys.executable, *MODULE)


@pytest.mark.parametrize(
    "prefix",
    [
        "/home/u/.cache/uv/archive-v0/x7Jk",
        "/home/u/.cache/uv/environments-v2/abc",
        "/home/u/.local/share/pipx/.cache/5c3d",
        "/Users/u/Library/Caches/uv/archive-v0/x",
    ],
)
def test_a_copy_that_its_tool_throws_away_is_refused(prefix: str) -> None:
    it = Interpreter(Path(prefix) / "bin/python", Path(prefix), Path("/usr"), None)
    with pytest.raises(RefusedError, match="passing") as caught:
        program(it)
    assert "pipx install" in caught.value.hint


def test_a_python_that_was_removed_under_an_environment_is_found_out(tmp_path: Path) -> None:
    """What an upgrade of the system leaves: a link to python3.11, and no python3.11."""
    python = tmp_path / "python"
    python.symlink_to(tmp_path / "python3.11")
    assert str(tmp_path / "python3.11") in trouble((str(python), *MODULE))
    assert "not there" in trouble((str(tmp_path / "none"),))
    (tmp_path / "plain").touch(mode=0o644)
    assert "executed" in trouble((str(tmp_path / "plain"),))


def test_a_home_folder_is_closed_to_a_service_of_the_system(tmp_path: Path) -> None:
    closed = tmp_path / "home"
    closed.mkdir(mode=0o700)
    (closed / "python").touch()
    assert not open_to_others(closed / "python")
    assert open_to_others(Path(os.devnull))
