"""`--help` of every command: one short sentence first, an example that can be typed, a word about each option."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from comfytunnel.__main__ import STATUS_FLAGS
from comfytunnel.cli import daemon
from comfytunnel.cli.main import app
from tests.cli.conftest import Cli

SENTENCE_MOST = 60  # characters, so that the list of commands shows it whole on 80 columns
EXAMPLE = "Example: "


def walk(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with its words, groups too."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from walk(inner, (*path, name))


TREE = typer.main.get_command(app)
COMMANDS = dict(walk(TREE))
BELOW = [pytest.param(path, id=" ".join(path)) for path in COMMANDS if path]


@pytest.mark.parametrize("path", BELOW)
def test_it_says_in_one_sentence_what_it_does(path: tuple[str, ...]) -> None:
    first, dot, _ = (COMMANDS[path].help or "").replace("\n", " ").partition(".")
    assert dot, "a sentence ends with a full stop"
    assert first[:1].isupper()
    assert len(first) < SENTENCE_MOST, first


@pytest.mark.parametrize("path", BELOW)
def test_its_example_is_one_of_it_and_can_be_typed(path: tuple[str, ...]) -> None:
    epilog = COMMANDS[path].epilog or ""
    assert epilog.startswith(EXAMPLE)
    program, *words = shlex.split(epilog.removeprefix(EXAMPLE))
    assert (program, *words[: len(path)]) == ("comfytunnel", *path)
    context = TREE.make_context("comfytunnel", words)
    for name in path:
        inner = context.command.commands[name]  # type: ignore[attr-defined]  # a group has them
        context = inner.make_context(name, [*context._protected_args, *context.args][1:], parent=context)


@pytest.mark.parametrize("path", BELOW)
def test_every_option_and_argument_is_explained(path: tuple[str, ...]) -> None:
    for parameter in COMMANDS[path].params:
        assert parameter.help, parameter.name
        assert getattr(parameter, "is_flag", False) or parameter.metavar, f"say what {parameter.name} takes"


def test_the_quick_way_of_the_daemon_takes_what_its_help_says(capsys: pytest.CaptureFixture[str]) -> None:
    """It is parsed without typer; see cli/daemon.py."""
    with pytest.raises(SystemExit):
        daemon.main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for option in COMMANDS[("daemon",)].params:
        assert f"[{option.opts[0]} {option.metavar}]" in shown
        assert option.help in shown
    assert COMMANDS[("daemon",)].help in shown
    assert COMMANDS[("daemon",)].epilog in shown


async def test_the_list_of_commands_is_whole_on_80_columns(alone: Cli) -> None:
    alone.environ["COLUMNS"] = "80"
    for words in ([], ["jobs"], ["config"]):
        ran = await alone(*words, "-h")
        assert (ran.code, "..." in ran.out.partition("Commands:")[2]) == (0, False)


def test_the_quick_way_of_status_takes_the_flags_of_the_command() -> None:
    """Another one would be explained by the slow way, but never forgotten by the quick one."""
    options = {name for parameter in COMMANDS["status",].params for name in parameter.opts}
    assert options - {"--help", "-h"} == STATUS_FLAGS
