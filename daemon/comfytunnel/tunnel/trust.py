"""Trusting the key that a host shows now, at the word of a person who saw its fingerprint: the one way into known_hosts past "changed".

The host is looked at anew each time, and only the very key that was named is trusted. Which lines go and what stays in the file is
knownhosts.py's; whether a link is tried again is the machine's.
"""

from __future__ import annotations

import asyncio
from functools import partial

import asyncssh
import msgspec
import structlog

from comfytunnel import wire
from comfytunnel.config import TunnelConfig
from comfytunnel.errors import Error, RefusedError, StateError
from comfytunnel.threads import in_thread
from comfytunnel.tunnel import knownhosts
from comfytunnel.tunnel.hostkeys import fingerprint
from comfytunnel.tunnel.look import Look, look

WRITE_DEADLINE = 10.0  # seconds for a file of some kilobytes; more than knownhosts.replace() tries by itself
SHOWN = 20  # old keys that an answer lists; a host has three or four

log = structlog.get_logger(__name__)


async def trust(config: TunnelConfig, named: str | None) -> wire.Trust:
    """What is known and what is offered; with `named` (SHA256:...) that key is trusted from now on and the old ones are not.

    Raises Error: host_unreachable, host_key_mismatch (it shows another key than the one named), host_key_revoked, state_error.
    """
    seen = await look(config)
    if seen.key is None:
        cause = seen.cause
        raise Error(
            f"The host's key cannot be seen. {seen.detail}",
            hint=cause.hint if cause else "",
            code="host_unreachable",
            details={"cause": cause.code.value} if cause else {},
        )
    answer = _answer(config, seen, seen.key)
    if named is None:
        return answer
    if named != answer.offered.fingerprint:
        raise RefusedError(
            f"The host shows {answer.offered.fingerprint} and not the key that was named, {named}.",
            hint="Nothing was changed. Compare again: two looks at one host must not differ.",
            code="host_key_mismatch",
            details={"named": named, "offered": answer.offered, "known": answer.known},
        )
    if answer.status == "revoked":
        raise RefusedError(
            f"{seen.detail[:-1]}, so it is not trusted.",
            hint="Somebody has declared this key stolen. Only if you know better: remove the @revoked line.",
            code="host_key_revoked",
        )
    if answer.status == "trusted":
        return answer
    done = await _write(config, seen.name, seen.key)
    log.warning(
        "trusted",
        tunnel=config.name,
        host=seen.name,
        key=named,
        instead_of=[key.fingerprint for key in answer.known],
        backup=str(done.backup) if done.backup else None,
    )
    notes = [
        f"The pattern {pattern} in the file matches this host, too. It stays, and so does the trust in its key."
        for pattern in done.patterns[:SHOWN]
    ]
    return msgspec.structs.replace(
        answer,
        status="trusted",
        replaced=True,
        backup=str(done.backup) if done.backup else None,
        notes=notes,
    )


def _answer(config: TunnelConfig, seen: Look, key: asyncssh.SSHKey) -> wire.Trust:
    return wire.Trust(
        host=seen.name,
        known_hosts=str(config.known_hosts),
        status=seen.known.verdict(key),
        known=[_key(key) for key in seen.known.keys[:SHOWN]],
        offered=_key(key),
    )


def _key(key: asyncssh.SSHKey) -> wire.HostKey:
    return wire.HostKey(fingerprint(key), key.get_algorithm())


async def _write(config: TunnelConfig, name: str, key: asyncssh.SSHKey) -> knownhosts.Replaced:
    try:
        async with asyncio.timeout(WRITE_DEADLINE):
            return await in_thread(partial(knownhosts.replace, config.known_hosts, name, key), "known_hosts")
    except TimeoutError:
        raise StateError(
            f"{config.known_hosts} was not written in {WRITE_DEADLINE:.0f} s; it may be yet.",
            hint="A disk that does not answer?",
        ) from None
    except OSError as error:
        raise StateError(
            f"{config.known_hosts} cannot be changed: {error.strerror or error}.",
            hint="Nothing was changed. Check the permissions of the file and of its folder.",
        ) from error
