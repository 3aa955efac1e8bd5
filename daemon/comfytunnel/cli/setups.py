"""The command `setup`: hands setup.py the person at the terminal, the look at the host key, and the running daemon."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from comfytunnel import paths
from comfytunnel.cli import exits, render
from comfytunnel.cli.asking import asker
from comfytunnel.cli.daemons import connect
from comfytunnel.errors import NotRunningError, UsageError
from comfytunnel.printable import printable

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON; ask nothing.")]


def setup(
    line: Annotated[
        list[str], typer.Argument(metavar="'ssh -p ...'", help="The ssh command, as Vast.ai shows it.")
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
    """Write the config from an ssh command line. A running daemon takes it up."""
    from comfytunnel.app import look_at_host_key
    from comfytunnel.cli.setup import STOPPED, HostKeyLook, run_setup
    from comfytunnel.config import TunnelConfig
    from comfytunnel.tunnel.state import Code

    starts = (Code.CONNECT_REFUSED, Code.CONNECT_TIMEOUT, Code.CONNECT_RESET)

    async def look(tunnel: TunnelConfig) -> HostKeyLook:
        seen = await look_at_host_key(tunnel)
        starting = seen.cause is not None and seen.cause.code in starts
        return HostKeyLook(seen.fingerprint, seen.algorithm, seen.status, seen.detail, starting)

    done = run_setup(
        _one_line(line),
        config_path=paths.config_path(),
        name=name,
        listen=listen,
        remote=remote,
        keep_forward=keep_forward,
        yes=yes,
        json=as_json,
        ask=asker(STOPPED),
        say=lambda text: exits.tell(printable(text, lines=True)),
        look=look,
        tell_daemon=_tell_daemon,
    )
    if as_json:
        exits.tell(render.json_text(done.as_json(), indent=2))
    if done.diff and not done.changed:  # shown, and not agreed to
        raise typer.Exit(exits.FAILED)


def _one_line(words: list[str]) -> str:
    """Return the line as it was typed; without quotes around it the shell has split it already."""
    if " " in words[0]:
        return " ".join([words[0], *map(shlex.quote, words[1:])])
    return words[0] if len(words) == 1 else shlex.join(words)


def _tell_daemon(path: Path) -> str | None:
    """Have the daemon read its config again if that is `path`. Returns the path it reads; None: no daemon answers."""
    try:
        client = connect()
        reads = client.status().config
        if Path(reads).resolve() == path.resolve():
            client.reload()
    except (NotRunningError, UsageError):  # nobody there, or a place where nobody can be
        return None
    return reads
