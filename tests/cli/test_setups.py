"""`setup` as a command."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

from tests.api.conftest import Api
from tests.cli.conftest import Cli, on_terminal
from tests.fakes.sshd import Sshd


async def test_setup_writes_the_config_and_tells_the_running_daemon(
    api: Api, cli: Cli, tmp_path: Path
) -> None:
    cli.environ["COMFYTUNNEL_CONFIG"] = api.context.config
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


async def test_a_daemon_with_another_config_is_left_alone_and_that_is_said(api: Api, cli: Cli) -> None:
    ran = await cli("setup", "ssh -p 1 root@127.0.0.1")
    assert ran.code == 0
    assert f"reads another file, {api.context.config}" in ran.out
    assert api.reloads == []


async def test_the_quotes_around_the_line_may_be_forgotten(alone: Cli) -> None:
    line = "ssh -p 1 -o ServerAliveInterval=15 root@127.0.0.1 -N -L 18190:localhost:18188"
    ran = await alone("setup", *line.split(), "--name", "a", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["tunnel"] == "a"
    text = (alone.folder / "config.toml").read_text()
    assert "ssh -p 1 -o ServerAliveInterval=15 root@127.0.0.1 -L 18190:localhost:18188" in text
    assert (await alone("setup", line, "--jsn")).code == 2


async def test_a_port_where_nothing_listens_may_be_an_instance_that_starts_a_missing_proxy_not(
    alone: Cli,
) -> None:
    ran = await alone("setup", "ssh -p 1 root@127.0.0.1")
    assert re.search(r"not seen, the host refused .*1\. The instance may still be starting\.\n", ran.out)
    ran = await alone("setup", "ssh -o 'ProxyCommand=/nonexist/nc %h' root@h", "--yes")
    assert ran.code == 0
    assert "still be starting" not in ran.out
    assert "Errno" not in ran.out


async def test_ctrl_c_at_the_question_ends_it_at_once_and_writes_nothing(alone: Cli) -> None:
    config = alone.folder / "config.toml"
    config.write_text('[tunnels.default]\nssh = "ssh -p 1 root@127.0.0.1"\n')
    before = config.read_text()
    async with on_terminal(alone, "setup", "ssh -p 2 root@127.0.0.1", whole=True) as (terminal, process):
        await terminal.until("[y/N]")
        terminal.type("\x03")
        await terminal.until("nothing was written")
        async with asyncio.timeout(5):
            assert await process.wait() == 1
    assert config.read_text() == before
    assert list(alone.folder.glob("*.bak-*")) == []


async def test_no_to_the_question_is_exit_1_and_writes_nothing(alone: Cli) -> None:
    """A script that goes on after `setup` must not take a refusal for a config."""
    assert (await alone("setup", "ssh -p 1 root@127.0.0.1")).code == 0
    before = (alone.folder / "config.toml").read_text()
    async with on_terminal(alone, "setup", "ssh -p 2 root@127.0.0.1", whole=True) as (terminal, process):
        await terminal.until("[y/N]")
        terminal.type("n\n")
        await terminal.until("Nothing was written.")
        assert await process.wait() == 1
    assert (alone.folder / "config.toml").read_text() == before
