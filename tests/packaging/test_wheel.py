"""What `python -m build` makes: everything that the program needs at its place, and nothing else."""

from __future__ import annotations

import email
import email.message
import tarfile
import zipfile
from pathlib import Path

import pytest

from comfytunnel import __version__
from tests.packaging.conftest import Built, build
from tests.packaging.share import ROOT

PACKAGE = ROOT / "daemon" / "comfytunnel"
DATA = f"comfytunnel-{__version__}.data/data/"
INFO = f"comfytunnel-{__version__}.dist-info/"


def below(folder: Path) -> set[str]:
    """The files of the tree, by their path from there."""
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def names(built: Built) -> set[str]:
    with zipfile.ZipFile(built.wheel) as wheel:
        return set(wheel.namelist())


@pytest.fixture(scope="module")
def metadata(built: Built) -> email.message.Message:
    with zipfile.ZipFile(built.wheel) as wheel:
        return email.message_from_bytes(wheel.read(f"{INFO}METADATA"))


def test_the_wheel_holds_the_package_whole(names: set[str]) -> None:
    """Its marker for type checkers, and whatever is no Python: pages, units."""
    packed = {name.removeprefix("comfytunnel/") for name in names if name.startswith("comfytunnel/")}
    assert below(PACKAGE) <= packed
    assert "py.typed" in packed


@pytest.mark.parametrize("folder", ["systemd", "launchd"])
def test_the_units_are_in_the_wheel_byte_for_byte(built: Built, folder: str) -> None:
    units = {path.name: path.read_bytes() for path in (ROOT / folder).rglob("*") if path.is_file()}
    assert units
    with zipfile.ZipFile(built.wheel) as wheel:
        packed = {Path(name).name: wheel.read(name) for name in wheel.namelist()}
    assert {name: packed.get(name) for name in units} == units


def test_manual_and_completion_go_where_the_system_looks_for_them(names: set[str]) -> None:
    assert {name.removeprefix(f"{DATA}share/") for name in names if name.startswith(DATA)} >= below(
        ROOT / "share"
    )


def test_nothing_but_the_package_is_in_the_wheel(names: set[str]) -> None:
    """No tests, no second top-level module, nothing of an editor or a test run."""
    assert [name for name in names if not name.startswith(("comfytunnel/", DATA, INFO))] == []
    assert [name for name in names if "__pycache__" in name or "test" in name.lower()] == []


def test_the_sdist_makes_the_same_wheel_as_the_tree(built: Built, tmp_path: Path) -> None:
    (direct,) = build(tmp_path, "--wheel")
    assert direct.name == built.wheel.name
    assert direct.read_bytes() == built.wheel.read_bytes()


def test_the_sdist_holds_what_a_packager_needs(built: Built) -> None:
    """The tests too, and nothing that git does not."""
    with tarfile.open(built.sdist) as sdist:
        found = {name.partition("/")[2] for name in sdist.getnames()}
    for wanted in (
        "pyproject.toml",
        "Makefile",
        "LICENSE",
        "README.md",
        "CHANGELOG.md",
        "config.example.toml",
    ):
        assert wanted in found
    for folder in ("daemon", "share", "docs"):
        assert {f"{folder}/{name}" for name in below(ROOT / folder)} <= found
    assert "tests/packaging/test_wheel.py" in found
    assert [name for name in found if ".venv" in name or "__pycache__" in name] == []


def test_the_metadata_says_what_an_index_shows(metadata: email.message.Message) -> None:
    assert metadata["Name"] == "comfytunnel"
    assert metadata["Version"] == __version__
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Description-Content-Type"] == "text/markdown"
    shown = metadata.get_payload(decode=True)
    assert isinstance(shown, bytes)
    assert shown == (ROOT / "README.md").read_bytes()
    classifiers = metadata.get_all("Classifier", [])
    assert not [each for each in classifiers if each.startswith("License ::")], "the expression says it"
    assert {"Operating System :: MacOS", "Operating System :: POSIX :: Linux", "Typing :: Typed"} <= set(
        classifiers
    )


def test_there_is_one_command(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        entries = wheel.read(f"{INFO}entry_points.txt").decode()
    assert entries.split("\n")[:2] == ["[console_scripts]", "comfytunnel = comfytunnel.__main__:main"]


def test_the_version_stands_in_one_place() -> None:
    """But for the manual, which is made from it."""
    text = (ROOT / "pyproject.toml").read_text()
    assert "\nversion =" not in text
    assert 'dynamic = ["version"]' in text
