"""`setup` as a command, and the look at a real sshd's host key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from comfytunnel.cli.hostlook import look
from comfytunnel.config import TunnelConfig
from tests.api.conftest import Api
from tests.cli.conftest import Cli
from tests.fakes.sshd import Sshd


def tunnel(port: int, folder: Path) -> TunnelConfig:
    return TunnelConfig(name="t", host="127.0.0.1", port=port, known_hosts=folder / "kh", ssh_config=None)


async def test_a_host_key_is_new_then_known_then_changed(tmp_path: Path) -> None:
    async with Sshd(tmp_path) as sshd:
        config = tunnel(sshd.port, tmp_path)
        seen = await look(config)
        assert (seen.status, seen.fingerprint) == ("new", sshd.host_key_fingerprint)
        assert seen.algorithm == "ssh-ed25519"
        (tmp_path / "kh").write_text(sshd.known_hosts_line + "\n")
        assert (await look(config)).status == "known"
        await sshd.change_host_key()
        changed = await look(config)
        assert (changed.status, changed.fingerprint) == ("changed", sshd.host_key_fingerprint)
    assert (await look(config)).status == "unreachable"


async def test_a_name_of_ssh_config_is_followed_as_ssh_does(tmp_path: Path) -> None:
    async with Sshd(tmp_path) as sshd:
        config = tmp_path / "config"
        config.write_text(
            f"Host vast\n  HostName 127.0.0.1\n  Port {sshd.port}\nHost far\n  ProxyJump vast\n"
        )
        known = tmp_path / "kh"
        assert (
            await look(TunnelConfig(name="t", host="vast", ssh_config=config, known_hosts=known))
        ).status == "new"
        behind = await look(TunnelConfig(name="t", host="far", ssh_config=config, known_hosts=known))
        assert "behind another host" in behind.detail


async def test_without_openssh_the_key_is_not_seen_and_nothing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (await look(tunnel(1, tmp_path))).status == "unreachable"


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
