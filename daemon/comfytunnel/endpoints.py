"""Where a tunnel listens and where it leads: a TCP port or a Unix socket, and that everything of ours listens on loopback.

Text in, values out; nothing is bound, looked up or connected here.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

from comfytunnel.errors import UsageError
from comfytunnel.paths import check_socket_path
from comfytunnel.sshparts import Forward, check_host, parse_port


@dataclass(frozen=True, slots=True)
class Tcp:
    """A port on a host; `host` is an address or a name, without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Unix:
    """The path of a Unix socket."""

    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"


Endpoint = Tcp | Unix
LOOPBACKS = ("127.0.0.1", "::1")  # what `localhost` means in `listen`, as it does for ssh -L


def both_loopbacks(port: int) -> tuple[Endpoint, ...]:
    return tuple(Tcp(host, port) for host in LOOPBACKS)


def parse_endpoint(text: str) -> Endpoint:
    """Read "HOST:PORT", "[V6]:PORT" or "unix:PATH"; UsageError if it is neither."""
    if text.startswith("unix:"):
        return Unix(absolute_path(text.removeprefix("unix:")))
    match = re.fullmatch(r"(?:\[([^\]]*)\]|([^:\[\]]*)):(.*)", text)
    if match is None:
        hint = f"Write localhost:{text}" if text.isdigit() else "For example: localhost:18188"
        raise UsageError(f"{text!r} is not HOST:PORT or unix:PATH.", hint=hint)
    return Tcp(check_host(match[1] or match[2]), parse_port(match[3], text))


def parse_listen(text: str) -> tuple[Endpoint, ...]:
    """Read an endpoint to listen on: `localhost` is both loopback addresses, anything else must be one (else UsageError)."""
    endpoint = parse_endpoint(text)
    if isinstance(endpoint, Unix):
        check_socket_path(endpoint.path)
        return (endpoint,)
    return _on_loopback(endpoint)


def _on_loopback(endpoint: Tcp) -> tuple[Endpoint, ...]:
    if endpoint.host.lower() == "localhost":
        return both_loopbacks(endpoint.port)
    try:
        address = ipaddress.ip_address(endpoint.host)
        loopback = address.is_loopback if address.version == 4 else str(address) == "::1"
    except ValueError:
        loopback = False
    if not loopback:
        raise UsageError(
            f"{endpoint} is not a loopback address.",
            hint=f"ComfyUI has no password, so everything is bound to loopback: localhost:{endpoint.port}",
        )
    return (Tcp(str(address), endpoint.port),)


def forward_endpoints(forward: Forward) -> tuple[tuple[Endpoint, ...], Endpoint]:
    """Return (listen, remote) of an -L; UsageError if it would listen elsewhere than on loopback."""
    listen: tuple[Endpoint, ...]
    if forward.listen_port is None:
        listen = parse_listen(f"unix:{forward.listen_path}")
    else:
        listen = _on_loopback(Tcp(forward.listen_host or "localhost", forward.listen_port))
    if forward.remote_port is None:
        return listen, Unix(Path(forward.remote_path or ""))
    return listen, Tcp(forward.remote_host or "localhost", forward.remote_port)


def absolute_path(text: str) -> Path:
    """Return the path with `~` expanded; UsageError if it is relative: the daemon has no folder of its own to start from."""
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:  # `~name` of nobody, or no HOME
        raise UsageError(f"{text!r}: {error}") from None
    if not path.is_absolute():
        raise UsageError(f"{text!r} is a relative path.", hint="Begin it with ~/ or with /.")
    return path
