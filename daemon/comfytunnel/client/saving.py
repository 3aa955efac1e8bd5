"""An output's file on the user's side: under which name, and never over a file that nobody named. It knows no socket.

The far side chose the names: of its paths and odd characters nothing is kept.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from comfytunnel import wire
from comfytunnel.errors import StateError
from comfytunnel.printable import printable


def plain_name(output: wire.Output) -> Path:
    """Return a plain file name for the output, at most 120 characters."""
    given = Path(printable(output.comfytunnel.path if output.comfytunnel else output.name)).name
    plain = re.sub(r"[^\w .()+-]", "_", given).strip(". ")
    return Path(plain[-120:] or "output")


def in_a_folder(folder: Path | str) -> Path:
    """Return the folder, made if it is missing. StateError when it cannot be."""
    into = Path(folder)
    try:
        into.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StateError(f"The folder {into} cannot be made: {error.strerror}.") from error
    return into


@contextlib.contextmanager
def writing(output: wire.Output, to: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A file to write the output's bytes to, and where it will be; what was begun is taken away again when the block raises.

    In a folder that exists it gets its plain name, or name-1, name-2, ... where that is taken. Any other `to` is the file itself: it takes the place of
    one that is there, whole or not at all. StateError when it cannot be written.
    """
    try:
        file, now, path = _in_folder(plain_name(output), to) if to.is_dir() else _beside(to)
    except OSError as error:
        raise StateError(f"{to} cannot be written: {error.strerror}.") from error
    try:
        with file:
            yield file, path
        if now != path:
            now.replace(path)
    except BaseException as error:
        now.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise StateError(f"{path} cannot be written: {error.strerror}.") from error
        raise


def _in_folder(name: Path, folder: Path) -> tuple[BinaryIO, Path, Path]:
    number = 0
    while True:
        path = folder / (f"{name.stem}-{number}{name.suffix}" if number else name.name)
        try:
            return path.open("xb"), path, path  # O_EXCL: neither a file nor a link is written through
        except FileExistsError:
            number += 1


def _beside(path: Path) -> tuple[BinaryIO, Path, Path]:
    now = path.with_name(f".{path.name[:80]}.{uuid4().hex}")
    return now.open("xb"), now, path
