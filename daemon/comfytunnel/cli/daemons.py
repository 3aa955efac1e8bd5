"""The daemon that a command talks to: the client of this user's control socket, made in one place, so that every command tells a mismatch of versions."""

from __future__ import annotations

from comfytunnel import __version__
from comfytunnel.cli import exits
from comfytunnel.client import Client

COMPLETION_PATIENCE = 0.5  # seconds; somebody has pressed TAB


def for_completion() -> Client:
    """Return a client that says nothing and does not wait."""
    return Client(timeout=COMPLETION_PATIENCE)


def connect() -> Client:
    """Return a client that says once, on stderr, if the daemon is of another version than this command."""
    warned = False

    def told(version: str) -> None:
        nonlocal warned
        if version != __version__ and not warned:
            warned = True
            exits.say(
                f"warning: the daemon is comfytunnel {version}, and this command is {__version__}: run `comfytunnel restart`."
            )

    return Client(told_version=told)
