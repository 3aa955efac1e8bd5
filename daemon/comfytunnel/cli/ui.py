"""`comfytunnel ui`: where the web page is, and the browser that shows it. Nothing is started or changed: a page that is off is told how to switch on."""

from __future__ import annotations

from typing import Annotated

import typer

from comfytunnel import wire
from comfytunnel.cli import exits, render
from comfytunnel.cli.daemons import connect
from comfytunnel.cli.jobs import AsJson
from comfytunnel.cli.opening import hand_over
from comfytunnel.errors import Error, UsageError
from comfytunnel.printable import printable


def ui(
    no_open: Annotated[bool, typer.Option("--no-open", help="Only print the address.")] = False,
    as_json: AsJson = False,
) -> None:
    """Open the web page in the browser. Its address is printed in any case."""
    status = connect().status()
    url = _address(status)
    why = "" if no_open else hand_over(url)
    exits.tell(render.json_text({"url": url, "opened": not (no_open or why)}) if as_json else url)
    if why and not as_json:
        exits.say(f"No browser was opened: {why}. Open that address yourself.")


def _address(status: wire.Status) -> str:
    """`localhost` only where both of its addresses are ours: who binds one of them leaves the other to anybody."""
    if status.web is None:
        raise UsageError(
            "The web page is off.",
            hint=f'Write [web] and, below it, listen = "localhost:8000" into {printable(status.config)}, then: comfytunnel config reload',
            code="web_off",
        )
    if not status.web.listen:
        cause = status.web.cause
        raise Error(
            f"The web page is not there: {cause.message if cause else 'its port is not bound yet.'}",
            hint=cause.hint if cause else "Try again in a moment.",
            code=cause.code if cause else "not_ready",
        )
    hosts = [address.rpartition(":")[0] for address in status.web.listen]
    port = status.web.listen[0].rpartition(":")[2]
    host = "localhost" if {"127.0.0.1", "[::1]"} <= set(hosts) else hosts[0]
    return f"http://{host}:{port}/"
