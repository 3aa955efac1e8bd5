"""The look at a real server's host key before the first use."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from comfytunnel.config import TunnelConfig
from comfytunnel.demo.remote import Remote
from comfytunnel.tunnel.look import look
from tests.fakes.sshd import Sshd
from tests.tunnel.conftest import becomes, config_for, remote_far


async def test_a_host_key_is_new_then_known_then_changed(tmp_path: Path) -> None:
    known = tmp_path / "kh"
    async with Sshd(tmp_path) as sshd:
        tunnel = TunnelConfig(name="t", host="127.0.0.1", port=sshd.port, known_hosts=known, ssh_config=None)
        seen = await look(tunnel)
        assert (seen.status, seen.fingerprint) == ("new", sshd.host_key_fingerprint)
        assert seen.algorithm == "ssh-ed25519"
        assert not known.exists(), "a look records nothing"
        known.write_text(sshd.known_hosts_line + "\n")
        assert (await look(tunnel)).status == "known"
        revoked = f"@revoked * {sshd.known_hosts_line.partition(' ')[2]}"
        known.write_text(f"{sshd.known_hosts_line}\n{revoked}\n")
        seen = await look(tunnel)
        assert seen.status == "changed"
        assert "revoked" in seen.detail
        known.write_text(sshd.known_hosts_line + "\n")
        await sshd.change_host_key()
        changed = await look(tunnel)
        assert (changed.status, changed.fingerprint) == ("changed", sshd.host_key_fingerprint)
        assert sshd.accepted == 0, "a look logs in nowhere"
    gone = await look(tunnel)
    assert gone.status == "unreachable"
    assert "refused" in gone.detail


async def test_a_name_of_ssh_config_is_followed_as_ssh_does(tmp_path: Path) -> None:
    async with Sshd(tmp_path) as sshd:
        config = tmp_path / "config"
        config.write_text(f"Host vast\n  HostName 127.0.0.1\n  Port {sshd.port}\n")
        tunnel = TunnelConfig(name="t", host="vast", ssh_config=config, known_hosts=tmp_path / "kh")
        assert (await look(tunnel)).fingerprint == sshd.host_key_fingerprint


async def test_a_look_that_is_given_up_leaves_the_jump_host(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One login on the jump host would stay for each look, until the daemon ends."""
    monkeypatch.setattr(sys.modules[look.__module__], "LOOK_DEADLINE", 1.0)
    async with remote_far(tmp_path) as jump:
        assert isinstance(jump.server, Remote)
        remote = jump.server
        remote.ignore_forwards = True
        Path("~/.ssh/known_hosts").expanduser().write_text(f"{jump.known_hosts_line()}\n")
        ssh_config = tmp_path / "config"
        ssh_config.write_text(f"Host *\n  IdentityFile {jump.key}\n")
        settings = config_for(
            sshd, tmp_path, 1, ssh_config=ssh_config, proxy_jump=f"root@127.0.0.1:{jump.port}"
        )
        assert (await look(settings)).status == "unreachable"
        assert remote.connections_made == 1
        await becomes(lambda: remote.connections == 0, "nothing is left on the jump host")
