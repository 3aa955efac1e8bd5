"""Where a link goes, as ssh_config, known_hosts and the environment have it: read once for each try, the same for a link and a look.

All that reading blocks, and may block for ever (`Match exec`, a FIFO, a dead network disk): it has a thread of its own that nobody
waits for at exit, one reading in flight, and a deadline. Nothing is sent here.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import asyncssh

from comfytunnel.config import TunnelConfig
from comfytunnel.threads import in_thread
from comfytunnel.tunnel import keys
from comfytunnel.tunnel.hostkeys import HostKeys, Known, name_of, unreadable
from comfytunnel.tunnel.link import LinkError
from comfytunnel.tunnel.state import Cause, Code
from comfytunnel.words import AgentSource

READ_DEADLINE = 10.0  # seconds

_UNNAMED = object()


@dataclass(frozen=True, slots=True)
class Agent:
    """`socket`: None if there is none. `source`: who named it."""

    socket: str | None = None
    source: AgentSource = ""


@dataclass(frozen=True, slots=True)
class Target:
    """`way` is what asyncssh's functions need to get there, in their words; `options` what they make of it."""

    way: dict[str, Any]
    options: asyncssh.SSHClientConnectionOptions
    name: str  # in known_hosts
    known: Known
    agent: Agent
    client_keys: list[str] | tuple[()] | None = None  # as asyncssh takes them; () is what ssh would try

    @property
    def direct(self) -> bool:
        """Whether we dial the host ourselves: no jump host, no command."""
        return not (self.options.tunnel or self.options.proxy_command)

    @property
    def algorithms(self) -> str | tuple[()]:
        """`server_host_key_algs`: a server with several keys is asked for the known one first."""
        return f"^{','.join(self.known.algorithms)}" if self.known.algorithms else ()


class Survey:
    """Reads the target of one config. `with_keys`: the private keys too."""

    def __init__(self, config: TunnelConfig, *, with_keys: bool) -> None:
        self._read = partial(_read, config, with_keys=with_keys)
        self._flight: asyncio.Future[Target] | None = None

    async def target(self) -> Target:
        """Takes READ_DEADLINE at most. Raises LinkError with the cause, or what asyncssh has against the settings."""
        if self._flight is None or self._flight.done():
            self._flight = in_thread(self._read, "survey")
        try:
            async with asyncio.timeout(READ_DEADLINE):
                return await asyncio.shield(self._flight)
        except TimeoutError:
            raise LinkError(
                Cause(
                    Code.KEY_UNREADABLE,
                    f"ssh_config, known_hosts and the keys could not be read in {READ_DEADLINE:.0f} s.",
                    "A `Match exec` that hangs, a named pipe, or a disk that does not answer?",
                )
            ) from None


def _read(config: TunnelConfig, *, with_keys: bool) -> Target:
    way: dict[str, Any] = {
        "host": config.host,
        "port": config.port or (),
        "config": [str(config.ssh_config)] if config.ssh_config and config.ssh_config.is_file() else None,
        "tunnel": config.proxy_jump or (),
        "proxy_command": config.proxy_command or (),
    }
    options = asyncssh.SSHClientConnectionOptions(
        **way,
        username=config.user or (),
        host_key_alias=config.host_key_alias or (),
        client_keys=None,
        known_hosts=None,
        x509_trusted_certs=None,
        x509_trusted_cert_paths=None,
    )
    name = name_of(options.host, options.port, options.host_key_alias)
    try:
        known = HostKeys(config.known_hosts, config.host_key, config.name).known(name)
    except OSError as error:
        raise LinkError(unreadable(config.known_hosts, error)) from error
    agent = _agent(config, options)
    if not with_keys:
        return Target(way, options, name, known, agent)
    return Target(way, options, name, known, agent, _client_keys(config, options, agent))


def _client_keys(
    config: TunnelConfig, options: asyncssh.SSHClientConnectionOptions, agent: Agent
) -> list[str] | tuple[()] | None:
    if config.identity_files:
        files = keys.check(config.identity_files, has_agent=agent.socket is not None)
        return files or (None if agent.socket is None else ())
    named: Any = options.config.get("IdentityFile", ())
    found = keys.there(named)
    return found if len(found) < len(named) else ()  # an empty list is the agent and the default names


def _agent(config: TunnelConfig, options: asyncssh.SSHClientConnectionOptions) -> Agent:
    """The config's, else what ssh would use."""
    if config.agent:
        return Agent(None if config.agent == "none" else str(Path(config.agent).expanduser()), "config")
    named = options.config.get("IdentityAgent", _UNNAMED)
    if named is not _UNNAMED:
        return Agent(None if named in (None, "", "none") else str(named), "ssh_config")
    found = os.environ.get("SSH_AUTH_SOCK")
    return Agent(found, "environment") if found else Agent()
