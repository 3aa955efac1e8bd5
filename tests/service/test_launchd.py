"""What launchctl is told, and in which order. The launchctl is a small program of ours that keeps what is loaded: none exists off macOS."""

from __future__ import annotations

from pathlib import Path

import pytest

from comfytunnel.service.launchd import Launchd
from comfytunnel.service.plan import Plan

LAUNCHCTL = """#!/bin/sh
cd "{folder}" || exit 1
[ "$1" = print ] || echo "$@" >> told
case "$1" in
  print) case "$2" in */*/*) [ -e loaded ] && echo "	pid = 77" ;; *) exit 0 ;; esac ;;
  bootstrap) [ ! -e loaded ] && touch loaded ;;
  bootout) [ -e loaded ] && {{ (sleep 0.3; rm loaded) >/dev/null 2>&1 & }} ;;
esac
"""


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Launchd:
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    program = bin_ / "launchctl"
    program.write_text(LAUNCHCTL.format(folder=tmp_path))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_}:/usr/bin:/bin")
    monkeypatch.setenv("HOME", str(tmp_path))
    return Launchd("ct")


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan("ct", ("/p",), tmp_path / "c", tmp_path / "s", tmp_path / "s" / "run" / "control.sock")


def told(folder: Path) -> list[str]:
    """The verbs since the last look."""
    lines = (folder / "told").read_text().splitlines()
    (folder / "told").unlink()
    return [line.split()[0] for line in lines]


def test_an_agent_is_loaded_once_and_anew_when_its_file_has_changed(
    agent: Launchd, plan: Plan, tmp_path: Path
) -> None:
    """The old one has gone before the new one is loaded: bootout returns early, and bootstrap would fail."""
    agent.check()
    assert agent.pid() is None
    agent.bring(plan, [agent.path], start=True)
    assert told(tmp_path) == ["enable", "bootstrap"]
    assert agent.pid() == 77
    agent.bring(plan, [], start=True)
    assert told(tmp_path) == ["enable"]
    agent.bring(plan, [agent.path], start=True)
    assert told(tmp_path) == ["bootout", "enable", "bootstrap"]
    agent.restart()
    assert told(tmp_path) == ["kickstart"]
    agent.drop()
    assert told(tmp_path) == ["bootout"]
    assert agent.pid() is None


def test_the_file_lies_where_launchd_looks_and_is_read_back(
    agent: Launchd, plan: Plan, tmp_path: Path
) -> None:
    (wanted,) = agent.wanted(plan)
    assert wanted.path == tmp_path / "Library" / "LaunchAgents" / "ct.plist"
    assert agent.program() == ()
    wanted.path.parent.mkdir(parents=True)
    wanted.path.write_text(wanted.text)
    assert agent.program() == ("/p", "daemon")
    assert agent.log(follow=False, since=None) == tmp_path / "Library" / "Logs" / "ct.log"
