"""The command `wait`: until a tunnel can be used, for scripts that come after it. It starts nothing."""

from __future__ import annotations

import time
from typing import Annotated, Literal

import typer

from comfytunnel import wire
from comfytunnel.cli import exits, render
from comfytunnel.cli.completing import tunnel_names
from comfytunnel.cli.daemons import connect
from comfytunnel.cli.jobs import AsJson, Timeout
from comfytunnel.cli.words import choose, offering
from comfytunnel.client import Client
from comfytunnel.errors import Error, NotRunningError, TimedOutError

GOALS: tuple[Literal["up", "serving"], ...] = ("up", "serving")
NEEDS_YOU = frozenset({"down", "halted"})  # phases that no waiting ends
START_PATIENCE = 3.0  # seconds that `wait` gives a daemon to appear; it takes half a second
START_LOOK = 0.1  # seconds between two looks for it


def wait(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]", help="The tunnel; otherwise any of them.", autocompletion=tunnel_names
        ),
    ] = None,
    goal: Annotated[
        str,
        typer.Option(
            "--for",
            metavar="up|serving",
            help="The link, or ComfyUI behind it.",
            autocompletion=offering(GOALS),
        ),
    ] = "serving",
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Wait until a tunnel can be used. NAME, or any of them. A daemon that is only just starting is waited for, too.

    Ends at once (exit 1) when it can only wait for you: the tunnel is down on purpose or halted. With --timeout it waits even then.
    """
    until = choose(goal, GOALS, "state to wait for")
    latest: list[str] = []
    chosen: dict[str, wire.Tunnel] = {}

    def told(found: wire.Status) -> None:
        chosen.clear()
        chosen.update((key, tunnel) for key, tunnel in found.tunnels.items() if name in (None, key))
        lines = [render.tunnel_line(key, tunnel) for key, tunnel in chosen.items()]
        if timeout is None and all(tunnel.phase in NEEDS_YOU for tunnel in chosen.values()):
            why = found.cause.message if found.cause and not chosen else "; ".join(lines)
            raise Error(f"Nothing to wait for: {why or 'no tunnel is configured'}", hint=_way_out(chosen))
        if lines != latest:
            latest[:] = lines
            for line in lines:
                exits.say(line)

    client = connect()
    try:
        _find_daemon(client, START_PATIENCE if timeout is None else min(timeout, START_PATIENCE))
        found = client.wait(name, until=until, timeout=timeout, told=told)
    except TimedOutError as error:
        why = "; ".join(latest)
        raise TimedOutError(
            f"Not {goal} after {timeout:g} s{f': {why}' if why else '.'}",
            hint=_way_out(chosen) or "`comfytunnel status` says why.",
        ) from error
    if as_json:
        exits.tell(render.json_text(found, indent=2))
    else:
        told(found)


def _way_out(tunnels: dict[str, wire.Tunnel]) -> str:
    """Return what a person can do for the first of these tunnels, "" if nothing is known."""
    for name, tunnel in tunnels.items():
        if tunnel.phase == "down":
            return f"Bring it up: comfytunnel up {name}"
        if tunnel.cause is not None and tunnel.cause.hint:
            return tunnel.cause.hint
    return "" if tunnels else "Run: comfytunnel setup 'ssh -p ...'"


def _find_daemon(client: Client, seconds: float) -> None:
    """Wait for a daemon that somebody has only just started. NotRunningError after so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            client.health()
        except NotRunningError:
            if time.monotonic() > deadline:
                raise
            time.sleep(START_LOOK)
        else:
            return
