"""What is installed beside the program says what the program says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from comfytunnel.configfields import SECTIONS, TUNNEL_FIELDS
from tests.packaging.share import SHARE, TREE, commands, config, files, walk

FILES = [pytest.param(path, id=path.name) for path in files()]


@pytest.mark.parametrize("path", FILES)
def test_it_is_what_would_be_made_now(path: Path) -> None:
    assert path.read_text() == files()[path], "stale: make share"


def test_nothing_else_lies_there() -> None:
    assert {path for path in SHARE.rglob("*") if path.is_file()} == set(files())


def test_the_page_of_the_program_knows_every_command_and_option() -> None:
    plain = commands().replace("\\-", "-")
    for path, command in walk(TREE):
        if not hasattr(command, "commands"):
            _, found, rest = plain.partition(f".SS \\fB{' '.join(path)}\\fR")
            assert found, path
            section = re.split(r"^\.S[SH] ", rest, maxsplit=1, flags=re.M)[0]
            assert all(
                option in section for each in command.params for option in each.opts if option[0] == "-"
            )


def test_the_page_of_the_config_knows_every_key() -> None:
    tables = re.split(r'^\.SH "\[', config().replace("\\-", "-"), flags=re.M)
    for table, keys in {"tunnels.default": TUNNEL_FIELDS, **SECTIONS}.items():
        (section,) = [text for text in tables if text.startswith(f'{table}]"')]
        assert [key for key in keys if f".TP\n\\fB{key} = " not in section] == []


@pytest.mark.parametrize("path", [each for each in FILES if "man" in str(each.values[0])])
def test_mandoc_finds_no_fault_in_a_page(path: Path) -> None:
    """But that it has no date: that of the version stands in the changelog."""
    mandoc = shutil.which("mandoc")
    if mandoc is None:
        assert os.environ.get("CI") != "true", "mandoc is missing"
        pytest.skip("mandoc is not installed")
    done = subprocess.run([mandoc, "-T", "lint", path], capture_output=True, text=True, check=False)
    told = [
        line for line in done.stdout.splitlines() + done.stderr.splitlines() if "missing date" not in line
    ]
    assert told == []
