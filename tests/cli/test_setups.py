"""`setup` as a command."""

from __future__ import annotations

import json
from pathlib import Path

from tests.api.conftest import Api
from tests.cli.conftest import Cli
from tests.fakes.sshd import Sshd


async def test_setup_writes_the_config_and_tells_the_running_daemon(
    api: Api, cli: Cli, tmp_path: Path
) -> None:
    async with Sshd(tmp_path) as sshd:
        line = f"ssh -p {sshd.port} root@127.0.0.1 -N -L 18188:localhost:18188"
        ran = await cli("setup", line, "--json")
    assert ran.code == 0, ran.err
    done = json.loads(ran.out)
    assert (done["tunnel"], done["taken_up"], len(api.reloads)) == ("default", True, 1)
    assert (done["host_key"]["status"], done["host_key"]["fingerprint"]) == ("new", sshd.host_key_fingerprint)
    assert (await cli("config", "check")).code == 0


async def test_setup_without_a_terminal_never_changes_an_old_config_unless_told(alone: Cli) -> None:
    """Nobody can be asked: exit 2 and the file as it was; --yes agrees. No daemon runs, and that is said."""
    assert (await alone("setup", "ssh -p 1 root@127.0.0.1")).code == 0
    before = (alone.folder / "config.toml").read_text()
    ran = await alone("setup", "ssh -p 2 root@127.0.0.1")
    assert (ran.code, (alone.folder / "config.toml").read_text()) == (2, before)
    assert "--yes" in ran.err
    ran = await alone("setup", "ssh -p 2 root@127.0.0.1", "--yes")
    assert ran.code == 0
    assert "No daemon is running" in ran.out


async def test_a_line_that_is_no_ssh_command_is_exit_2(alone: Cli) -> None:
    assert (await alone("setup", "scp a b")).code == 2
    assert not (alone.folder / "config.toml").exists()
