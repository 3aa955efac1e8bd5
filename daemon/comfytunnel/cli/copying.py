"""Copies of a job's files, where the user wants them (`-o`): under their own names, as far as those can be trusted, never over a file."""

from __future__ import annotations

import re
from pathlib import Path

from comfytunnel import wire
from comfytunnel.client import Client
from comfytunnel.errors import StateError, UsageError
from comfytunnel.printable import printable


def make_folder(folder: Path) -> None:
    """Make the folder if it is not there. UsageError if that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"The folder {folder} cannot be made: {error.strerror}.") from error


def copy(client: Client, output: wire.Output, folder: Path) -> Path:
    """Write the output into `folder` under its own name, or name-1, name-2, ... where that is taken; never over a file."""
    name = _file_name(output)
    number = 0
    while True:
        path = folder / (f"{name.stem}-{number}{name.suffix}" if number else name.name)
        try:
            file = path.open("xb")  # O_EXCL: neither a file nor a link is written through
        except FileExistsError:
            number += 1
            continue
        except OSError as error:
            raise StateError(f"{path} cannot be written: {error.strerror}.") from error
        try:
            with file:
                client.download(output.id, file)
        except BaseException as error:
            path.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise StateError(f"{path} cannot be written: {error.strerror}.") from error
            raise
        return path


def _file_name(output: wire.Output) -> Path:
    """Return a plain file name: the far side chose it, so of its path and odd characters nothing is kept."""
    given = Path(printable(output.comfytunnel.path if output.comfytunnel else output.name)).name
    plain = re.sub(r"[^\w .()+-]", "_", given).strip(". ")
    return Path(plain[-120:] or "output")
