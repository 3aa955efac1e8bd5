"""Which keys a login would offer, from real files and a real agent; nobody is asked for a signature."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import asyncssh
import pytest

from comfytunnel.config import TunnelConfig
from comfytunnel.tunnel import offer as offering
from comfytunnel.tunnel.offer import Offer, offer
from comfytunnel.tunnel.target import Survey
from tests.tunnel.conftest import idle, service
from tests.tunnel.test_keys import agent_with, encrypted_key, write_key


async def of(config: TunnelConfig) -> Offer:
    return await offer(config, await Survey(config, with_keys=True).target())


def tunnel(folder: Path, *files: Path, agent: str = "") -> TunnelConfig:
    return TunnelConfig(
        name="t", host="h", ssh_config=None, known_hosts=folder / "kh", identity_files=files, agent=agent
    )


async def test_named_files_are_told_with_fingerprint_and_path(tmp_path: Path) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519", comment="somebody's")
    path = write_key(tmp_path / "mine", key.export_private_key())
    found = await of(tunnel(tmp_path, path))
    assert found == Offer(f"{key.get_fingerprint()} ({path})", 0)


async def test_without_named_files_the_default_ones_of_ssh_are_found(tmp_path: Path) -> None:
    config = tunnel(tmp_path)
    assert await of(config) == Offer("", 0), "there is no key at all in this home"
    key = asyncssh.generate_private_key("ssh-ed25519")
    write_key(Path("~/.ssh/id_ed25519").expanduser(), key.export_private_key())
    assert key.get_fingerprint() in (await of(config)).keys


async def test_keys_of_the_agent_are_counted_and_stand_for_an_encrypted_file(
    tmp_path: Path, short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [asyncssh.generate_private_key("ssh-ed25519", comment=f"key {number}") for number in range(2)]
    path = encrypted_key(tmp_path / "encrypted", keys[0])
    async with agent_with(*keys, folder=short_path) as agent:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(agent))
        found = await of(tunnel(tmp_path, path))
        assert found.held == 2
        assert all(key.get_fingerprint() in found.keys for key in keys)
        assert (await of(replace(tunnel(tmp_path), agent="none"))).held == 0


async def test_an_agent_that_is_gone_or_silent_is_said_and_hides_no_file(
    tmp_path: Path, short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    path = write_key(tmp_path / "mine", key.export_private_key())
    gone = await of(tunnel(tmp_path, path, agent=str(short_path / "gone")))
    assert "No such file" in gone.trouble
    assert key.get_fingerprint() in gone.keys
    monkeypatch.setattr(offering, "AGENT_DEADLINE", 0.2)
    async with service(idle, short_path / "silent"):
        silent = await of(tunnel(tmp_path, path, agent=str(short_path / "silent")))
    assert "said nothing" in silent.trouble
    assert key.get_fingerprint() in silent.keys
