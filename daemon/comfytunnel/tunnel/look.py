"""A look at a host's key without logging in: for `setup`, which shows the fingerprint before the first use. Records nothing."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Literal

import asyncssh

from comfytunnel.config import TunnelConfig
from comfytunnel.tunnel.dial import Resolver, dial
from comfytunnel.tunnel.hostkeys import Verdict, fingerprint
from comfytunnel.tunnel.link import LinkError
from comfytunnel.tunnel.target import Survey

LOOK_DEADLINE = 10.0  # seconds; a person waits, and an instance that is still starting is no reason to

Status = Literal["known", "new", "changed", "unreachable"]
_STATUS: dict[Verdict, Status] = {
    "trusted": "known",
    "unknown": "new",
    "changed": "changed",
    "revoked": "changed",
}


@dataclass(frozen=True, slots=True)
class Look:
    """`status`: what known_hosts says of the key; a revoked one counts as changed. `fingerprint` is SHA256:..., empty if the host
    could not be reached. `detail` says why that is, or that the key is revoked."""

    status: Status
    fingerprint: str = ""
    algorithm: str = ""
    detail: str = ""


async def look(config: TunnelConfig) -> Look:
    """Ask the host for its key. Never raises for what the host or the road does; takes LOOK_DEADLINE at most."""
    try:
        async with asyncio.timeout(LOOK_DEADLINE):
            return await _look(config)
    except TimeoutError:
        return Look("unreachable", detail="The host did not answer in time.")
    except LinkError as error:
        return Look("unreachable", detail=error.cause.message)
    except (OSError, asyncssh.Error, ValueError) as error:
        return Look("unreachable", detail=str(error))


async def _look(config: TunnelConfig) -> Look:
    target = await Survey(config, with_keys=False).target()
    sock = await dial(target.options.host, target.options.port, Resolver()) if target.direct else None
    try:
        key = await asyncssh.get_server_host_key(
            **target.way, sock=sock, server_host_key_algs=target.algorithms
        )
    finally:
        if sock is not None:
            sock.close()
    if key is None:
        return Look("unreachable", detail="The host showed no key.")
    verdict = target.known.verdict(key)
    detail = f"The key is marked as revoked in {config.known_hosts}." if verdict == "revoked" else ""
    return Look(_STATUS[verdict], fingerprint(key), key.get_algorithm(), detail)
