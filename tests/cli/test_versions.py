"""A daemon of another version, as after an upgrade without a restart: the command says so once, and works on."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from comfytunnel import __version__
from comfytunnel.api import answers
from tests.api.conftest import WORKFLOW, Api
from tests.cli.conftest import Cli

CLI = Path(__file__).parents[2] / "daemon" / "comfytunnel" / "cli"
WARNING = f"warning: the daemon is comfytunnel 0.0.9, and this command is {__version__}: run `comfytunnel restart`.\n"


@pytest.fixture
def older(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "__version__", "0.0.9")


async def test_every_answer_says_the_version(api: Api) -> None:
    for path in ("/v1/health", "/v1/events", "/nonsense", "/api/v2/jobs/none"):
        async with api.http.get(f"http://localhost{path}") as response:
            assert response.headers["Server"] == f"comfytunnel/{__version__}"


async def test_of_the_same_version_nothing_is_said(api: Api, cli: Cli) -> None:
    assert (await cli("status")).err == ""


@pytest.mark.usefixtures("older")
@pytest.mark.parametrize("command", ["status", "up", "jobs", "queue", "config reload", "doctor"])
async def test_a_mismatch_is_one_line_on_stderr_and_the_command_works(
    api: Api, cli: Cli, command: str
) -> None:
    for as_json in ([], ["--json"]):
        ran = await cli(*command.split(), *as_json)
        assert (ran.code, ran.err) == (0, WARNING)
        if as_json:
            json.loads(ran.out)


@pytest.mark.usefixtures("older")
async def test_it_is_said_once_however_many_calls_a_command_makes(api: Api, cli: Cli) -> None:
    """`submit` then `jobs wait`: some calls, and streams."""
    ran = await cli("submit", "-", stdin=json.dumps(WORKFLOW))
    assert (ran.code, ran.err) == (0, WARNING)
    await api.scheduler.cancel(ran.out.strip())
    assert (await cli("jobs", "wait", ran.out.strip())).err.count("warning") == 1


@pytest.mark.usefixtures("older")
async def test_an_error_comes_with_it(api: Api, cli: Cli) -> None:
    ran = await cli("jobs", "show", "none", "--json")
    assert (ran.code, ran.err) == (2, WARNING)
    assert json.loads(ran.out)["error"]["code"] == "not_found"


def test_commands_find_the_daemon_in_one_way_only() -> None:
    """A command with a client of its own would not tell. But service.py, which waits for the one that it has just started."""
    makers = {path.name for path in CLI.glob("*.py") if re.search(r"\bClient\(", path.read_text())}
    assert makers == {"daemons.py", "service.py"}
