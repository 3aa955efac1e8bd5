"""The command `trust`: shows the keys that are known and the one that is offered, asks, and has the daemon trust that very one.

The file is never touched from here: what happens to known_hosts is the daemon's, through its socket, as for any other program.
"""

from __future__ import annotations

import re
from typing import Annotated

import msgspec
import typer

from comfytunnel import wire
from comfytunnel.cli import exits, render
from comfytunnel.cli.asking import asker
from comfytunnel.cli.daemons import connect
from comfytunnel.cli.tunnels import TunnelName, one_tunnel
from comfytunnel.errors import Error, RefusedError, UsageError
from comfytunnel.printable import printable

STOPPED = "Stopped; nothing was changed."
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON; ask nothing.")]


def trust(
    name: TunnelName = None,
    fingerprint: Annotated[
        str | None,
        typer.Option(metavar="SHA256:...", help="Trust this key, if it is the one that the host shows."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Trust whatever key the host shows now.")] = False,
    as_json: AsJson = False,
) -> None:
    """Trust the key that the host shows now. The known and the present one are shown first, and you are asked.

    Exit codes: 0 trusted now or before, 1 not agreed or the host cannot be reached, 5 it shows another key or a revoked one.
    """
    if fingerprint is not None and not re.fullmatch(r"SHA256:[A-Za-z0-9+/]{43}", fingerprint):
        raise UsageError(
            f"{fingerprint!r} is not a fingerprint as ssh shows it.",
            hint="It looks like SHA256:..., 43 characters.",
        )
    client = connect()
    chosen = one_tunnel(client, name)
    seen = None if fingerprint else client.trust(chosen)
    if seen is not None:
        if not as_json:
            _show(chosen, seen)
        if seen.status == "revoked":
            raise RefusedError(
                f"This key is marked as revoked in {seen.known_hosts}, so it is not trusted.",
                code="host_key_revoked",
            )
        if seen.status != "trusted":
            _agree(seen, yes, as_json)
        fingerprint = seen.offered.fingerprint
    done = client.trust(chosen, fingerprint)
    if as_json:
        exits.tell(render.json_text(done, indent=2))
        return
    if seen is None:
        _show(chosen, done)
    exits.tell("\n".join(_outcome(done)))
    if done.replaced:
        exits.tell(
            printable(f"tunnel {chosen}: {client.tunnel(chosen).phase}")
        )  # its cause may be that of before


def _agree(seen: wire.Trust, yes: bool, as_json: bool) -> None:
    """Return if the person agrees to the key that was shown."""
    if yes:
        return
    ask = None if as_json else asker(STOPPED)
    if ask is None:
        raise UsageError(
            f"The host shows {seen.offered.fingerprint}; nobody is there to agree to it.",
            hint=f"If it is the right one: --fingerprint {seen.offered.fingerprint}",
            details={"seen": msgspec.to_builtins(seen)},
        )
    old = "instead of the old one" if len(seen.known) == 1 else "instead of the old ones"
    if not ask(f"Trust the key shown now{f' {old}' if seen.known else ''}?"):
        raise Error(STOPPED)


def _show(name: str, seen: wire.Trust) -> None:
    known = [f"  {key.fingerprint} ({key.algorithm})" for key in seen.known] or ["  nothing"]
    lines = [
        f"tunnel {name}, host {seen.host}",
        f"known in {seen.known_hosts}" + (", until now:" if seen.replaced else ":"),
        *known,
        "shown by the host now:",
        f"  {seen.offered.fingerprint} ({seen.offered.algorithm})",
    ]
    if seen.status == "changed":
        lines.append(
            "Expected when a new instance has taken over the port; otherwise somebody may be in between."
        )
    exits.tell("\n".join(map(printable, lines)))


def _outcome(done: wire.Trust) -> list[str]:
    if not done.replaced:
        return ["Already trusted; nothing was changed."]
    kept = f" The file as it was: {done.backup}" if done.backup else ""
    return [printable(line) for line in (f"Trusted from now on.{kept}", *done.notes)]
