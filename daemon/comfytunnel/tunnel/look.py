"""A look at a host's key without logging in: for `setup`, which shows the fingerprint before the first use, for `trust` and for
`doctor`. Records nothing."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Literal

import asyncssh

from comfytunnel.config import TunnelConfig
from comfytunnel.tunnel.dial import Resolver, dial
from comfytunnel.tunnel.hostkeys import Known, fingerprint
from comfytunnel.tunnel.jumps import way_through
from comfytunnel.tunnel.link import LinkError
from comfytunnel.tunnel.state import Cause, Code
from comfytunnel.tunnel.target import Survey, Target
from comfytunnel.tunnel.witness import Witness, cause_of
from comfytunnel.words import HostKeyStatus

LOOK_DEADLINE = 10.0  # seconds; a person waits, and an instance that is still starting is no reason to

Status = Literal["known", "new", "changed", "unreachable"]
_STATUS: dict[HostKeyStatus, Status] = {
    "trusted": "known",
    "unknown": "new",
    "changed": "changed",
    "revoked": "changed",
}


@dataclass(frozen=True, slots=True)
class Look:
    """`status`: what known_hosts says of the key; a revoked one counts as changed. `key` is None, with the cause, if the host could
    not be reached. `name` is the host's in known_hosts, `known` what is there for it. `detail` says what is wrong, or is empty."""

    status: Status
    name: str = ""
    key: asyncssh.SSHKey | None = None
    known: Known = field(default_factory=Known)
    cause: Cause | None = None
    detail: str = ""

    @property
    def fingerprint(self) -> str:
        """SHA256:..., empty if the host could not be reached."""
        return fingerprint(self.key) if self.key else ""

    @property
    def algorithm(self) -> str:
        return self.key.get_algorithm() if self.key else ""


async def look(config: TunnelConfig) -> Look:
    """Ask the host for its key. Never raises for what the host or the road does; takes LOOK_DEADLINE at most."""
    try:
        async with asyncio.timeout(LOOK_DEADLINE):
            return await _look(config)
    except TimeoutError:
        return _unreachable(Cause(Code.CONNECT_TIMEOUT, f"nothing in {LOOK_DEADLINE:.0f} s."))
    except LinkError as error:
        return _unreachable(error.cause)
    except (OSError, ValueError) as error:
        return _unreachable(cause_of(error, Witness()))


async def _look(config: TunnelConfig) -> Look:
    target = await Survey(config, with_keys=False).target()
    sock = await dial(target.options.host, target.options.port, Resolver()) if target.direct else None
    try:
        key = await host_key(target, sock)
    finally:
        if sock is not None:
            sock.close()
    verdict = target.known.verdict(key)
    detail = f"The key is marked as revoked in {config.known_hosts}." if verdict == "revoked" else ""
    return Look(_STATUS[verdict], target.name, key, target.known, detail=detail)


def _unreachable(cause: Cause) -> Look:
    return Look("unreachable", cause=cause, detail=cause.message)


async def host_key(target: Target, sock: socket.socket | None) -> asyncssh.SSHKey:
    """The key that the host shows, over `sock` or over a way of asyncssh's own; the connection is closed then. The caller sets the
    deadline. Raises LinkError or OSError."""
    try:
        async with AsyncExitStack() as jumps:
            way = await way_through(target, jumps)
            key = await asyncssh.get_server_host_key(**way, sock=sock, server_host_key_algs=target.algorithms)
    except asyncssh.Error as error:
        raise LinkError(cause_of(error, Witness())) from error
    if key is None:
        raise LinkError(Cause(Code.PROTOCOL_ERROR, "it showed no host key."))
    return key
