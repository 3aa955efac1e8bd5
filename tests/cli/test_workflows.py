"""`comfytunnel workflow ...`: what is added is what the daemon shows, and nothing is overwritten unasked."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from tests.api.conftest import SAMPLED, Api
from tests.cli.conftest import Cli, on_terminal


@pytest.fixture
def source(short: Path) -> Path:
    path = short / "portrait.json"
    path.write_text(json.dumps(SAMPLED))
    return path


async def test_a_workflow_is_added_listed_shown_and_removed(api: Api, cli: Cli, source: Path) -> None:
    ran = await cli("workflow", "add", str(source))
    kept = api.context.workflows.path / "portrait.json"
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == f"{kept}: prompt, negative_prompt, image, seed, steps\n"
    assert json.loads(kept.read_text()) == SAMPLED
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    kept.with_suffix(".toml").write_text('title = "A face\\u001b[2J"\n[parameters.steps]\nmax = 30\n')
    (kept.parent / "broken.json").write_text("{")

    ran = await cli("workflow", "list")
    assert ran.code == 0
    broken, portrait = ran.out.splitlines()
    assert portrait == "portrait  (A face)  prompt, negative_prompt, image, seed, steps"
    assert "is not JSON" in broken
    assert "Export it from ComfyUI again" in broken
    ran = await cli("workflow", "show", "portrait")
    assert ran.out.splitlines() == [
        "A face",
        '  prompt           Positive prompt: "a cat"',
        '  negative_prompt  Negative prompt: ""',
        '  image            Image: "example.png"',
        "  seed             Seed: drawn for each job",
        "  steps            Steps: 20  [1 to 30]",
    ]
    ran = await cli("workflow", "show", "portrait", "--json")
    assert json.loads(ran.out)["workflow"] == SAMPLED
    ran = await cli("workflow", "show", "portrat")
    assert ran.code == 2
    assert "Did you mean 'portrait'?" in ran.err

    ran = await cli("workflow", "remove", "portrait", "--yes")
    assert ran.code == 0
    assert [path.name for path in kept.parent.iterdir()] == ["broken.json"]
    assert (await cli("workflow", "remove", "portrait")).code == 2


@pytest.mark.parametrize(("keys", "code"), [("n\n", 1), ("\n", 1), ("\x03", 1), ("y\n", 0)])
async def test_a_workflow_is_removed_only_when_somebody_agrees(
    api: Api, cli: Cli, source: Path, keys: str, code: int
) -> None:
    """Without a terminal, and where the answer is JSON, nobody is asked: then it wants --yes."""
    await cli("workflow", "add", str(source))
    kept = api.context.workflows.path / "portrait.json"
    kept.with_suffix(".toml").write_text("")
    ran = await cli("workflow", "remove", "portrait")
    assert (ran.code, ran.out, kept.exists()) == (2, "", True)
    assert "Remove portrait.json and portrait.toml? Nobody is there to agree." in ran.err
    assert "--yes" in ran.err
    async with on_terminal(cli, "workflow", "remove", "portrait", "--json", whole=True) as (_, process):
        assert await process.wait() == 2
    async with on_terminal(cli, "workflow", "remove", "portrait", whole=True) as (terminal, process):
        await terminal.until("Remove portrait.json and portrait.toml? [y/N]")
        terminal.type(keys)
        await terminal.until("Nothing was removed." if code else "removed ")
        assert await process.wait() == code
    assert kept.exists() == kept.with_suffix(".toml").exists() == bool(code)


async def test_nothing_is_overwritten_without_being_asked_for(api: Api, cli: Cli, source: Path) -> None:
    await cli("workflow", "add", str(source), "--name", "x")
    kept = api.context.workflows.path / "x.json"
    kept.write_text("mine")
    ran = await cli("workflow", "add", str(source), "--name", "x")
    assert ran.code == 2
    assert "--replace" in ran.err
    assert kept.read_text() == "mine"
    ran = await cli("workflow", "add", "-", "--name", "x", "--replace", "--json", stdin=json.dumps(SAMPLED))
    assert json.loads(ran.out)["path"] == str(kept)
    assert json.loads(kept.read_text()) == SAMPLED


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-"], "--name"),
        (["SOURCE", "--name", "../up"], "is not a name for a workflow"),
        (["SOURCE", "--name", ".hidden"], "is not a name for a workflow"),
        (["SOURCE", "--name", "convert"], "the API has a route of that name"),
        (["missing.json"], "cannot be read"),
        (["."], "cannot be read"),
    ],
    ids=lambda each: str(each[-1]),
)
@pytest.mark.usefixtures("api")
async def test_what_cannot_be_added_is_said(cli: Cli, source: Path, arguments: list[str], said: str) -> None:
    ran = await cli("workflow", "add", *[str(source) if each == "SOURCE" else each for each in arguments])
    assert ran.code == 2
    assert said in ran.err


async def test_without_a_daemon_one_is_added_beside_the_config(alone: Cli, source: Path) -> None:
    assert (await alone("workflow", "add", str(source))).code == 0
    assert (source.parent / "workflows" / "portrait.json").exists()
    assert (await alone("workflow", "list")).code == 3
