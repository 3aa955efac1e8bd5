"""`python -m comfytunnel` and the command `comfytunnel` begin here, and only here."""

from __future__ import annotations

import os
import sys

STATUS_FLAGS = {"--json", "--watch", "--history"}


def main() -> None:
    """Run the command line of this process and exit. The daemon and `status` come first: they do without the library of the rest."""
    if sys.argv[1:2] == ["daemon"]:
        from comfytunnel.cli.daemon import main as daemon

        sys.exit(daemon(sys.argv[2:]))
    plain = STATUS_FLAGS.issuperset(sys.argv[2:]) and "_COMFYTUNNEL_COMPLETE" not in os.environ
    if (
        sys.argv[1:2] == ["status"] and plain
    ):  # asked by prompts and scripts all day: half the time without that library
        from comfytunnel.cli.status import main as status

        sys.exit(status(sys.argv[2:]))
    if (
        "_COMFYTUNNEL_COMPLETE" in os.environ
    ):  # somebody has pressed TAB: typer needs no rich for that, and takes our words for its markup
        sys.modules["rich"] = None  # type: ignore[assignment]  # Python's word for "not found"
    from comfytunnel.cli.main import main as commands

    commands()


if __name__ == "__main__":
    main()
