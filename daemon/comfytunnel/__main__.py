"""`python -m comfytunnel` and the command `comfytunnel` begin here, and only here."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line of this process and exit. The daemon comes first: it does without the library of the rest."""
    if sys.argv[1:2] == ["daemon"]:
        from comfytunnel.cli.daemon import main as daemon

        sys.exit(daemon(sys.argv[2:]))
    from comfytunnel.cli.main import main as commands

    commands()


if __name__ == "__main__":
    main()
