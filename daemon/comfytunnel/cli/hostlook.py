"""What key does a host show, and is it in known_hosts? Only to be shown by `setup`: it is the tunnel that decides, at each connect.

Asks OpenSSH's own programs (`ssh -G`, `ssh-keyscan`, `ssh-keygen -F`), which whoever pastes an ssh command line has. They cost nothing
to start, and they read the user's ssh_config and hashed known_hosts as ssh does.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import subprocess

from comfytunnel.cli.setup import HostKeyLook
from comfytunnel.config import TunnelConfig

PREFERRED = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa")
SCAN_SECONDS = 10  # for ssh-keyscan to give up; a relay that is busy takes some
SSH_PORT = 22


async def look(tunnel: TunnelConfig) -> HostKeyLook:
    """Return the key that the tunnel's host shows now, beside known_hosts. Never raises for what the far side does."""
    try:
        found = await _ssh_config(tunnel)
        if any(found.get(name, "none") != "none" for name in ("proxyjump", "proxycommand")):
            return _unseen("it is behind another host, and seen when the tunnel connects")
        host, port = found.get("hostname", tunnel.host), found.get("port", str(tunnel.port or SSH_PORT))
        shown = _keys(await _output("ssh-keyscan", "-T", str(SCAN_SECONDS), "-p", port, "--", host))
        if not shown:
            return _unseen(f"{host} port {port} shows none")
        name = found.get("hostkeyalias") or (host if port == str(SSH_PORT) else f"[{host}]:{port}")
        known = _keys(await _output("ssh-keygen", "-F", name, "-f", str(tunnel.known_hosts)))
    except OSError as error:
        return _unseen(f"{error.filename or 'ssh'} cannot be started: {error.strerror}")
    agreed = [key for key in shown if key in known]
    algorithm, data = min(agreed or shown, key=_rank)
    return HostKeyLook(_fingerprint(data), algorithm, "known" if agreed else "changed" if known else "new")


async def _ssh_config(tunnel: TunnelConfig) -> dict[str, str]:
    """Return what ssh would use for this host, in ssh's own lower-case words."""
    args = [
        "-G",
        "-F",
        str(tunnel.ssh_config) if tunnel.ssh_config and tunnel.ssh_config.is_file() else "none",
    ]
    args += ["-p", str(tunnel.port)] if tunnel.port else []
    args += ["-o", f"HostKeyAlias={tunnel.host_key_alias}"] if tunnel.host_key_alias else []
    args += ["-o", f"ProxyJump={tunnel.proxy_jump}"] if tunnel.proxy_jump else []
    args += ["-o", f"ProxyCommand={tunnel.proxy_command}"] if tunnel.proxy_command else []
    lines = (await _output("ssh", *args, "--", tunnel.host)).splitlines()
    return {name: value for name, _, value in (line.partition(" ") for line in lines)}


async def _output(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        out, _ = await process.communicate()
    finally:
        if process.returncode is None:  # we were cancelled: the deadline is run_setup's
            process.kill()
            await process.wait()
    return out.decode("utf-8", "replace")


def _keys(text: str) -> list[tuple[str, bytes]]:
    """Return (algorithm, key) for each plain line of known_hosts; marked lines (@revoked, @cert-authority) are the tunnel's to judge."""
    keys = []
    for line in text.splitlines():
        match line.split():
            case [first, algorithm, data, *_] if not first.startswith(("#", "@")):
                try:
                    keys.append((algorithm, base64.b64decode(data, validate=True)))
                except binascii.Error:
                    continue  # no key: a comment, or a line that ssh would pass over as well
    return keys


def _rank(key: tuple[str, bytes]) -> int:
    return PREFERRED.index(key[0]) if key[0] in PREFERRED else len(PREFERRED)


def _fingerprint(data: bytes) -> str:
    return "SHA256:" + base64.b64encode(hashlib.sha256(data).digest()).decode("ascii").rstrip("=")


def _unseen(why: str) -> HostKeyLook:
    return HostKeyLook("", "", "unreachable", why)
