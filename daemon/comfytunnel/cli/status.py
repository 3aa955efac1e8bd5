"""The command `status`: the daemon is asked, screen.py lays it out; `--watch` goes on with it, drawn anew at each event and each second.

Nothing here knows typer, so that the command can be had without it (__main__.py). Only what is shown is asked for, and nothing but the status itself is needed: a daemon in trouble may not answer the rest.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from comfytunnel import wire
from comfytunnel.cli import exits, render
from comfytunnel.cli.daemons import connect
from comfytunnel.cli.screen import OUTAGES_SHOWN, Look, Seen, screen
from comfytunnel.client import Client
from comfytunnel.errors import Error, NotRunningError

HISTORY_SHOWN = 20  # outages of `--history`, so that they fit on a screen
RUNNING_ASKED = (
    20  # running jobs that are looked at; there is one for each tunnel, and a few that are being fetched
)
REDRAW = 1.0  # seconds between two frames, for the countdowns
LEAST = 0.1  # seconds between two frames while much happens
AGAIN = 0.5  # seconds between two attempts to hear a daemon that is away


def main(arguments: Sequence[str]) -> int:
    """The whole command for a process that was started for it alone, without the library of the other commands: half of its time. `arguments`: any of --json, --watch and --history.
    Returns the exit code."""
    as_json = "--json" in arguments
    try:
        with exits.output_may_fail():
            tell_status(as_json=as_json, watch="--watch" in arguments, history="--history" in arguments)
    except Error as error:
        with exits.output_may_fail():
            return exits.complain(error, as_json=as_json)
    except KeyboardInterrupt:
        return exits.FAILED
    except BrokenPipeError:  # `| head`: Python would complain at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exits.FAILED
    return exits.DONE


def tell_status(*, as_json: bool, watch: bool, history: bool) -> None:
    """Ask and tell, once or until the user has had enough."""
    client = connect()
    if history:
        outages = client.outages(limit=None if as_json else HISTORY_SHOWN)
        exits.tell(render.json_text(outages, indent=2) if as_json else render.history_text(outages))
    elif not watch:
        found = client.status()
        exits.tell(
            render.json_text(found, indent=2) if as_json else screen(_rest(client, found), _now(), look())
        )
    elif as_json or not sys.stdout.isatty():
        from comfytunnel.cli.events import follow_events

        follow_events(client, as_json)
    else:
        watch_status(client)


def _now() -> datetime:
    return datetime.now(UTC)


def _rest(client: Client, found: wire.Status) -> Seen:
    """What stands on the screen beside the status."""
    running: list[wire.Job] = []
    outages: list[wire.Outage] = []
    with contextlib.suppress(Error):  # a daemon in trouble says why in its status, and nothing else
        if found.jobs.running:
            running = list(client.jobs_page(status="running", limit=RUNNING_ASKED).jobs)
        outages = client.outages(limit=OUTAGES_SHOWN + len(found.tunnels))  # one of each may go on
    return Seen(found, running, outages)


def look(width: int | None = None) -> Look:
    """How stdout wants it: a pipe gets plain lines, a terminal its width, and colours unless NO_COLOR is set."""
    if not sys.stdout.isatty():
        return Look()
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return Look(width or shutil.get_terminal_size().columns, not plain)


def watch_status(client: Client) -> None:
    """Draw until the user has had enough; a daemon that goes away is shown, and waited for."""
    from comfytunnel.cli.fullscreen import Ended, FullScreen

    seen = _rest(client, client.status())  # no daemon at all is an error, not a screen
    away: tuple[float, NotRunningError] | None = None
    with contextlib.suppress(KeyboardInterrupt, Ended), FullScreen() as full:
        threading.Thread(target=_listen, args=(client, full.ring), daemon=True).start()
        while True:
            drawn = time.monotonic()
            size = full.size()
            full.draw(screen(seen, _now(), look(size.columns)) if away is None else _away(*away))
            if full.wait(REDRAW):
                return
            time.sleep(max(0.0, drawn + LEAST - time.monotonic()))
            try:
                seen, away = _rest(client, client.status()), None
            except NotRunningError as error:
                away = away or (time.monotonic(), error)


def _away(since: float, error: NotRunningError) -> str:
    gone = f"{time.monotonic() - since:.0f} s"
    return f"{error.message}\n  {error.hint}\n\nAway for {gone}. This goes on by itself when it is back."


def _listen(client: Client, ring: Callable[[], None]) -> None:
    """The work of a thread: ring at each event, over restarts of the daemon, until the process ends."""
    while True:
        with contextlib.suppress(Error):
            for _ in client.events():
                ring()
        ring()
        time.sleep(AGAIN)
