"""What ssh_config says for a host and has no effect here is named, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest

from comfytunnel.config import TunnelConfig
from comfytunnel.tunnel.ignored import ignored
from comfytunnel.tunnel.target import Survey


async def names(folder: Path, text: str, user: str | None = None) -> list[str]:
    (folder / "config").write_text(text)
    config = TunnelConfig(
        name="t", host="vast", ssh_config=folder / "config", known_hosts=folder / "kh", user=user
    )
    found = ignored(config, await Survey(config, with_keys=False).target())
    assert all(line.endswith(")") for line in found), "each says what counts instead"
    return [line.partition(" (")[0] for line in found]


@pytest.mark.parametrize(
    "option",
    [
        "StrictHostKeyChecking no",
        "LocalForward 8080 localhost:8080",
        "ExitOnForwardFailure yes",
        "ControlMaster auto",
        "KnownHostsCommand /usr/bin/keys %H",
        "UserKnownHostsFile /dev/null",
        "ServerAliveInterval 60",
        "ForwardAgent yes",
        "RemoteForward 1 localhost:1",
    ],
)
async def test_an_option_without_effect_is_named_with_its_value(tmp_path: Path, option: str) -> None:
    assert await names(tmp_path, f"Host vast\n  {option}\n") == [option]


async def test_what_is_honoured_or_for_another_host_is_not_named(tmp_path: Path) -> None:
    text = "Host vast\n  HostName 127.0.0.1\n  Port 2222\n  User me\n  IdentitiesOnly yes\nHost other\n  ControlMaster auto\n"
    assert await names(tmp_path, text) == []


async def test_match_and_include_and_the_first_value_count_as_ssh_has_it(tmp_path: Path) -> None:
    (tmp_path / "more").write_text("ControlMaster auto\n")
    text = (
        f"Match user root\n  StrictHostKeyChecking no\n  StrictHostKeyChecking yes\n  Include {tmp_path}/more\n"
        "Match user somebody\n  LocalForward 1 localhost:1\n"
    )
    assert await names(tmp_path, text, user="root") == ["StrictHostKeyChecking no", "ControlMaster auto"]


async def test_without_an_ssh_config_nothing_is_ignored(tmp_path: Path) -> None:
    config = TunnelConfig(name="t", host="vast", ssh_config=None, known_hosts=tmp_path / "kh")
    assert ignored(config, await Survey(config, with_keys=False).target()) == []
