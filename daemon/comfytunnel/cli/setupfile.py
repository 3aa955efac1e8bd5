"""The config file itself, as text: read whole, replaced in one step, with what was there kept beside it. What is in it is config.py's."""

from __future__ import annotations

import os
import tempfile
from datetime import datetime
from pathlib import Path

from comfytunnel.errors import StateError, UsageError
from comfytunnel.paths import make_private_folder


def read(path: Path) -> str | None:
    """Return the text, None where there is no file. UsageError if it is no text, StateError if it cannot be read."""
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not a text (byte {error.start}).", hint="Move it away first.") from None
    except OSError as error:
        raise StateError(
            f"{path} cannot be read: {error.strerror}.", hint="Check its permissions."
        ) from error


def put(path: Path, old: str | None, text: str, now: datetime) -> Path | None:
    """Write the file in one step, 0600, through a link to what it points to; return the backup of what was there."""
    make_private_folder(path.parent)
    real = path.resolve()
    try:
        backup = None if old is None else _backup(path, old, now)
        if read(path) != old:
            raise UsageError(f"{path} was changed by another program just now.", hint="Run setup again.")
        replace(real, text)
    except OSError as error:
        raise StateError(
            f"{path} cannot be written: {error.strerror}.",
            hint="It is as it was; check the disk and the folder.",
        ) from error
    return backup


def _backup(path: Path, text: str, now: datetime) -> Path:
    """Keep the text beside the config under a name that no backup has yet."""
    stem = f"{path.name}.bak-{now:%Y%m%d-%H%M%S}"
    for number in range(1, 100):
        backup = path.with_name(stem if number == 1 else f"{stem}-{number}")
        try:
            handle = os.open(backup, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            continue
        _write(handle, text)
        return backup
    raise StateError(f"There are 99 backups of this second beside {path}.", hint="Wait a second.")


def replace(real: Path, text: str) -> None:
    """Write the file in one step, 0600: whoever reads it sees the old or the new. OSError."""
    handle, temporary = tempfile.mkstemp(dir=real.parent, prefix=f".{real.name}.")  # mkstemp makes it 0600
    try:
        _write(handle, text)
        Path(temporary).replace(real)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(real.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _write(handle: int, text: str) -> None:
    with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(handle)
