"""Which tunnel a command means: the one that was named, or the only one."""

from __future__ import annotations

from typing import Annotated

import typer

from comfytunnel.cli.completing import tunnel_names
from comfytunnel.client import Client
from comfytunnel.errors import UsageError

TunnelName = Annotated[
    str | None,
    typer.Argument(
        metavar="[NAME]", help="The tunnel; needed if there are several.", autocompletion=tunnel_names
    ),
]


def one_tunnel(client: Client, name: str | None) -> str:
    """Return the tunnel's name. UsageError if it has to be said which."""
    if name is not None:
        return name
    names = list(client.tunnels())
    if len(names) == 1:
        return names[0]
    if not names:
        raise UsageError("No tunnel is configured.", hint="Run: comfytunnel setup 'ssh -p ...'")
    raise UsageError("There are several tunnels: which one?", hint=f"Name one of {', '.join(names)}.")
