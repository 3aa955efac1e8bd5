"""The command `events`, and `status --watch` where nobody looks: what happens, a line for each event."""

from __future__ import annotations

from comfytunnel import wire
from comfytunnel.cli import exits, render
from comfytunnel.cli.daemons import connect
from comfytunnel.cli.jobs import AsJson, now
from comfytunnel.client import Client
from comfytunnel.errors import NotRunningError
from comfytunnel.protocol import name_of


def events(as_json: AsJson = False) -> None:
    """Show what happens as it happens, until Ctrl-C. A line for each event."""
    follow_events(connect(), as_json)


def follow_events(client: Client, as_json: bool) -> None:
    """Until Ctrl-C; NotRunningError when the daemon stops."""
    told: dict[
        tuple[str, str], str
    ] = {}  # what was said last of each thing: not every change can be seen in a line
    try:
        for event in client.events():
            kind = name_of(event)
            if as_json:
                exits.tell(render.json_text({"event": kind, "data": event}))
                continue
            which = event.id if isinstance(event, wire.Job) else getattr(event, "name", "")
            text = render.event_text(event)
            if told.get((kind, which)) == text:
                continue
            told[kind, which] = text
            if isinstance(event, wire.Job) and event.status in wire.TERMINAL:
                del told[kind, which]
            exits.tell(f"{now().astimezone():%H:%M:%S}  {text}")
    except KeyboardInterrupt:
        return
    raise NotRunningError(
        "The daemon has stopped.", hint="`comfytunnel events` again shows what it does next."
    )
