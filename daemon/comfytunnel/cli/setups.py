"""The command `setup`: hands setup.py the person at the terminal, the look at the host key, and the running daemon."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from comfytunnel import paths
from comfytunnel.cli import exits, render
from comfytunnel.client import Client
from comfytunnel.errors import NotRunningError
from comfytunnel.printable import printable

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON; ask nothing.")]


def setup(
    line: Annotated[
        str, typer.Argument(metavar="'ssh -p ...'", help="The ssh command, in quotes, as Vast.ai shows it.")
    ],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which tunnel; the only one, else `default`.")
    ] = None,
    listen: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where local tools connect to.")
    ] = None,
    remote: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where ComfyUI listens there.")
    ] = None,
    keep_forward: Annotated[
        bool, typer.Option("--keep-forward", help="Keep the -L of the line, whatever its port.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Agree to what is shown.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write the config from an ssh command line; a running daemon takes it up."""
    import asyncio  # 8 ms that no other command pays

    from comfytunnel.app import look_at_host_key
    from comfytunnel.cli.setup import HostKeyLook, run_setup
    from comfytunnel.config import TunnelConfig

    async def look(tunnel: TunnelConfig) -> HostKeyLook:
        seen = await look_at_host_key(tunnel)
        return HostKeyLook(seen.fingerprint, seen.algorithm, seen.status, seen.detail)

    done = asyncio.run(
        run_setup(
            line,
            config_path=paths.config_path(),
            name=name,
            listen=listen,
            remote=remote,
            keep_forward=keep_forward,
            yes=yes,
            json=as_json,
            ask=_asker(),
            say=lambda text: exits.tell(printable(text, lines=True)),
            look=look,
            tell_daemon=_tell_daemon,
        )
    )
    if as_json:
        exits.tell(render.json_text(done.as_json(), indent=2))


def _asker() -> Callable[[str], bool] | None:
    """Return how to ask a person, or None where there is none."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return None

    def ask(question: str) -> bool:
        sys.stdout.write(f"{printable(question)} [y/N] ")
        sys.stdout.flush()
        return sys.stdin.readline().strip().lower() in {"y", "yes"}

    return ask


def _tell_daemon() -> bool:
    try:
        Client().reload()
    except NotRunningError:
        return False
    return True
