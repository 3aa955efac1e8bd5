"""`comfytunnel daemon`, without the library of the other commands: a process that stays for months does not carry it (typer and what
it imports are 10 MB), and answers a tenth of a second earlier."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from comfytunnel import paths
from comfytunnel.cli import exits
from comfytunnel.errors import Error

CONFIG = "The config; default: $COMFYTUNNEL_CONFIG, else the user's."
SOCKET = "The control socket; default: $COMFYTUNNEL_SOCKET, else the user's."
STATE_DIR = "Where jobs are kept; default: $COMFYTUNNEL_STATE_DIR, else the user's."


def main(arguments: Sequence[str]) -> int:
    """Run the daemon in the foreground; returns the exit code. Exits by itself (2) for arguments that it does not know."""
    parser = argparse.ArgumentParser(
        prog="comfytunnel daemon",
        description="Run the daemon in the foreground. It holds the tunnels, runs the jobs and serves the control socket.",
        epilog="Example: comfytunnel daemon --config ./config.toml",
        allow_abbrev=False,
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help=CONFIG)
    parser.add_argument("--socket", type=Path, metavar="PATH", help=SOCKET)
    parser.add_argument("--state-dir", type=Path, metavar="DIR", help=STATE_DIR)
    chosen = parser.parse_args(arguments)
    # structlog imports rich where it is there, for traces in colour that we do not use: 3 MB more. None is Python's word for "not found".
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type]  # see importlib's documentation of sys.modules
    from comfytunnel.app import run_daemon  # after the arguments, so that --help is quick

    try:
        return run_daemon(
            (chosen.config or paths.config_path()).absolute(),
            (chosen.socket or paths.socket_path()).absolute(),
            (chosen.state_dir or paths.state_dir()).absolute(),
        )
    except Error as error:
        return exits.complain(error)
