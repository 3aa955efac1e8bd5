"""Which keys a login would offer: those of the files, and those of the agent. Nothing is signed, so no agent asks anybody.

For `doctor`. What is loaded is decided in target.py and by asyncssh, as for a login; here it is only looked at.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncssh

from comfytunnel.config import TunnelConfig
from comfytunnel.threads import in_thread
from comfytunnel.tunnel.keys import offered
from comfytunnel.tunnel.link import TEXT_LIMIT
from comfytunnel.tunnel.target import Target

AGENT_DEADLINE = (
    3.0  # seconds; listing its keys asks nobody, and a stuck agent must not hide the rest of the road
)


@dataclass(frozen=True, slots=True)
class Offer:
    """`keys`: in words, "" for none. `held`: how many of them the agent holds. `trouble`: why it cannot be asked, "" if it can or if
    there is none."""

    keys: str
    held: int
    trouble: str = ""


async def offer(config: TunnelConfig, target: Target) -> Offer:
    """What a login to `target` (surveyed with keys) would offer. Raises OSError or asyncssh.KeyImportError for a file that
    ssh_config names and that cannot be used."""
    files = await in_thread(lambda: _from_files(config, target), "keys")
    held: Sequence[asyncssh.SSHKeyPair] = ()
    trouble = ""
    if target.agent.socket is not None:
        try:
            async with asyncio.timeout(AGENT_DEADLINE):
                held = await _from_agent(target.agent.socket, target.options.agent_identities)
        except TimeoutError:
            trouble = f"it said nothing for {AGENT_DEADLINE:.0f} s"
        except (OSError, asyncssh.Error, ValueError) as error:
            said = error.strerror if isinstance(error, OSError) else str(error)
            trouble = (said or type(error).__name__)[:TEXT_LIMIT]
    return Offer(offered([*files, *held]), len(held), trouble)


def _from_files(config: TunnelConfig, target: Target) -> Sequence[asyncssh.SSHKeyPair]:
    options = asyncssh.SSHClientConnectionOptions(
        **target.way,
        username=config.user or (),
        client_keys=target.client_keys,
        ignore_encrypted=True,
        agent_path=None,
        known_hosts=None,
        x509_trusted_certs=None,
        x509_trusted_cert_paths=None,
    )
    return options.client_keys or ()


async def _from_agent(path: str, only: object) -> Sequence[asyncssh.SSHKeyPair]:
    async with asyncssh.connect_agent(str(Path(path).expanduser())) as agent:
        return await agent.get_keys(only)  # type: ignore[arg-type]  # asyncssh's own value, which it calls a sequence elsewhere
