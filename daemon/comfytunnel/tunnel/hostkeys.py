"""Who the far side is: host keys as known_hosts holds them, recorded on first use, "changed" told apart from "unknown".

Follows OpenSSH: a host on another port than 22 is `[host]:port`; a line for the bare host counts only while there is none for
that, and only if the key is the same. Names have no case, addresses are not looked up (CheckHostIP no), an alias stands alone
without a port. Lines that cannot be read are passed over. What is written to the file is knownhosts.py's. No network here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncssh

from comfytunnel.tunnel.knownhosts import append, line_of
from comfytunnel.tunnel.state import Cause, Code
from comfytunnel.words import HostKeyStatus

SSH_PORT = 22
_PLAIN_NAMES = re.compile(r"^(\s*(?:@\S+\s+)?)([^\s@#|]\S*)")  # a line's host field, unless it is hashed


@dataclass(frozen=True, slots=True)
class Known:
    """What known_hosts says about one name. `bare`: keys of the same host without the port."""

    keys: tuple[asyncssh.SSHKey, ...] = ()
    bare: tuple[asyncssh.SSHKey, ...] = ()
    authorities: tuple[asyncssh.SSHKey, ...] = ()
    revoked: tuple[asyncssh.SSHKey, ...] = ()

    @property
    def trusted(self) -> tuple[asyncssh.SSHKey, ...]:
        return self.keys or self.bare

    @property
    def algorithms(self) -> tuple[str, ...]:
        """Signature algorithms of the trusted keys: to be offered first, or a server with several keys shows another."""
        names = [name.decode("ascii") for key in self.trusted for name in key.sig_algorithms]
        return tuple(dict.fromkeys(names))

    def verdict(self, key: asyncssh.SSHKey) -> HostKeyStatus:
        """What a server that shows `key` is. "unknown" too if only the bare host has keys, and others: it is another server."""
        if key in self.revoked:
            return "revoked"
        if key in self.trusted:
            return "trusted"
        return "changed" if self.keys else "unknown"


class HostKeys:
    """One known_hosts file and one policy ("accept-new", "ask", "strict"), for the tunnel that hints name. The file is read anew for
    each question."""

    def __init__(self, path: Path, policy: str, tunnel: str) -> None:
        self._path = path
        self._policy = policy
        self._command = f"`comfytunnel trust {tunnel}`"

    def known(self, name: str) -> Known:
        """Look `name` up (see `name_of`). A missing file knows nothing; an unreadable one raises OSError."""
        entries = asyncssh.known_hosts.SSHKnownHosts()
        try:
            text = self._path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return Known()
        for line in text.splitlines():
            try:
                entries.load(_PLAIN_NAMES.sub(lambda found: found[1] + found[2].lower(), line))
            except ValueError:
                continue  # not a known_hosts line of any kind; ssh passes over it too
        keys, authorities, revoked = entries.match(name, "", None)[:3]
        host = name[1:].partition("]:")[0] if name.startswith("[") else ""
        bare, more_authorities, more_revoked = entries.match(host, "", None)[:3] if host else ((), (), ())
        return Known(tuple(keys), tuple(bare), (*authorities, *more_authorities), (*revoked, *more_revoked))

    def judge(self, name: str, key: asyncssh.SSHKey) -> Cause | None:
        """None if `key` may be trusted for `name`, after recording it where the policy says so; else why not."""
        try:
            known = self.known(name)
        except OSError as error:
            return unreadable(self._path, error)
        offered = fingerprint(key)
        verdict = known.verdict(key)
        if verdict == "trusted":
            return None
        if verdict == "revoked":
            return Cause(
                Code.HOST_KEY_CHANGED,
                f"the key {offered} is marked as revoked in {self._path}.",
                "Somebody has declared this key stolen. Only if you know better: remove the @revoked line.",
            )
        if verdict == "changed":
            return Cause(
                Code.HOST_KEY_CHANGED,
                f"known for {name}: {_list(known.keys)}. offered: {offered}.",
                "Expected when a new instance has taken over the port; otherwise somebody may be in between. "
                f"{self._command} shows both and asks.",
            )
        if self._policy != "accept-new":
            return Cause(
                Code.HOST_KEY_UNKNOWN,
                f'{name} offered {offered}; host_key = "{self._policy}" in the config.',
                f"{self._command} shows it and asks; compare the fingerprint with the console's.",
            )
        try:
            append(self._path, line_of(name, key))
        except OSError as error:
            return Cause(
                Code.HOST_KEY_UNKNOWN,
                f"{offered} could not be recorded in {self._path}: {error.strerror}.",
                "Make the file writable: a key that is not recorded could not be compared the next time.",
            )
        return None


def name_of(host: str, port: int, alias: str | None = None) -> str:
    """The name under which known_hosts holds a host (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT)."""
    if alias:
        return alias.lower()  # as ssh does, and not as asyncssh
    return host.lower() if port == SSH_PORT else f"[{host.lower()}]:{port}"


def unreadable(path: Path, error: OSError) -> Cause:
    """A known_hosts that cannot be read trusts nobody, and nobody's key could be compared with it."""
    return Cause(
        Code.HOST_KEY_UNKNOWN,
        f"{path} cannot be read: {error.strerror}.",
        "Make it a file that you may read, or name another one as `known_hosts`.",
    )


def fingerprint(key: asyncssh.SSHKey) -> str:
    """SHA256:..., as ssh shows it."""
    return key.get_fingerprint()


def _list(keys: Sequence[asyncssh.SSHKey]) -> str:
    return ", ".join(fingerprint(key) for key in keys)
