"""The command `setup`: hands setup.py the person at the terminal, the look at the host key, and the running daemon."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from comfytunnel import paths
from comfytunnel.cli import exits, render
from comfytunnel.client import Client
from comfytunnel.errors import Error, NotRunningError, UsageError
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
    """Write the config from an ssh command line; a running daemon takes it up."""
    from comfytunnel.app import look_at_host_key
    from comfytunnel.cli.setup import HostKeyLook, run_setup
    from comfytunnel.config import TunnelConfig
    from comfytunnel.tunnel.state import MEANINGS, Code

    starts = (Code.CONNECT_REFUSED, Code.CONNECT_TIMEOUT, Code.CONNECT_RESET)
    words = tuple(MEANINGS[code].sentence.rstrip(".") for code in starts)

    async def look(tunnel: TunnelConfig) -> HostKeyLook:
        seen = await look_at_host_key(tunnel)
        return HostKeyLook(
            seen.fingerprint, seen.algorithm, seen.status, seen.detail, seen.detail.startswith(words)
        )

    done = run_setup(
        _one_line(line),
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
    if as_json:
        exits.tell(render.json_text(done.as_json(), indent=2))


def _one_line(words: list[str]) -> str:
    """Return the line as it was typed; without quotes around it the shell has split it already."""
    if " " in words[0]:
        return " ".join([words[0], *map(shlex.quote, words[1:])])
    return words[0] if len(words) == 1 else shlex.join(words)


def _asker() -> Callable[[str], bool] | None:
    """Return how to ask a person, or None where there is none."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return None
    from comfytunnel.cli.setup import STOPPED

    def ask(question: str) -> bool:
        sys.stdout.write(f"{printable(question)} [y/N] ")
        sys.stdout.flush()
        try:
            return sys.stdin.readline().strip().lower() in {"y", "yes"}
        except KeyboardInterrupt:
            sys.stdout.write("\n")
            raise Error(STOPPED) from None

    return ask


def _tell_daemon(path: Path) -> str | None:
    """Have the daemon read its config again if that is `path`. Returns the path it reads; None: no daemon answers."""
    try:
        client = Client()
        reads = client.status().config
        if Path(reads).resolve() == path.resolve():
            client.reload()
    except (NotRunningError, UsageError):  # nobody there, or a place where nobody can be
        return None
    return reads
