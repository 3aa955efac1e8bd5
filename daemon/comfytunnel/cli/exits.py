"""How a command speaks and ends: products to stdout, all else to stderr, and the one table from errors to exit codes."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator

from comfytunnel import wire
from comfytunnel.cli.render import json_text
from comfytunnel.errors import (
    ConfigError,
    Error,
    NotFoundError,
    NotRunningError,
    RefusedError,
    TimedOutError,
    UsageError,
)
from comfytunnel.printable import printable

DONE = 0
FAILED = 1  # the job, the check
USAGE = 2  # the command line, or the config
NOT_RUNNING = 3
TIMED_OUT = 4
REFUSED = 5  # a second daemon too

UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}

CODES: dict[type[Error], int] = {
    ConfigError: USAGE,
    UsageError: USAGE,
    NotFoundError: USAGE,  # a tunnel or a job that was named and does not exist
    NotRunningError: NOT_RUNNING,
    TimedOutError: TIMED_OUT,
    RefusedError: REFUSED,
}
"""Exit codes by class, the nearest ancestor counts; every other error is FAILED."""


def exit_code(error: Error) -> int:
    return next((CODES[kind] for kind in type(error).__mro__ if kind in CODES), FAILED)


def complain(error: Error, *, as_json: bool = False) -> int:
    """Write the error and its hint to stderr and return the exit code. Every mistake of a config gets a line.

    With `as_json` it is the API's envelope instead, one line on stdout, where a program reads.
    """
    if as_json:
        details = {**error.details, **({"hint": error.hint} if error.hint else {})}
        if isinstance(error, ConfigError):
            details |= {"source": error.source, "problems": error.problems}
        tell(json_text(wire.ErrorEnvelope(wire.ErrorBody(error.code_on_wire, error.message, details))))
    elif isinstance(error, ConfigError) and len(error.problems) > 1:
        say(f"error: {error.source or 'the config'} has {len(error.problems)} mistakes:")
        for problem in error.problems:
            say(f"  {problem.path}: {problem.message}" if problem.path else f"  {problem.message}")
            if problem.hint:
                say(f"    {problem.hint}")
    else:
        say(f"error: {error.message}")
        if error.hint:
            say(f"  {error.hint}")
    return exit_code(error)


@contextlib.contextmanager
def output_may_fail() -> Iterator[None]:
    """Around a whole command: an stdout that takes no more (a full disk) ends it with a sentence. A reader that has left (EPIPE) is typer's."""
    try:
        yield
    except OSError as error:
        if error.errno not in UNWRITABLE or error.filename is not None:  # a file: then it is not stdout
            raise
        say(f"error: The output cannot be written: {error.strerror}.")
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), 1
        )  # what stdout still holds would fail once more at the exit
        sys.exit(FAILED)


def say(text: str) -> None:
    """Write a line to stderr, safely."""
    sys.stderr.write(printable(text) + "\n")
    sys.stderr.flush()


def tell(text: str) -> None:
    """Write text that is safe already to stdout: the product of a command."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
