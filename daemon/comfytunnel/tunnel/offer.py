"""Which keys a login would offer: those of the files, and those of the agent. Nothing is signed, so no agent asks anybody.

For `doctor`. What is loaded is decided in target.py and by asyncssh, as for a login; here it is only looked at.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import asyncssh

from comfytunnel.config import TunnelConfig
from comfytunnel.tunnel.dial import in_thread
from comfytunnel.tunnel.link import TEXT_LIMIT
from comfytunnel.tunnel.target import Target

AGENT_DEADLINE = (
    3.0  # seconds; listing its keys asks nobody, and a stuck agent must not hide the rest of the road
)


@dataclass(frozen=True, slots=True)
class Offer:
    """`files` and `held`: keys as "ALGORITHM SHA256:... (PATH or COMMENT)", from files and from the agent. `trouble`: why the agent cannot be
    asked, "" if it can or if there is none."""

    files: tuple[str, ...]
    held: tuple[str, ...]
    trouble: str = ""

    @property
    def keys(self) -> tuple[str, ...]:
        return self.files + self.held


async def offer(config: TunnelConfig, target: Target) -> Offer:
    """What a login to `target` (surveyed with keys) would offer. Raises OSError or asyncssh.KeyImportError for a file that
    ssh_config names and that cannot be used."""
    files = await in_thread(lambda: _from_files(config, target), "keys")
    held: tuple[str, ...] = ()
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
    return Offer(files, held, trouble)


def _from_files(config: TunnelConfig, target: Target) -> tuple[str, ...]:
    if target.client_keys:
        loaded = [(path, pair) for path in target.client_keys for pair in asyncssh.load_keypairs([path])]
        return tuple(_words(pair, str(path)) for path, pair in loaded)
    options = asyncssh.SSHClientConnectionOptions(
        **target.way,
        username=config.user or (),
        client_keys=target.client_keys,
        agent_path=None,
        known_hosts=None,
        x509_trusted_certs=None,
        x509_trusted_cert_paths=None,
    )
    return tuple(_words(pair) for pair in options.client_keys or ())


async def _from_agent(path: str, only: object) -> tuple[str, ...]:
    async with asyncssh.connect_agent(str(Path(path).expanduser())) as agent:
        pairs = await agent.get_keys(only)  # type: ignore[arg-type]  # asyncssh's own value, which it calls a sequence elsewhere
    return tuple(_words(pair) for pair in pairs)


def _words(pair: asyncssh.SSHKeyPair, path: str = "") -> str:
    digest = b64encode(sha256(pair.key_public_data).digest()).decode().rstrip("=")
    name = path or (pair.get_comment_bytes() or b"").decode("utf-8", "replace")[:80]
    return f"{pair.key_algorithm.decode('ascii', 'replace')} SHA256:{digest}{f' ({name})' if name else ''}"
