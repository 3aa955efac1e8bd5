"""Where a client finds the daemon: a Unix socket, or the loopback port of `[web] listen`. Pure, but for reading where the socket lies.

Only loopback: the daemon listens nowhere else, and a token must not go over a network in the clear.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from comfytunnel import paths
from comfytunnel.errors import UsageError


@dataclass(frozen=True, slots=True)
class Address:
    """`socket` or else `host` and `port`; `token` is sent as a bearer's."""

    socket: Path | None
    host: str = "localhost"
    port: int = 80
    token: str = ""

    def __str__(self) -> str:
        return str(self.socket) if self.socket is not None else self.base_url

    @property
    def base_url(self) -> str:
        """What paths are added to. Over the socket the daemon builds its own URLs from this name."""
        if self.socket is not None:
            return "http://localhost"
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}


def address_of(socket_path: Path | str | None, base_url: str | None, token: str | None) -> Address:
    """Return where the daemon is: at `base_url` (http://localhost:8000, with the `token` of the config if it has one), else at `socket_path`,
    else at this user's socket. UsageError for both, for a token without a URL, and for a URL that is not http on loopback."""
    if base_url is None:
        if token:
            raise UsageError("A token is for base_url; the Unix socket asks for none.")
        return Address(Path(socket_path) if socket_path is not None else paths.socket_path())
    if socket_path is not None:
        raise UsageError("Give socket_path or base_url, not both.")
    try:
        found = urlsplit(base_url)
        port, host = found.port or 80, found.hostname or ""
    except ValueError as error:
        raise UsageError(f"{base_url!r} is no URL: {error}.") from error
    if found.scheme != "http" or found.path.strip("/") or found.query or found.username is not None:
        raise UsageError(f"{base_url!r} is not of the form http://localhost:8000.")
    if host != "localhost" and not _is_loopback(host):
        raise UsageError(
            f"{base_url!r} is not on this machine.",
            hint="The daemon listens on loopback only: http://localhost:PORT, with the port of `[web] listen`.",
        )
    return Address(None, host, port, token or "")


def check(address: Address) -> None:
    """UsageError when the kernel could not have such a socket."""
    if address.socket is not None:
        paths.check_socket_path(Path(os.fspath(address.socket)))


def _is_loopback(host: str) -> bool:
    import ipaddress  # the CLI needs it never, and starts 3 ms earlier

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
