"""`python -m comfytunnel` and the command `comfytunnel` begin here, and only here."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line of this process and exit. The daemon comes first: it does without the library of the rest."""
    if sys.argv[1:2] == ["daemon"]:
        from comfytunnel.cli.daemon import main as daemon

        sys.exit(daemon(sys.argv[2:]))
    if (
        "_COMFYTUNNEL_COMPLETE" in os.environ
    ):  # somebody has pressed TAB: typer needs no rich for that, and takes our words for its markup
        sys.modules["rich"] = None  # type: ignore[assignment]  # Python's word for "not found"
    from comfytunnel.cli.main import main as commands

    commands()


if __name__ == "__main__":
    main()
