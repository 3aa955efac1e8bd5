"""A question to the person at the terminal. Where there is none nothing is asked, and nothing is taken for an answer."""

from __future__ import annotations

import sys
from collections.abc import Callable

from comfytunnel.errors import Error, UsageError
from comfytunnel.printable import printable


def asker(stopped: str) -> Callable[[str], bool] | None:
    """Return how to ask a person yes or no, or None where there is none. Ctrl-C at a question is an Error that says `stopped`."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return None

    def ask(question: str) -> bool:
        try:  # Ctrl-C may come as soon as the question can be seen
            sys.stdout.write(f"{printable(question)} [y/N] ")
            sys.stdout.flush()
            return sys.stdin.readline().strip().lower() in {"y", "yes"}
        except KeyboardInterrupt:
            sys.stdout.write("\n")
            raise Error(stopped) from None

    return ask


def agree(question: str, *, yes: bool, stopped: str, quiet: bool = False) -> None:
    """Return if somebody agrees to lose what cannot be made again, by `yes` or at the terminal; with `quiet` nobody is asked. UsageError if nobody can be, Error that
    says `stopped` for a no."""
    if yes:
        return
    ask = None if quiet else asker(stopped)
    if ask is None:
        raise UsageError(f"{question} Nobody is there to agree. {stopped}", hint="Say --yes to agree.")
    if not ask(question):
        raise Error(stopped)
