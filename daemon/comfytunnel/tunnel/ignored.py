"""What the user's ssh_config says for a host and a tunnel of ours does not do: ssh would obey, asyncssh passes over it without a word.

For `doctor`. Host, Match and Include count as they do for a login, since asyncssh reads the file here too.
"""

from __future__ import annotations

import getpass
from typing import Any

from asyncssh.config import SSHClientConfig

from comfytunnel.config import TunnelConfig
from comfytunnel.sshparts import WHY_OPTION
from comfytunnel.tunnel.target import Target

_SHOWN = 60  # characters of a value
_INSTEAD = {
    "StrictHostKeyChecking": "host_key of our config decides",
    "UserKnownHostsFile": "known_hosts of our config counts",
    "GlobalKnownHostsFile": "known_hosts of our config counts",
    "KnownHostsCommand": "known_hosts of our config counts",
    "LocalForward": "listen and remote of our config count",
    "ServerAliveInterval": "keepalive_interval of our config counts",
    **{
        name: WHY_OPTION[name.lower()]
        for name in (
            "AddressFamily",
            "BindAddress",
            "BindInterface",
            "ControlMaster",
            "DynamicForward",
            "ExitOnForwardFailure",
            "ForwardAgent",
            "RemoteForward",
        )
    },
}
"""What a person may have written for this host's sake, and why it has no effect here."""


def ignored(config: TunnelConfig, target: Target) -> list[str]:
    """Each such option that is in effect for the host, with its value and what counts instead. Blocks on the disk.

    Raises OSError, or ValueError for a file that asyncssh cannot read.
    """
    found: Any = _Listening.load(
        None,
        target.way["config"],
        False,  # the four that asyncssh.connect() passes, too: reload, canonical, final
        False,
        False,
        getpass.getuser(),
        config.user or (),
        config.host,
        config.port or (),
    )
    return [f"{name} {found.heard[name]} ({why})" for name, why in _INSTEAD.items() if name in found.heard]


def _hear(config: _Listening, option: str, args: list[str]) -> None:
    config.heard.setdefault(option, " ".join(args)[:_SHOWN])
    args.clear()


class _Listening(SSHClientConfig):
    """asyncssh's reader with handlers for what it has none for, or what we overrule. `_handlers` is its own table of
    options, and private: tests/tunnel/test_ignored.py fails when it goes."""

    _handlers = SSHClientConfig._handlers | {name.lower(): (name, _hear) for name in _INSTEAD}

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.heard: dict[str, str] = {}
