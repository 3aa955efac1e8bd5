"""Installed as people do it, into clean environments: pip, pipx, uv tool. It takes a package index, so `make test` does without (`make test-install`).

Each gets a home of its own: nothing of the user's is seen or written.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from comfytunnel import __version__

ROOT = Path(__file__).parents[2]
MANUALS = ("man1/comfytunnel.1", "man5/comfytunnel.toml.5")
pytestmark = pytest.mark.timeout(180)  # seconds; downloads of some twenty packages each


class Home:
    """A home of its own, and programs that run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "COMFYTUNNEL_"))
        }
        self.environ = inherited | {"HOME": str(folder), "PATH": f"{folder}/.local/bin:{os.environ['PATH']}"}

    def run(self, *command: str | Path, code: int = 0) -> str:
        """What it says on stdout; the exit code must be `code`."""
        done = subprocess.run(
            [str(word) for word in command],
            capture_output=True,
            text=True,
            env=self.environ,
            cwd=self.folder,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def works(self, program: Path) -> None:
        """It starts, knows its version, and says what a newcomer needs."""
        assert self.run(program, "--version") == f"comfytunnel {__version__}\n"
        assert "setup" in self.run(program, "status", "--json", code=3)
        assert "_comfytunnel" in self.run(program, "completion", "bash")


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with pip, pipx, uv and build."""
    folder = tmp_path_factory.mktemp("tools")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([folder / "bin" / "pip", "install", "-q", "build", "pipx", "uv"], check=True)
    return folder / "bin"


@pytest.fixture(scope="module")
def dist(tools: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `python -m build` makes, each in an environment of its own."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([tools / "python", "-m", "build", "-q", "--outdir", folder, ROOT], check=True)
    return folder


@pytest.fixture
def home() -> Iterator[Home]:
    """Its path is short: it holds a socket's."""
    with tempfile.TemporaryDirectory(prefix="ct-") as folder:
        yield Home(Path(folder) / "home")


def test_pip_into_a_virtual_environment(home: Home, dist: Path) -> None:
    """The demo needs everything that a daemon needs; afterwards `pip uninstall` leaves nothing of ours."""
    venv = home.folder / "venv"
    home.run(sys.executable, "-m", "venv", venv)
    home.run(venv / "bin" / "pip", "install", "-q", *dist.glob("*.whl"))
    home.works(venv / "bin" / "comfytunnel")
    assert "up again after" in home.run(venv / "bin" / "comfytunnel", "demo")
    assert all((venv / "share" / "man" / page).exists() for page in MANUALS)
    home.run(venv / "bin" / "pip", "check")
    heavy = "pydantic"  # imported by some versions of typer at each start: docs/decisions/0001
    assert heavy not in home.run(venv / "bin" / "pip", "list")
    home.run(venv / "bin" / "pip", "uninstall", "-q", "-y", "comfytunnel")
    assert [path for path in venv.rglob("*comfytunnel*") if path.is_file()] == []


def test_pipx(home: Home, tools: Path, dist: Path) -> None:
    """The manual is found, too."""
    home.run(tools / "pipx", "install", "--python", sys.executable, *dist.glob("*.whl"))
    home.works(home.folder / ".local" / "bin" / "comfytunnel")
    assert all((home.folder / ".local" / "share" / "man" / page).exists() for page in MANUALS)
    home.run(tools / "pipx", "uninstall", "comfytunnel")
    assert [path for path in (home.folder / ".local" / "bin").iterdir() if path.is_file()] == []


def test_uv_tool_from_the_sdist(home: Home, tools: Path, dist: Path) -> None:
    home.run(tools / "uv", "tool", "install", "--python", sys.executable, *dist.glob("*.tar.gz"))
    home.works(home.folder / ".local" / "bin" / "comfytunnel")
    home.run(tools / "uv", "tool", "upgrade", "comfytunnel")
    home.works(home.folder / ".local" / "bin" / "comfytunnel")
    home.run(tools / "uv", "tool", "uninstall", "comfytunnel")
    assert not (home.folder / ".local" / "bin" / "comfytunnel").exists()
