"""`doctor` as a person reads it, and what it says when there is no daemon."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from comfytunnel import wire
from comfytunnel.cli.doctor import _alone, agent_remark, text
from comfytunnel.client import Client
from comfytunnel.errors import NotRunningError
from tests.api.conftest import Api
from tests.cli.conftest import Cli


async def test_each_step_has_a_line_and_the_first_broken_one_the_last_word(api: Api, cli: Cli) -> None:
    api.tunnels.findings = [
        wire.Check("key", "fail", 0.25, "The private key cannot be used.", "chmod 600 it."),
        wire.Check("authentication", "skip", 0.0, "needs key"),
        wire.Check("disk", "fail", 0.01, "Full.", "Free some space."),
    ]
    ran = await cli("doctor")
    assert ran.code == 1
    lines = ran.out.splitlines()
    assert lines[0] == "default: up"
    assert lines[1].split() == ["PASS", "config", "0.00", "s", "config.toml"]
    assert lines[2].split()[:3] == ["FAIL", "key", "0.25"]
    assert lines[3].strip() == "-> chmod 600 it."
    assert lines[4].split() == ["SKIP", "authentication", "needs", "key"]
    assert lines[-1] == "Broken: key. chmod 600 it."


async def test_the_relays_banner_is_shown_and_cannot_draw_on_the_terminal(api: Api, cli: Cli) -> None:
    ran = await cli("doctor", "default")
    assert ran.code == 0
    assert "\x1b" not in ran.out
    assert "    Welcome to vast.ai.\n    Try again.\n" in ran.out
    assert ran.out.endswith("All is well.\n")
    exact = await cli("doctor", "--json")
    assert "\x1b" not in exact.out
    assert json.loads(exact.out)["reports"][0]["banner"].startswith("Welcome\x1b[2J")


async def test_several_tunnels_are_examined_each_and_a_name_chooses_one(api: Api, cli: Cli) -> None:
    api.tunnels.known["other"] = api.tunnels.known["default"]
    assert [line for line in (await cli("doctor")).out.splitlines() if line.endswith(": up")] == [
        "default: up",
        "other: up",
    ]
    assert len(json.loads((await cli("doctor", "other", "--json")).out)["reports"]) == 1
    ran = await cli("doctor", "nope")
    assert (ran.code, "default" in ran.err) == (2, True)


async def test_without_a_daemon_the_config_is_looked_at_all_the_same(alone: Cli) -> None:
    (alone.folder / "config.toml").write_text('[tunnels.default]\nhots = "x"\n')
    ran = await alone("doctor")
    assert ran.code == 3
    assert "FAIL  config" in ran.out
    assert "hots" in ran.out
    assert "FAIL  daemon" in ran.out
    assert "comfytunnel daemon" in ran.out
    (alone.folder / "config.toml").write_text('[tunnels.default]\nhost = "x"\n')
    exact = await alone("doctor", "--json")
    assert exact.code == 3
    (report,) = json.loads(exact.out)["reports"]
    assert (report["broken"], report["steps"][0]["result"]) == ("daemon", "pass")
    assert "left the socket" not in exact.out


async def test_a_socket_that_a_dead_daemon_left_is_told_from_none(alone: Cli) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(alone.environ["COMFYTUNNEL_SOCKET"])
    ran = await alone("doctor")
    assert ran.code == 3
    assert "left the socket there" in ran.out


def test_an_agent_is_remarked_on_only_if_the_shell_sees_one_that_the_daemon_does_not() -> None:
    def remark(agent: wire.Agent | None, shell: str) -> str:
        return agent_remark(wire.Report(tunnel="t", agent=agent), {"SSH_AUTH_SOCK": shell} if shell else {})

    assert "/shell" in remark(wire.Agent(), "/shell")
    assert "the daemon asks /old" in remark(wire.Agent("/old", "environment", 1), "/shell")
    for quiet in (
        remark(wire.Agent(), ""),
        remark(wire.Agent("/shell", "environment", 1), "/shell"),
        remark(wire.Agent("/named", "config", 1), "/shell"),
        remark(wire.Agent(None, "config"), "/shell"),
        remark(None, "/shell"),
    ):
        assert quiet == ""


def test_what_was_not_tried_is_said_when_nothing_is_broken() -> None:
    report = wire.Report(tunnel="t", phase="down", steps=[wire.Check("channel", "skip", 0.0, "needs a link")])
    assert text(wire.Doctor("c", [report])).splitlines()[-1] == (
        "Nothing is broken as far as one can see; not tried: channel."
    )


def test_a_socket_that_somebody_holds_in_silence_is_not_called_left_behind(short: Path) -> None:
    """The manager's, whose daemon cannot be started."""
    path = short / "c.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        with pytest.raises(NotRunningError) as found:
            Client(path, timeout=0.05).health()
    detail = _alone(path, found.value).reports[0].steps[1].detail
    assert detail == f"The daemon on {path} does not answer."
