"""The README's commands can be typed: each of them is one that the program takes."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest

from tests.packaging.share import ROOT, TREE

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```", README, flags=re.M | re.S)
TYPED = sorted(
    {
        call
        for line in "\n".join(BLOCKS).splitlines()
        for part in re.split(r" && |\$\(|\)\"| \| ", line)
        if (call := part.partition("  #")[0].partition(" > ")[0].strip()).startswith("comfytunnel ")
    }
)


@pytest.mark.parametrize("line", TYPED)
def test_a_command_of_the_readme_is_one(line: str) -> None:
    """Its words are parsed as they would be, down to the last command."""
    command: Any = TREE
    context, words = None, shlex.split(line)[1:]
    context = command.make_context("comfytunnel", words)
    while hasattr(command, "commands"):
        left = [*context._protected_args, *context.args]
        if not left:
            break
        command = command.commands[left[0]]
        context = command.make_context(left[0], left[1:], parent=context)


def test_who_has_only_made_the_demo_is_told_what_the_command_is_called() -> None:
    """Before anything is typed that begins with `comfytunnel`."""
    assert README.index("`.venv/bin/comfytunnel`") < README.index("\ncomfytunnel setup")
